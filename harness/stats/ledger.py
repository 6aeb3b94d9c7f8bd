"""The ledger: what became of every stream that was in flight on a target when a fault took effect.

Which streams those were is told by the witness engines' segments (exact), else by the instance id
that each answer carried. The SUT's counters are held against it; alone they prove nothing, because
they count attempts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.collect import counters
from harness.core import lengths
from harness.core.config import Scenario
from harness.core.records import OUTCOMES
from harness.core.words import P
from harness.stats import health
from harness.stats.analysis import FATES, FaultEvent, LedgerEntry
from harness.stats.events import RESTARTING, SUDDEN
from harness.stats.load import RunData
from harness.stats.metrics import MIGRATIONS, frontend_processes
from harness.stats.segments import OPEN

EDGE_NS = 500_000_000  # a page takes a moment to be read
SKEW_NS = 50_000_000  # between the log's wall clock and ours
CUT = frozenset({"stream_error", "truncated", "transport_error", "http_error"})


def build(data: RunData, found: Sequence[FaultEvent], horizon_ns: int) -> tuple[LedgerEntry, ...]:
    """One entry for each fault on each target that took effect."""
    entries: list[LedgerEntry] = []
    later: set[str] = set()  # in flight at a later fault
    for e in sorted(found, key=lambda e: e.effective_ns or 0, reverse=True):
        if e.effective_ns is not None:
            entry, went_on = _entry(data, e, found)
            entries.append(_against_counters(data, e, _survived(entry, went_on & later), horizon_ns))
            later |= {name for ids in entry.fates.values() for name in ids}
    order = {(e.fault_id, e.target): n for n, e in enumerate(found)}
    return tuple(sorted(entries, key=lambda entry: order[entry.fault_id, entry.target]))


def _survived(entry: LedgerEntry, hit: frozenset[str]) -> LedgerEntry:
    """Streams that this fault only moved: that they failed in the end is a later fault's doing."""
    if not hit:
        return entry
    fates = {name: list(ids) for name, ids in entry.fates.items()}
    for fate in ("cut", "timed_out", "shed", "lost"):
        fates["hit_again"] = [*fates.get("hit_again", []), *(x for x in fates.get(fate, ()) if x in hit)]
        fates[fate] = [x for x in fates.get(fate, ()) if x not in hit]
    return replace(
        entry,
        fates={name: tuple(sorted(ids)) for name, ids in fates.items()},
        exhausted=tuple(name for name in entry.exhausted if name not in hit),
    )


def _entry(data: RunData, e: FaultEvent, found: Sequence[FaultEvent]) -> tuple[LedgerEntry, frozenset[str]]:
    """The entry without counters, and which of its streams went on because of this fault."""
    none: frozenset[str] = frozenset()
    role = data.sut.roles.get(e.processes[0], "worker")
    if role == "prefill":
        why = "makes first tokens only, and no answer says which prompts were with it at that instant"
        return LedgerEntry(e.fault_id, e.target, False, f"{e.target} {why}"), none
    if role != "worker":
        return LedgerEntry(
            e.fault_id, e.target, False, f"{e.target} is no worker: no stream runs on it"
        ), none
    if data.segments is not None:
        there = _by_segments(data.segments, e, found)
        went_on = _continued(data.segments, there, e)
        times = Counter(
            {str(i): int(n) for i, n in data.segments.groupby("request_id")["part"].max().items()}
        )
        source = "segments"
    else:
        ids = instance_ids(data, e)
        if not ids:
            return LedgerEntry(
                e.fault_id, e.target, False,
                "no witness engine kept segments, and the target's instance id isn't known",
            ), none  # fmt: skip
        there = _by_instance(data, e, ids)
        went_on, times = none, Counter()
        source = "engine_worker_id"
    fates = _fates(data, e, there, went_on, source)
    everyone = [name for ids in fates.values() for name in ids]
    migrated = {name: times[name] for name in everyone} if data.segments is not None else {}
    limit = data.scenario.sut.migration_limit
    ours = data.scenario.sut.url is None  # nobody knows the limit of an outside system
    cut = (*fates["cut"], *fates["shed"])
    entry = LedgerEntry(
        e.fault_id, e.target, True, "", len(everyone), fates, source, migrated=migrated,
        exhausted=tuple(sorted(name for name in cut if ours and migrated.get(name, -1) >= limit)),
    )  # fmt: skip
    return entry, went_on


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
    if e.fault in SUDDEN:
        return mine[mine["end_ns"] == OPEN]
    return mine[mine["end_ns"] > at]


