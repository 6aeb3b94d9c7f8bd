"""The ledger: what became of every stream that was in flight on a target when a fault took effect.

Which streams those were is told by the witness engines' segments (exact), else by the instance id
that each answer carried. The SUT's counters are held against it; alone they prove nothing, because
they count attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from harness.collect import counters
from harness.core.config import Scenario, Uniform
from harness.core.records import OUTCOMES
from harness.stats import health
from harness.stats.analysis import FATES, FaultEvent, LedgerEntry
from harness.stats.events import RESTARTING
from harness.stats.load import RunData
from harness.stats.metrics import MIGRATIONS, frontend_processes
from harness.stats.segments import OPEN

CUT = frozenset({"stream_error", "truncated", "transport_error", "http_error"})


def build(data: RunData, found: Sequence[FaultEvent], horizon_ns: int) -> tuple[LedgerEntry, ...]:
    """One entry for each fault on each target that took effect."""
    return tuple(_entry(data, e, found, horizon_ns) for e in found if e.effective_ns is not None)


def _entry(data: RunData, e: FaultEvent, found: Sequence[FaultEvent], horizon_ns: int) -> LedgerEntry:
    if data.sut.roles.get(e.target, "worker") != "worker":
        return LedgerEntry(e.fault_id, e.target, False, f"{e.target} is no worker: no stream runs on it")
    if data.segments is not None:
        there = _by_segments(data.segments, e, found)
        went_on = _continued(data.segments, there)
        source = "segments"
    else:
        ids = instance_ids(data, e)
        if not ids:
            return LedgerEntry(
                e.fault_id, e.target, False,
                "no witness engine kept segments, and the target's instance id isn't known",
            )  # fmt: skip
        there = _by_instance(data, e, ids)
        went_on = frozenset()
        source = "engine_worker_id"
    fates = _fates(data, e, there, went_on, source)
    in_flight = sum(len(ids) for ids in fates.values())
    entry = LedgerEntry(e.fault_id, e.target, True, "", in_flight, fates, source)
    return _against_counters(data, e, entry, horizon_ns)


def _by_segments(segments: pd.DataFrame, e: FaultEvent, found: Sequence[FaultEvent]) -> pd.DataFrame:
    """Segments that ran on the target when the fault took effect.

    A process that was killed ends none of them: those without an end that this incarnation began. (Its
    streams may be elsewhere before we have seen that it is gone, so the measured instant alone would
    miss them.) Otherwise those with start <= effective < end.
    """
    at = e.effective_ns or 0
    mine = segments[(segments["target"] == e.target) & (segments["start_ns"] <= at)]
    began = [
        x.undo_requested_ns or x.gone_ns
        for x in found
        if x.target == e.target and x.fault in RESTARTING and x.fault_id != e.fault_id
    ]
    earlier = [t for t in began if t is not None and t <= at]
    born = max(earlier, default=None)
    if born is not None:
        mine = mine[(mine["start_ns"] > born) | (mine["end_ns"] != OPEN)]
    if e.fault == "process.kill":
        return mine[mine["end_ns"] == OPEN]
    return mine[mine["end_ns"] > at]


def _continued(segments: pd.DataFrame, there: pd.DataFrame) -> frozenset[str]:
    """Ids of streams in `there` that have a later segment."""
    last = segments.groupby("request_id")["part"].max()
    now = there.groupby("request_id")["part"].max()
    return frozenset(str(i) for i in now.index[(last.reindex(now.index) > now).to_numpy(bool)])


def instance_ids(data: RunData, e: FaultEvent) -> frozenset[str]:
    """Instance ids of the target up to the fault: from the frontends' lists, else from sut.json."""
    changes = health.listed(data.samples)
    rows = changes[(changes["worker"] == e.target) & (changes["value"] == 1)]
    ids = frozenset(rows["instance_id"][rows["t_ns"] <= (e.effective_ns or 0)])
    said = data.sut.instance_ids.get(e.target)
    return ids or (frozenset({said}) if said else frozenset())


def _by_instance(data: RunData, e: FaultEvent, ids: frozenset[str]) -> pd.DataFrame:
    """Requests that were open at the fault and name one of the target's instance ids.

    An answer names the instance with its first chunk: one that never came isn't seen here.
    """
    s, at = data.requests, e.effective_ns or 0
    named = data.frame["engine_worker_id"].isin(list(ids)).to_numpy(bool)
    return pd.DataFrame({"request_id": s.request_id[named & (s.start <= at) & (s.end > at)]})


