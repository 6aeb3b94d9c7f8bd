"""One request in the witness: what it sends next, when, and what keeps it from it.

Knows nothing of Dynamo but the context's two flags. Standard library only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from capacity import Seat
from chain import WINDOW, Job, Vocabulary
from lies import Lies, Rule


@dataclass(eq=False)
class Stream:
    """Mutable state of a request; `following` is the index of the next token to plan."""

    request_id: str
    context: Any
    job: Job
    seat: Seat
    received: int  # tokens of the prompt as it came: original prompt + answer so far
    planned: dict[Rule, int]  # request-level lies, with the token index they wait for
    following: int
    made: int = 0
    marked: int = 0  # marks of the job that are planned or were made
    pending: deque[int] = field(default_factory=deque)  # token ids planned, not sent yet
    waiter: asyncio.Future[bool] | None = None
    aborted: bool = False
    let_in_ns: int | None = None  # CLOCK_MONOTONIC, when it left the queue
    reason: str = "aborted"
    held_by: Rule | None = None  # it is silent because of this one
    slowed_by: set[Rule] = field(default_factory=set)

    def left(self) -> bool:
        """True while there is something to send."""
        return bool(self.pending) or self.following < self.job.total or self.marked < len(self.job.marks)

    def mark(self) -> None:
        """Put the marks before the next word on their way; after the last one, those that end the answer."""
        before = self.job.marks_before(self.following)
        self.pending.extend(self.job.marks[self.marked : before])
        self.marked = max(self.marked, before)

    @property
    def next_word(self) -> int:
        """Index of the first word that wasn't sent."""
        return self.following - sum(token not in self.job.marks for token in self.pending)

    def chunk(self, most: int) -> list[int]:
        """What goes out next, together: marks that follow each other, else up to `most` words."""
        marks = self.job.marks
        marked = self.pending[0] in marks
        found = [self.pending.popleft()]
        while self.pending and (self.pending[0] in marks) == marked and (marked or len(found) < most):
            found.append(self.pending.popleft())
        return found

    def stopped(self) -> bool:
        """True when nobody wants the rest."""
        return self.aborted or bool(self.context.is_stopped() or self.context.is_killed())

    def abort(self) -> None:
        """Stop, at once when it waits for something."""
        self.aborted = True
        if self.waiter is not None:
            _wake(self.waiter)

    async def until(self, due: float | None) -> bool:
        """Sleep to `due` (time.monotonic; None: for ever); False when the request was stopped."""
        if self.stopped():
            return False
        left = 0.0 if due is None else due - time.monotonic()
        if due is not None and left <= 0:
            return True
        loop = asyncio.get_running_loop()
        waiter = self.waiter = loop.create_future()
        timer = None if due is None else loop.call_later(left, _wake, waiter)
        try:
            await waiter
        finally:
            self.waiter = None
            if timer is not None:
                timer.cancel()
        return not self.stopped()

    async def hold(self, rule: Rule) -> bool:
        """Silence until the rule is taken back (True) or the request was stopped (False)."""
        self.held_by = rule
        try:
            return await self.until(None)
        finally:
            self.held_by = None

    def spare(self, rule: Rule) -> None:
        """The rule was taken back: what it planned is off, what it held goes on at its own pace."""
        self.planned.pop(rule, None)
        self.slowed_by.discard(rule)
        if self.held_by is rule and self.waiter is not None:
            _wake(self.waiter)

    def event(self, lies: Lies) -> Rule | None:
        """The request-level lie that is due before the next token."""
        for rule, at in self.planned.items():
            if rule.kind != "naive_usage" and at == self.following:
                del self.planned[rule]
                if self.job.keyed:
                    lies.note(rule, self.request_id)
                return rule
        return None

    def fill(
        self, most: int, vocabulary: Vocabulary, lies: Lies, everybody: Callable[[], Sequence[Stream]]
    ) -> None:
        """Plan until `most` tokens are on their way; a lie about the whole request comes first."""
        waiting = {at for rule, at in self.planned.items() if rule.kind != "naive_usage"}
        while len(self.pending) < most and self.following < self.job.total and self.following not in waiting:
            self.plan(vocabulary, lies, everybody)

    def plan(self, vocabulary: Vocabulary, lies: Lies, everybody: Callable[[], Sequence[Stream]]) -> bool:
        """Decide what goes out for the next index; False when nothing does (a dropped token)."""
        job, i = self.job, self.following
        self.mark()
        if i >= job.total:
            return bool(self.pending)
        right = vocabulary.token(job, i)
        rule = lies.for_token(i, job.total) if job.keyed else None
        self.following += 1
        if rule is None:
            self.pending.append(right)
            return True
        kind = rule.kind
        if kind == "repeat":
            self.pending.extend((right, right))
        elif kind == "swap":
            self.pending.extend((vocabulary.token(job, i + 1), right))
            self.following += 1
            lies.skip_token()
        elif kind == "corrupt":
            self.pending.append(vocabulary.ids[vocabulary.p + i % 7])  # in nobody's chain
        elif kind == "cross":
            self.pending.append(self._foreign(vocabulary, everybody()))
        lies.note(rule, self.request_id)
        return bool(self.pending)

    def _foreign(self, vocabulary: Vocabulary, everybody: Sequence[Stream]) -> int:
        """A token of another stream's chain that can't be taken for one of this stream's."""
        others = [stream for stream in everybody if stream is not self]
        other = others[0].job if others else Job(self.job.b, self.job.a + 1, 0, 0, 0, keyed=True)
        start = others[0].following if others else 0
        for k in range(vocabulary.p):
            word = (other.a + (start + k) * other.b) % vocabulary.p
            if vocabulary.position(self.job, word) >= self.job.total + 2 * WINDOW:
                return vocabulary.ids[word]
        return vocabulary.ids[vocabulary.p]  # an answer as long as the chain


def _wake(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