def _continued(segments: pd.DataFrame, there: pd.DataFrame, e: FaultEvent) -> frozenset[str]:
    """Ids of streams in `there` whose next segment is this fault's doing.

    After a kill each is. Else one that began until the target was recovered: what moved a stream later was
    something else.
    """
    following = segments.assign(part=segments["part"] - 1)[["request_id", "part", "start_ns"]]
    pairs = there[["request_id", "part"]].merge(following, on=["request_id", "part"])
    over = OPEN if e.fault in RESTARTING or e.recovered_ns is None else e.recovered_ns
    return frozenset(str(name) for name in pairs["request_id"][pairs["start_ns"] <= over])


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
    if e.fault in SUDDEN:
        since = _asked_ns(e)
    row_of = {str(name): k for k, name in enumerate(s.request_id)} if len(there) else {}
    migrated = data.frame["migrated"].fillna(0).to_numpy(np.int64)
    fates: dict[str, list[str]] = {fate: [] for fate in FATES}
    asked = _output_lengths(data.scenario)
    for name, segment_length in zip(there["request_id"], _lengths(there), strict=True):
        row = row_of.get(str(name))
        if row is None:
            # no record: a canary, or some other's request, unless it asked for as much as our users do
            if segment_length in asked:
                fates["lost"].append(str(name))
            continue
        if s.end[row] <= since and s.closed[row]:
            continue
        outcome = OUTCOMES[s.outcome[row]] if s.outcome[row] >= 0 else ""
        moved = name in went_on if source == "segments" else migrated[row] > 0 or e.fault in SUDDEN
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
    """Lengths of answers that the scenario's users ask for; a trace may ask for any."""
    arrivals = scenario.load.arrivals
    found = set(range(2, P + 1)) if arrivals is not None and arrivals.process == "trace" else set()
    for user in scenario.load.users:
        low, high = lengths.bounds(user.output_tokens)
        found |= set(range(low, high + 1))
    return frozenset(found)


def _against_counters(data: RunData, e: FaultEvent, entry: LedgerEntry, horizon_ns: int) -> LedgerEntry:
    """Add what the frontends' counters rose by from the last scrape before the fault to the first after it.

    The counter of ongoing migrations counts attempts. So it must have risen at least by the streams that
    a second segment continued after their first token (attempts_low), and at most by these and the
    continuations before a first token, the streams that failed, and those in flight that we cancelled.
    """
    if not entry.applicable:
        return entry
    over = max(t for t in (e.recovered_ns, e.gone_ns, e.effective_ns) if t is not None)
    span = _scrapes_around(data, _asked_ns(e), over if e.recovered_ns is not None else horizon_ns)
    if span is None:
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
    entry = replace(entry, counter_ongoing=ongoing, counter_new=new)
    if data.segments is None:
        return entry
    part = data.segments
    part = part[(part["part"] > 0) & (part["start_ns"] > start) & (part["start_ns"] <= end)]
    low = int((part["first"] > 0).sum())
    failed = data.requests.failed & data.requests.overlaps(start, end)
    high = len(part) + int(failed.sum()) + len(entry.fates.get("cancelled", ()))
    agrees = low <= ongoing <= high if ongoing is not None and data.complete else None
    entry = replace(entry, migrations=len(part), attempts_low=low, attempts_high=high, agrees=agrees)
    return _new_requests(data, entry, start, end)


def _new_requests(data: RunData, entry: LedgerEntry, start: int, end: int) -> LedgerEntry:
    """Hold the counter of `new_request` against what became of the requests that were sent again.

    It counts attempts, too: at least one for each request that moved, at most one more for each that
    failed, was shed or was cancelled before an engine had it, or went on elsewhere before a first token.
    Without a line in the frontends' logs for a rise, or when a frontend's counters began anew, nobody can
    tell. Lines within EDGE_NS of a scrape may be on either side of it.
    """
    assert data.segments is not None
    begun = data.segments.groupby("request_id")["start_ns"].max()
    near = [x for x in data.retries if x.kind == "new_request" and start - EDGE_NS < x.t_ns <= end + EDGE_NS]
    again = [x for x in near if start < x.t_ns <= end]
    moved = [x for x in again if begun.get(x.request_id, -1) >= x.t_ns - SKEW_NS]
    surely = [x for x in moved if start + EDGE_NS < x.t_ns <= end - EDGE_NS]
    s = data.requests
    known = set(begun.index)
    unseen = np.fromiter((name not in known for name in s.request_id), bool, len(s))
    never = s.overlaps(start, end) & unseen & ~s.is_("ok")
    refused = s.ids(never & ~s.is_("cancelled"))
    elsewhere = data.segments
    elsewhere = elsewhere[(elsewhere["part"] > 0) & (elsewhere["first"] == 0)]
    elsewhere = elsewhere[(elsewhere["start_ns"] > start) & (elsewhere["start_ns"] <= end)]
    low, high = len(surely), len(near) + int(never.sum()) + len(elsewhere)
    new = entry.counter_new
    anew = any(data.sut.roles.get(line.target) == "frontend" for line in data.journal)
    told = new is not None and data.complete and not anew and (bool(data.retries) or new <= high)
    agrees = low <= new <= high if told and new is not None else None
    return replace(
        entry, moved=tuple(sorted({x.request_id for x in moved})), refused=refused, agrees_new=agrees
    )


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