def _fates(
    data: RunData, e: FaultEvent, there: pd.DataFrame, went_on: frozenset[str], source: str
) -> Mapping[str, tuple[str, ...]]:
    """Request ids by fate. A stream that the client had ended already isn't in flight any more."""
    s = data.requests
    since = e.effective_ns or 0
    if e.fault == "process.kill":
        since = _asked_ns(e)
    row_of = {str(name): k for k, name in enumerate(s.request_id)} if len(there) else {}
    migrated = data.frame["migrated"].fillna(0).to_numpy(np.int64)
    fates: dict[str, list[str]] = {fate: [] for fate in FATES}
    lengths = _output_lengths(data.scenario)
    for name, segment_length in zip(there["request_id"], _lengths(there), strict=True):
        row = row_of.get(str(name))
        if row is None:
            # no record: a canary, or some other's request, unless it asked for as much as our users do
            if segment_length in lengths:
                fates["lost"].append(str(name))
            continue
        if s.end[row] <= since and s.closed[row]:
            continue
        outcome = OUTCOMES[s.outcome[row]] if s.outcome[row] >= 0 else ""
        moved = name in went_on if source == "segments" else migrated[row] > 0 or e.fault == "process.kill"
        fates[_fate(outcome if s.closed[row] else "", moved)].append(str(name))
    return {fate: tuple(sorted(set(ids))) for fate, ids in fates.items()}


def _fate(outcome: str, moved: bool) -> str:
    if outcome == "ok":
        return "migrated_exact" if moved else "finished_there"
    if outcome in CUT:
        return "cut"
    return outcome if outcome in FATES else "lost"


def _lengths(there: pd.DataFrame) -> Sequence[int]:
    return list(there["length"]) if "length" in there else [-1] * len(there)


def _output_lengths(scenario: Scenario) -> frozenset[int]:
    """Lengths of answers that the scenario's users ask for."""
    found: set[int] = set()
    for user in scenario.load.users:
        tokens = user.output_tokens
        low, high = tokens.uniform if isinstance(tokens, Uniform) else (tokens, tokens)
        found |= set(range(low, high + 1))
    return frozenset(found)


def _against_counters(data: RunData, e: FaultEvent, entry: LedgerEntry, horizon_ns: int) -> LedgerEntry:
    """Add what the frontends' counters rose by from the last scrape before the fault to the first after it.

    The counter of ongoing migrations counts attempts. So it must have risen at least by the streams that
    a second segment continued after their first token (attempts_low), and at most by these and the
    continuations before a first token, the streams that failed, and those in flight that we cancelled.
    """
    over = max(t for t in (e.recovered_ns, e.gone_ns, e.effective_ns) if t is not None)
    span = _scrapes_around(data, _asked_ns(e), over if e.recovered_ns is not None else horizon_ns)
    if span is None or data.segments is None:
        return entry
    start, end = span
    deltas = [
        [
            counters.counter_delta(data.samples, p, MIGRATIONS, {"migration_type": kind}, start, end)
            for p in frontend_processes(data)
        ]
        for kind in ("ongoing_request", "new_request")
    ]
    ongoing, new = (_sum(rises) for rises in deltas)
    part = data.segments
    part = part[(part["part"] > 0) & (part["start_ns"] > start) & (part["start_ns"] <= end)]
    low = int((part["first"] > 0).sum())
    failed = data.requests.failed & data.requests.overlaps(start, end)
    high = len(part) + int(failed.sum()) + len(entry.fates.get("cancelled", ()))
    return LedgerEntry(
        entry.fault_id, entry.target, True, "", entry.in_flight, entry.fates, entry.source,
        migrations=len(part), attempts_low=low, attempts_high=high, counter_ongoing=ongoing,
        counter_new=new, agrees=low <= ongoing <= high if ongoing is not None and data.complete else None,
    )  # fmt: skip


def _asked_ns(e: FaultEvent) -> int:
    """When the fault was asked for: nothing of it was there before."""
    times = (e.requested_ns, e.injected_ns, e.effective_ns)
    return min(t for t in times if t is not None)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _scrapes_around(data: RunData, start_ns: int, end_ns: int) -> tuple[int, int] | None:
    """The last scrape of the frontends at or before start_ns and the first at or after end_ns (or the last)."""
    names = frontend_processes(data)
    pages = [counters.scrape_times(data.samples, name) for name in names]
    if not pages or not all(len(times) for times in pages):
        return None
    before = [times[times <= start_ns] for times in pages]
    after = [times[times >= end_ns] for times in pages]
    if not all(len(times) for times in before):
        return None
    first = min(int(times[-1]) for times in before)
    last = max(int(a[0] if len(a) else t[-1]) for a, t in zip(after, pages, strict=True))
    return (first, last) if last > first else None
