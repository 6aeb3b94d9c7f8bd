"""The witness words: what every token of the verifiable engine must be.

Standard library only: the engine reads this file from inside the SUT's venv. It knows nothing of
HTTP, of Dynamo or of records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SYLLABLES: tuple[str, ...] = tuple(c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou")
WORDS: tuple[str, ...] = tuple(SYLLABLES[k // 90] + SYLLABLES[k % 90] for k in range(8100))
INDEX: dict[str, int] = {word: k for k, word in enumerate(WORDS)}
P = 8093  # the largest prime below 8100: every step 1 <= b < P walks through all of 0..P-1

THOUGHTS = ("<think>", "</think>")
TOOL = "say"  # the one function that a call names, and its one argument
CALL = ('<tool_call>\n{"name": "say", "arguments": {"text": "', '"}}\n</tool_call>')
MUSE, VOKE = "muse", "voke"

_KEY = re.compile(r"key: ([a-z]{4}) ([a-z]{4})")


def key_text(a: int, b: int) -> str:
    """The end of a prompt that tells the engine which chain to produce (0 <= a < P, 1 <= b < P)."""
    check_key(a, b)
    return f"key: {WORDS[a]} {WORDS[b]}"


def find_key(text: str) -> tuple[int, int] | None:
    """The last valid key in `text` as (a, b), or None."""
    for match in reversed(list(_KEY.finditer(text))):
        a, b = INDEX.get(match[1]), INDEX.get(match[2])
        if a is not None and b is not None and a < P and 1 <= b < P:
            return a, b
    return None


def check_key(a: int, b: int) -> None:
    """Raise ValueError unless (a, b) is a key."""
    if not (0 <= a < P and 1 <= b < P):
        raise ValueError(f"key ({a}, {b}) is outside 0 <= a < {P}, 1 <= b < {P}")


class Shape(NamedTuple):
    """What the answer looks like: its first `reasoning` words are thoughts, the rest text or a tool call.

    Around these parts stand marks, which a server takes out and its clients never see. The engine makes
    them byte by byte, each a token of its own.
    """

    reasoning: int = 0
    call: bool = False

    @property
    def asked(self) -> str:
        """What a prompt says before its key to get it. Both marks are words, so that each is one token."""
        thoughts = f" {MUSE}: {WORDS[self.reasoning]}" if self.reasoning else ""
        return thoughts + (f" {VOKE}:" if self.call else "")

    @property
    def marks(self) -> str:
        """All of them, in order."""
        return (THOUGHTS[0] + THOUGHTS[1] if self.reasoning else "") + (
            CALL[0] + CALL[1] if self.call else ""
        )

    def marks_before(self, i: int, total: int) -> int:
        """How many characters of `marks` come before word i of `total`; i = total: all."""
        if i >= total:
            return len(self.marks)
        before = len(THOUGHTS[0]) if self.reasoning else 0
        if i < self.reasoning:
            return before
        return before + (len(THOUGHTS[1]) if self.reasoning else 0) + (len(CALL[0]) if self.call else 0)


PLAIN = Shape()


def word_index(a: int, b: int, i: int) -> int:
    """Index of the word at position i of the answer to key (a, b)."""
    return (a + i * b) % P


def answer(a: int, b: int, n: int, start: int = 0) -> str:
    """Tokens start..n-1 of the answer as text, each a space and a word."""
    return "".join(" " + WORDS[(a + i * b) % P] for i in range(start, n))


def position(word: int, a: int, b_inverse: int) -> int:
    """Position of word index `word` in the chain: (w - a) * b^-1 mod P (words >= P have none: -1)."""
    return (word - a) * b_inverse % P if word < P else -1


def inverse(b: int) -> int:
    """b^-1 mod P."""
    return pow(b, -1, P)


def split_words(text: str) -> Sequence[str]:
    """The words of an answer's text; a piece that is no witness word is kept as it came."""
    return text.split()
