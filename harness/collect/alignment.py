"""Two hosts' clocks, held against each other by questions and answers over a channel that is there.

Cristian's method with NTP's four times (RFC 5905, section 8): of several round trips the shortest
bounds the error best. Pure; knows no channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.core import clock

MAX_DRIFT = 200e-6  # a clock that nobody disciplines errs by some 50 us a second at most


class Round(NamedTuple):
    """One question and its answer, ns: asked and answered by our clock, heard and said by theirs."""

    asked_ns: int
    heard_ns: int
    said_ns: int
    answered_ns: int

    @property
    def travel_ns(self) -> int:
        """Both ways together, without the time that they thought about it."""
        return (self.answered_ns - self.asked_ns) - (self.said_ns - self.heard_ns)


@dataclass(frozen=True)
class Offset:
    """Their clock is ours + offset_ns, and surely within error_ns of that."""

    offset_ns: int
    error_ns: int


SAME = Offset(0, 0)
"""Of a process that reads the very same clock."""


def offset(rounds: Sequence[Round]) -> Offset:
    """From the round with the shortest travel; half of that is the error. Raises ValueError without one."""
    best = min((one for one in rounds if one.travel_ns >= 0), key=lambda one: one.travel_ns, default=None)
    if best is None:
        raise ValueError("no round trip came back in order")
    twice = (best.heard_ns - best.asked_ns) + (best.said_ns - best.answered_ns)
    return Offset(twice // 2, (best.travel_ns + 1) // 2)


def error_ns(start: Offset, end: Offset) -> int:
    """How far a time of theirs may be off that was read with `start` at any time up to `end`."""
    return max(start.error_ns, end.error_ns) + abs(end.offset_ns - start.offset_ns)


def step(start: Offset, end: Offset, elapsed_ns: int) -> str | None:
    """Why times between the two can't be trusted: the clocks parted by more than a clock drifts; else None."""
    moved_ns = end.offset_ns - start.offset_ns
    if abs(moved_ns) <= start.error_ns + end.error_ns + MAX_DRIFT * elapsed_ns:
        return None
    return (
        f"its clock moved by {moved_ns / clock.MS:.3f} ms against the master's within "
        f"{elapsed_ns / clock.NS:.1f} s, which is no drift: its times can't be placed"
    )
