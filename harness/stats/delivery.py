"""What the generator was asked to send against what it sent, by window.

Open loop: the schedule is computed again (core/arrivals.py) and held against the records: arrivals that
were due in the window, how many began in it, how long they waited for that (coordinated omission, were it
not on record), how many never began. Closed loop: a user whose request begins later than it is due is
missing for that long; how slow the system is plays no part, because a user is due when its last answer has
ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core import arrivals, phases, trace
from harness.core.arrivals import USERS_FROM
from harness.core.clock import NS
from harness.core.config import Load, UserClass
from harness.core.errors import ScenarioError
from harness.stats.analysis import Delivery, Interval, Ints, Invariant, Window
from harness.stats.load import RunData
from harness.stats.streams import Bools, within

FEW = 20  # arrivals in a window: fewer say nothing about a rate


@dataclass(frozen=True)
class _Open:
    """Arrivals by user: when the first request of each was due and began."""

    due: Ints
    start: Ints
    scheduled: Ints | None  # when all were due; None: the trace is gone


def build(data: RunData, windows: Mapping[str, Window]) -> tuple[Delivery, ...]:
    """A row for each kind of load in `all` and in each phase; none for records without users."""
    users = data.frame["user"]
    if not len(users) or users.isna().any():
        return ()
    number = users.to_numpy(np.int64)
    spans = {
        name: w.intervals[0] for name, w in windows.items() if w.kind in ("all", "phase") and w.intervals
    }
    found: list[Delivery] = []
    if data.scenario.load.arrivals is not None:
        of_open = _open(data, number)
        found += [_of_arrivals(data, of_open, name, span) for name, span in spans.items()]
    if any(user.weight is None for user in data.scenario.load.users):
        closed = number < USERS_FROM
        absent = _absent(data, number[closed])
        found += [_of_users(data, closed, absent, name, span) for name, span in spans.items()]
    return tuple(found)


def invariant(data: RunData, rows: tuple[Delivery, ...]) -> Invariant:
    """The load was what was asked for: where it wasn't, and no limit of the scenario's explains it, the
    generator was too slow."""
    least = data.scenario.generator.delivered_min_ratio
    known = [row for row in rows if row.ratio is not None]
    if not known:
        return Invariant(
            "load_delivered", None, 0, (), "no record says who sent it, or too little was to be sent"
        )
    bad = [row for row in known if row.ratio is not None and row.ratio < least and not row.held]
    detail = "; ".join(f"{row.text}, limit {least:g}" for row in bad)
    return Invariant("load_delivered", not bad, len(bad), (), detail, "invalid")


def warnings(data: RunData, rows: tuple[Delivery, ...]) -> list[str]:
    """Where max_in_flight held requests back, with numbers."""
    arrivals_ = data.scenario.load.arrivals
    most = None if arrivals_ is None else arrivals_.max_in_flight
    return [
        f"load.arrivals.max_in_flight {most} held requests back: {row.text}"
        for row in rows
        if row.held and row.window == "all"
    ]


def _open(data: RunData, number: Ints) -> _Open:
    s = data.requests
    mine = np.flatnonzero(number >= USERS_FROM)
    order = mine[np.lexsort((s.due[mine], number[mine]))]
    _, first = np.unique(number[order], return_index=True)
    rows = order[first]
    return _Open(s.due[rows], s.start[rows], _scheduled(data))


def _scheduled(data: RunData) -> Ints | None:
    load = data.scenario.load
    spec, rows = load.arrivals, None
    assert spec is not None
    if spec.file is not None:
        try:
            rows = trace.read(Path(spec.file), spec.offset_s, spec.length_ratio, spec.sha256, "scenario.yaml")
        except ScenarioError:
            return None
    end_s = load.warmup_s + load.duration_s
    found = []
    for one in arrivals.schedule(load, data.scenario.seed, rows):
        if one.due_s >= end_s:
            break
        found.append(round(one.due_s * NS))
    return np.array(found, np.int64)


def _of_arrivals(data: RunData, of: _Open, name: str, span: Interval) -> Delivery:
    low, high = span
    length_s = (high - low) / NS
    due = (of.due >= low) & (of.due < high)
    began = int(((of.start >= low) & (of.start < high)).sum())
    asked = int(((of.scheduled >= low) & (of.scheduled < high)).sum()) if of.scheduled is not None else None
    wait_ms = (of.start - of.due)[due] / 1e6
    limit_ms = data.scenario.generator.send_lag_p99_ms
    late = float((wait_ms > limit_ms).mean()) if len(wait_ms) else None
    spec = data.scenario.load.arrivals
    unsent = None if asked is None else max(0, asked - int(due.sum()))
    return Delivery(
        loop="open", window=name, unit="requests/s",
        asked=None if asked is None else asked / length_s,
        delivered=began / length_s,
        ratio=began / asked if asked is not None and asked >= FEW else None,
        late_ratio=late, late_ms=limit_ms,
        wait_p99_ms=float(np.quantile(wait_ms, 0.99)) if len(wait_ms) else None,
        wait_max_ms=float(wait_ms.max()) if len(wait_ms) else None,
        unsent=unsent,
        held=spec is not None and spec.max_in_flight is not None and bool(unsent or (late or 0) > 0.01),
    )  # fmt: skip


def _absent(data: RunData, number: Ints) -> int:
    """Users by count that never sent anything; 0 where the load was cut short, before which nobody knows."""
    load = data.scenario.load
    if data.manifest.get("interrupted") or float(data.manifest.get("duration_s") or 0) < load.duration_s:
        return 0
    wanted = sum(_busiest(load, user) for user in load.users)
    return max(0, wanted - len(np.unique(number)))


def _busiest(load: Load, user: UserClass) -> int:
    return max((phases.active(user, phase) for phase in load.phases), default=user.count)


def _of_users(data: RunData, closed: Bools, absent: int, name: str, span: Interval) -> Delivery:
    """asked: users active, on the average; delivered: less those that were late, for as long as they were."""
    s, (low, high) = data.requests, span
    load = data.scenario.load
    asked = _active(load, low / NS - load.warmup_s, high / NS - load.warmup_s)
    waits = np.clip(np.minimum(s.start, high) - np.maximum(s.due, low), 0, None)[closed]
    lost = float(waits.sum()) / (high - low) + absent
    inside = closed & within(s.start, (span,))
    wait_ms = (s.start - s.due)[inside] / 1e6
    limit_ms = data.scenario.generator.send_lag_p99_ms
    delivered = max(0.0, asked - lost)
    return Delivery(
        loop="closed", window=name, unit="users", asked=asked, delivered=delivered,
        ratio=delivered / asked if asked else None,
        late_ratio=float((wait_ms > limit_ms).mean()) if len(wait_ms) else None, late_ms=limit_ms,
        wait_p99_ms=float(np.quantile(wait_ms, 0.99)) if len(wait_ms) else None,
        wait_max_ms=float(wait_ms.max()) if len(wait_ms) else None,
        unsent=absent, held=False,
    )  # fmt: skip


def _active(load: Load, low_s: float, high_s: float) -> float:
    """Mean number of active users between two times, in seconds from the end of warm-up."""
    spans = phases.spans(load)
    if not spans:
        return float(phases.active_users(load, low_s))
    total = sum(
        max(0.0, min(high_s, span.end_s) - max(low_s, span.start_s)) * phases.active_users(load, span.start_s)
        for span in spans
    )
    return total / (high_s - low_s)
