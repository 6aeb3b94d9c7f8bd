"""The oracle of the witness engine: which token of the chain each word is, and in which class it falls.

DESIGN section 7: each token is accepted, duplicated, reordered, foreign or extra; what never came is lost
when a later one did, and a short stream when none did. Knows nothing of HTTP, events or times.
"""

from __future__ import annotations

from harness.core import words

WINDOW = 64  # a word further ahead of the expected one than this is foreign, not a jump


class Chain:
    """Walks through the answer to key (a, b), of which `n` tokens are expected (0 < n <= P).

    low, high: the part of the answer that is being read; words of another part are foreign to it.
    """

    __slots__ = (
        "_a", "_b", "_expected_text", "_extra_seen", "_inverse", "_known", "_seen", "duplicated", "expected",
        "extra", "foreign", "high", "low", "n", "reordered", "withheld",
    )  # fmt: skip

    def __init__(self, a: int, b: int, n: int) -> None:
        words.check_key(a, b)
        self.n = n
        self.expected = 0  # one above the highest accepted token
        self.low, self.high = 0, n
        self.withheld = 0  # words that a server keeps to itself; they are not lost
        self.duplicated = self.reordered = self.foreign = self.extra = 0
        self._a, self._b, self._inverse = a, b, words.inverse(b)
        self._seen = bytearray(n)
        self._known = 0  # tokens below `expected` that were seen
        self._extra_seen: set[int] = set()
        self._expected_text = " " + words.WORDS[a]

    @property
    def lost(self) -> int:
        """Tokens below the highest accepted one that never came."""
        return self.expected - self._known

    @property
    def short(self) -> bool:
        """The tail is missing."""
        return self.expected < self.n

    def withhold(self, count: int) -> None:
        """The first `count` words won't come, and nobody promised them."""
        for i in range(self.expected, count):
            self._accept(i)
        self.withheld = count

    def ahead(self) -> tuple[str, int, int, int]:
        """The text accepted last, the word to come, the step between words, and how many may still come."""
        last = words.WORDS[(self._a + (self.expected - 1) * self._b) % words.P]
        return " " + last, (self._a + self.expected * self._b) % words.P, self._b, self.n - self.expected

    def accept(self, count: int) -> None:
        """The next `count` tokens came, each as expected."""
        self._seen[self.expected : self.expected + count] = b"\1" * count
        self._known += count
        self._expect(self.expected + count)

    def take(self, text: str) -> int:
        """Judge the tokens of one piece of text; how many there were.

        A token is a space and a word, nothing else: what doesn't start with a space, an empty word
        or half a word is one foreign token.
        """
        if text == self._expected_text and self.low <= self.expected < self.high:  # by far the usual case
            self._accept(self.expected)
            return 1
        if not text:
            return 0
        first, *rest = text.split(" ")
        if first:
            self.foreign += 1
        for word in rest:
            self._word(word)
        return len(rest) + bool(first)

    def _word(self, word: str) -> None:
        index = words.INDEX.get(word)
        i = -1 if index is None else words.position(index, self._a, self._inverse)
        if i < 0 or (i < self.n and not self.low <= i < self.high):
            self.foreign += 1
        elif i < self.n:
            if self._seen[i]:
                self.duplicated += 1
            elif i < self.expected:
                self.reordered += 1
                self._seen[i] = 1
                self._known += 1
            elif i - self.expected <= WINDOW:
                self._accept(i)
            else:
                self.foreign += 1
        elif i in self._extra_seen:
            self.duplicated += 1
        elif i == self.n + self.extra and self._seen[self.n - 1]:
            self.extra += 1
            self._extra_seen.add(i)
        else:
            self.foreign += 1

    def _accept(self, i: int) -> None:
        self._seen[i] = 1
        self._known += 1
        self._expect(i + 1)

    def _expect(self, i: int) -> None:
        self.expected = i
        self._expected_text = " " + words.WORDS[(self._a + self.expected * self._b) % words.P]
