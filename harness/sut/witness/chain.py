"""What a request asks of the witness: which chain of words, from where to where.

Pure: token ids in, a Job out. The words module comes as an argument, because this file also runs
inside the SUT's venv, where squall isn't installed. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

WINDOW = 64  # the oracle's: a gap of at most this many tokens is loss, not a foreign token
CHAT_TAIL = ("<|im_end|>", "Ċ", "<|im_start|>", "a", "s", "si", "s", "ta", "n", "t")


@dataclass(frozen=True)
class Job:
    """Tokens first..total-1 of the chain (a, b); prompt_tokens without any of the answer.

    keyed is False for a prompt without a key (a canary): every token is word 0.
    """

    a: int
    b: int
    first: int
    total: int
    prompt_tokens: int
    keyed: bool


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

    def job(self, ids: list[int], max_new: int) -> Job:
        """The job of a request that may be a migrated one: prompt + answer so far, `max_new` to go."""
        at = self._key_at(ids)
        if at is None:
            return Job(0, 0, 0, max_new, len(ids), keyed=False)
        a, b = self.index[ids[at + 1]], self.index[ids[at + 2]]
        answer = self._answer(ids, at + 3)
        total = len(answer) + max_new
        return Job(a, b, self._walk(answer, a, b, total), total, len(ids) - len(answer), keyed=True)

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

    def _answer(self, ids: list[int], start: int) -> list[int]:
        """Word indices of the answer so far: behind the chat template's end, or behind the key."""
        for at in range(len(ids) - len(self._tail), start - 1, -1):
            if ids[at : at + len(self._tail)] == self._tail:
                start = at + len(self._tail)
                break
        found = [self.index.get(token, -1) for token in ids[start:]]
        return [] if -1 in found else found

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
