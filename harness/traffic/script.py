"""What one user asks, in order: single questions, or conversations whose history grows by our own words.

The answer to a question is known before it is asked (words.py), so the history of turn t, and with it the
whole request, is a pure function of (seed, class, user, k), whatever came back. Turns of conversation c
have k = c x TURNS + t.
"""

from __future__ import annotations

from dataclasses import replace

from harness.core import ids, lengths, words
from harness.core.check_load import MAX_TURNS as TURNS
from harness.core.config import UserClass
from harness.core.trace import Row
from harness.sut import model
from harness.traffic import prompts
from harness.traffic.prompts import Prompt


class Script:
    """Questions of one user. `once`: one question or one conversation, then None."""

    def __init__(
        self, seed: int, spec: UserClass, user: int, base_tokens: int, row: Row | None = None,
        block: int = 0, once: bool = False,
    ) -> None:  # fmt: skip
        self._seed, self._spec, self._user, self._base_tokens = seed, spec, user, base_tokens
        self._row, self._block, self._once = row, block, once
        self._talk = 0  # the conversation, or the question
        self._turn = 0
        self._last: Prompt | None = None  # the turn before

    def next(self) -> tuple[int, Prompt] | None:
        """The next question and its k."""
        if self._once and self._talk > 0:
            return None
        if self._spec.conversation is None:
            k, self._talk = self._talk, self._talk + 1
            return k, self._prompt(k)
        k = self._talk * TURNS + self._turn
        asked = follow(self._last, self._prompt(k)) if self._last is not None else self._prompt(k)
        self._last, self._turn = asked, self._turn + 1
        if self._turn >= turns(self._seed, self._spec, self._user, self._talk):
            self._talk, self._turn, self._last = self._talk + 1, 0, None
        return k, asked

    def abandon(self, k: int) -> None:
        """Question k wasn't answered in full: its conversation is over."""
        if self._spec.conversation is not None:
            self._talk, self._turn, self._last = k // TURNS + 1, 0, None

    def _prompt(self, k: int) -> Prompt:
        return prompts.prompt(
            self._seed, self._spec, self._user, k, self._base_tokens, self._row, self._block
        )


def turns(seed: int, spec: UserClass, user: int, talk: int) -> int:
    """How many turns conversation `talk` of `user` has."""
    assert spec.conversation is not None
    return lengths.draw(spec.conversation.turns, ids.rng(seed, "turns", spec.user_class, user, talk))


def follow(before: Prompt, question: Prompt) -> Prompt:
    """`question` as the turn after `before`, whose answer was as it should be."""
    answer = words.answer(*before.key, before.output_tokens)
    history = (*before.history, ("user", before.text), ("assistant", answer))
    return replace(question, history=history, tokens=model.count_chat([*history, ("user", question.text)]))
