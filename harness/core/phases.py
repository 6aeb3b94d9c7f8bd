"""Phases of the load: named stretches in which more or fewer users are active, or arrivals are denser.

Pure arithmetic over the scenario's `load.phases`; seconds count from the end of warm-up. Warm-up has the
first phase's level and what comes after the load (recovery of faults, drain) the last one's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.errors import ScenarioError

if TYPE_CHECKING:
    from harness.core.config import Load, Phase, UserClass

TOLERANCE_S = 1e-6  # two ways to write one sum


@dataclass(frozen=True)
class Span:
    """One phase in time."""

    phase: Phase
    start_s: float
    end_s: float

    @property
    def name(self) -> str:
        return self.phase.name


def spans(load: Load) -> tuple[Span, ...]:
    """Every phase with its stretch, in order; none when the load has no phases."""
    found, at_s = [], 0.0
    for phase in load.phases:
        end_s = round(at_s + phase.duration_s, 9)
        found.append(Span(phase, at_s, end_s))
        at_s = end_s
    return tuple(found)


def of(load: Load, name: str) -> Span | None:
    """The phase of that name."""
    return next((span for span in spans(load) if span.name == name), None)


def at(load: Load, t_s: float) -> Span | None:
    """The phase at `t_s`; before the first and after the last one those. None without phases."""
    found = spans(load)
    return next((span for span in found if t_s < span.end_s), found[-1] if found else None)


def stretch(load: Load, name: str | None) -> tuple[float, float]:
    """What a fault's step counts from, and until when it must have struck: its phase, else the load."""
    span = None if name is None else of(load, name)
    return (0.0, load.duration_s) if span is None else (span.start_s, span.end_s)


def label(phase: Phase) -> str:
    """Name and level, for people."""
    rate = "" if phase.rate_ratio == 1 else f", arrivals x {phase.rate_ratio:g}"
    return f"{phase.name}: users x {phase.users_ratio:g}{rate}"


def active(user: UserClass, phase: Phase | None) -> int:
    """Users of an entry that are active in a phase: count x users_ratio, a half rounded up."""
    return user.count if phase is None else math.floor(user.count * phase.users_ratio + 0.5)


def peak(load: Load, user: UserClass) -> int:
    """Users that an entry needs: its most in any phase, and at least one; none for a share of arrivals."""
    if not load.phases or not user.count:
        return user.count
    return max([1, *(active(user, phase) for phase in load.phases)])


def active_users(load: Load, t_s: float) -> int:
    """Users of all entries that are active at `t_s`."""
    span = at(load, t_s)
    return sum(active(user, None if span is None else span.phase) for user in load.users)


def next_start_s(load: Load, user: UserClass, rank: int, t_s: float) -> float | None:
    """When user `rank` (0, 1, ...) of an entry may send from `t_s` on: `t_s` itself while it is active,
    else the start of its next active phase. None: never again."""
    now = at(load, t_s)
    if now is None or rank < active(user, now.phase):
        return t_s
    later = (span for span in spans(load) if span.start_s > t_s)
    return next((span.start_s for span in later if rank < active(user, span.phase)), None)


def fill_duration(load: Any) -> Any:
    """`load` as it is written, with the sum of its phases as duration_s where that is left out."""
    if not isinstance(load, dict) or "duration_s" in load or not load.get("phases"):
        return load
    given = load["phases"]
    parts = (
        [one.get("duration_s") if isinstance(one, dict) else None for one in given]
        if isinstance(given, list)
        else []
    )
    seconds = [part for part in parts if isinstance(part, int | float)]
    if not seconds or len(seconds) != len(parts):
        return load  # what is wrong with them is said by the types
    return {**load, "duration_s": round(math.fsum(seconds), 9)}


def check_sum(load: Load, file: str) -> None:
    """Raise ScenarioError when duration_s says something else than the phases do."""
    total_s = math.fsum(phase.duration_s for phase in load.phases)
    if load.phases and abs(total_s - load.duration_s) > TOLERANCE_S:
        raise ScenarioError(
            file, "load.duration_s", f"{load.duration_s:g} contradicts load.phases, which last {total_s:g} s",
            "leave it out, or change the phases",
        )  # fmt: skip
