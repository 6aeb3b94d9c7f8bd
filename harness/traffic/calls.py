"""Tool calls of one answer: what their argument fragments say together, and which words are in them.

A fragment may end anywhere, in the middle of a word too. The witness's call has one argument, `text`.
Knows nothing of events or times.
"""

from __future__ import annotations

import json
import re

from harness.core import words

_VALUE = re.compile(r'\{\s*"text"\s*:\s*"')


class Arguments:
    """The arguments of one call, put together."""

    __slots__ = ("_at", "_ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self._at = 0  # read so far; 0: the value of `text` hasn't begun
        self._ended = False

    def add(self, fragment: str) -> str:
        """Take a fragment; the words of the value that are whole by now, each with its space."""
        self.text += fragment
        if self._at == 0:
            begun = _VALUE.match(self.text)
            if begun is None:
                return ""
            self._at = begun.end()
        if self._ended:
            return ""
        end = self.text.find('"', self._at)
        if end >= 0:
            self._ended = True
        else:
            end = len(self.text)
            last = self.text.rfind(" ", self._at)
            if last < 0 or self.text[last + 1 :] not in words.INDEX:  # the last word may not be whole
                end = max(last, self._at)
        found = self.text[self._at : end]
        self._at = end
        return found

    @property
    def is_json(self) -> bool:
        """Are they one JSON object?"""
        try:
            return isinstance(json.loads(self.text), dict)
        except ValueError:
            return False

    @property
    def has_value(self) -> bool:
        """Do they hold the witness's argument?"""
        return self._ended
