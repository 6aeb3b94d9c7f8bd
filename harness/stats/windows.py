"""Windows: which stretches of the run a metric is taken over, by name.

Half-open [start, end) in ns on the run axis, so that `steady` and the others share no instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.core import phases
from harness.core.clock import NS
from harness.core.config import Scenario
from harness.stats import events
from harness.stats.analysis import FaultEvent, Interval, Window


def build(
    scenario: Scenario, duration_s: float, found: Sequence[FaultEvent], horizon_ns: int
) -> dict[str, Window]:
    """All windows of a run, by name; `horizon_ns` ends what nobody ended.

    all: [warmup_s, warmup_s + duration_s). fault:<id>: [effective, undo requested), for faults that take
    a process away to the end of the restart, hull over its targets. recovery:<id>: [gone, recovered), at
    most recover_timeout_s. steady: all, less every fault and recovery window; several intervals.
    phase:<name>: that phase of the load, as far as the load got.
    """
    start = round(scenario.load.warmup_s * NS)
    whole = (start, start + round(duration_s * NS))
    horizon = max(horizon_ns, whole[1])
    named: list[Window] = []
    for fault_id in events.fault_ids(found):
        of_id = events.of_id(found, fault_id)
        fault = [(e.effective_ns or 0, horizon if e.end_ns is None else e.end_ns) for e in of_id]
        named.append(Window(f"fault:{fault_id}", "fault", fault_id, _hull(fault)))
        limit = round(scenario.recover_timeout_s * NS)
        recovery = [
            (e.gone_ns, min(e.gone_ns + limit, horizon if e.recovered_ns is None else e.recovered_ns))
            for e in of_id
            if e.gone_ns is not None
        ]
        named.append(Window(f"recovery:{fault_id}", "recovery", fault_id, _hull(recovery)))
    disturbed = [interval for window in named for interval in window.intervals]
    windows = [
        Window("all", "all", None, (whole,) if whole[1] > whole[0] else ()),
        Window("steady", "steady", None, subtract(whole, disturbed)),
        *_phases(scenario, whole),
        *named,
    ]
    return {window.name: window for window in windows}


def _phases(scenario: Scenario, whole: Interval) -> list[Window]:
    found = []
    for span in phases.spans(scenario.load):
        start, end = (min(whole[0] + round(t_s * NS), whole[1]) for t_s in (span.start_s, span.end_s))
        found.append(Window(f"phase:{span.name}", "phase", None, ((start, end),) if end > start else ()))
    return found


def _hull(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """One interval from the first start to the last end; none when that is empty."""
    if not intervals:
        return ()
    start, end = min(a for a, _ in intervals), max(b for _, b in intervals)
    return ((start, end),) if end > start else ()


def subtract(whole: Interval, holes: Iterable[Interval]) -> tuple[Interval, ...]:
    """What is left of `whole` without `holes`: sorted, disjoint, none empty."""
    left, at = [], whole[0]
    for start, end in sorted((a, b) for a, b in holes if b > a):
        if start > at:
            left.append((at, min(start, whole[1])))
        at = max(at, end)
    left.append((at, whole[1]))
    return tuple((a, b) for a, b in left if b > a)


def overlap(intervals: Iterable[Interval], one: Interval) -> tuple[Interval, ...]:
    """What of `intervals` lies within `one`."""
    cut = ((max(start, one[0]), min(end, one[1])) for start, end in intervals)
    return tuple((start, end) for start, end in cut if end > start)


def names(scenario: Scenario) -> list[str]:
    """Names of the windows that a run of this scenario can have (repeats of a step left out)."""
    ids = [step.id for step in scenario.faults]
    of_load = [f"phase:{phase.name}" for phase in scenario.load.phases]
    of_faults = [f"{kind}:{i}" for i in ids for kind in ("fault", "recovery")]
    return ["all", "steady", *of_load, *of_faults]


def exists(scenario: Scenario, name: str) -> bool:
    """Can a run of this scenario have window `name`? Repeats of a step are `<id>-2`, `<id>-3`, ..."""
    if name in names(scenario):
        return True
    match = re.fullmatch(r"(fault|recovery):(.+)-([2-9]|[1-9]\d+)", name)
    return match is not None and any(s.id == match[2] and s.every_s is not None for s in scenario.faults)
