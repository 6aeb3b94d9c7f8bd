"""What a request asks of the witness: which chain of words, from where to where.

Pure: token ids in, a Job out. The words module comes as an argument, because this file also runs
inside the SUT's venv, where squall isn't installed. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

WINDOW = 64  # the oracle's: a gap of at most this many tokens is loss, not a foreign token
BYTES = {" ": "Ġ", "\n": "Ċ"}  # what the tokenizer writes for these bytes
CHAT_TAIL = ("<|im_end|>", "Ċ", "<|im_start|>", "a", "s", "si", "s", "ta", "n", "t")


@dataclass(frozen=True)
class Job:
    """Tokens first..total-1 of the chain (a, b); prompt_tokens without any of the answer.

    keyed is False for a prompt without a key (a canary): every token is word 0. `marks`: ids of the
    tokens around parts of the answer (see words.Shape), of which `marked` were made before.
    """

    a: int
    b: int
    first: int
    total: int
    prompt_tokens: int
    keyed: bool
    shape: Any = None
    marks: tuple[int, ...] = ()
    marked: int = 0

    def marks_before(self, i: int) -> int:
        """How many of `marks` come before word i; i = total: all."""
        return int(self.shape.marks_before(i, self.total)) if self.marks else 0


class Vocabulary:
    """Token ids of the words and of the markers, from the model's tokenizer.json."""

    def __init__(self, words: ModuleType, vocab: dict[str, int], special: dict[str, int]) -> None:
        self.p: int = words.P
        self.ids: list[int] = [vocab["Ġ" + word] for word in words.WORDS]
        self.index: dict[int, int] = {token: k for k, token in enumerate(self.ids)}
        self._inverse = words.inverse
        self._position = words.position
        both = {**vocab, **special}
        self._colon, self._y = vocab[":"], vocab["y"]
        self._ke = (vocab["ke"], vocab["Ġke"])
        self._tail = [both[token] for token in CHAT_TAIL]
        self._shape = words.Shape
        self._asked = (vocab["Ġ" + words.MUSE], vocab["Ġ" + words.VOKE])
        self._vocab = vocab

    def job(self, ids: list[int], max_new: int) -> Job:
        """The job of a request that may be a migrated one: prompt + answer so far, `max_new` to go."""
        at = self._key_at(ids)
        if at is None:
            return Job(0, 0, 0, max_new, len(ids), keyed=False)
        a, b = self.index[ids[at + 1]], self.index[ids[at + 2]]
        shape = self._shape_at(ids, at - 3)
        marks = tuple(self._vocab[BYTES.get(char, char)] for char in shape.marks)
        so_far = self._answer(ids, at + 3, frozenset(marks))
        answer = [word for word in so_far if word >= 0]
        marked = len(so_far) - len(answer)
        total = max(0, len(so_far) + max_new - len(marks))
        return Job(
            a, b, self._walk(answer, a, b, total), total, len(ids) - len(so_far), keyed=True,
            shape=shape if marks else None, marks=marks, marked=marked,
        )  # fmt: skip

    def token(self, job: Job, i: int) -> int:
        """Id of token i of the answer."""
        return self.ids[(job.a + i * job.b) % self.p if job.keyed else 0]

    def position(self, job: Job, word: int) -> int:
        """Where word index `word` stands in the job's chain, -1 when nowhere."""
        return int(self._position(word, job.a, self._inverse(job.b)))

    def _key_at(self, ids: list[int]) -> int | None:
        """Position of the `:` of the last valid `key: a b`."""
        for at in range(len(ids) - 3, 1, -1):
            if ids[at] == self._colon and ids[at - 1] == self._y and ids[at - 2] in self._ke:
                a, b = self.index.get(ids[at + 1]), self.index.get(ids[at + 2])
                if a is not None and b is not None and a < self.p and 1 <= b < self.p:
                    return at
        return None

    def _shape_at(self, ids: list[int], end: int) -> Any:
        """The shape that stands in the prompt up to `end`, just before the key."""
        muse, voke = self._asked
        call = end >= 1 and ids[end] == self._colon and ids[end - 1] == voke
        end -= 2 if call else 0
        thoughts = end >= 2 and ids[end - 1] == self._colon and ids[end - 2] == muse
        return self._shape(self.index.get(ids[end], 0) if thoughts else 0, call)

    def _answer(self, ids: list[int], start: int, marks: frozenset[int]) -> list[int]:
        """Word indices of the answer so far, -1 for a mark: behind the chat template's end, or behind the key."""
        for at in range(len(ids) - len(self._tail), start - 1, -1):
            if ids[at : at + len(self._tail)] == self._tail:
                start = at + len(self._tail)
                break
        rest = ids[start:]
        strange = any(token not in self.index and token not in marks for token in rest)
        return [] if strange else [self.index.get(token, -1) for token in rest]

    def _walk(self, answer: list[int], a: int, b: int, total: int) -> int:
        """The next index after the tokens that were sent, by the oracle's own rule."""
        inverse, following = self._inverse(b), 0
        for word in answer:
            i = self._position(word, a, inverse)
            if following <= i < total and i - following <= WINDOW:
                following = i + 1
        return following


def load_vocabulary(words: ModuleType, model_dir: Path) -> Vocabulary:
    """From <model_dir>/tokenizer.json. Raises KeyError when it isn't a tokenizer of witness words."""
    tokenizer = json.loads((model_dir / "tokenizer.json").read_bytes())
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return Vocabulary(words, tokenizer["model"]["vocab"], special)
