"""What must hold in every run: token for token, stream for stream, fault for fault.

ok False is proven; ok None is unknown or not applicable, never a pass. `breaks` says whether a broken
one fails the run (the system did wrong) or makes it invalid (we can't tell, or we did wrong).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from harness.core.clock import NS
from harness.core.records import OUTCOMES
from harness.core.sutfile import ENGINES
from harness.stats.analysis import FaultEvent, Invariant, LedgerEntry, Service
from harness.stats.freed import freed
from harness.stats.known import TOKEN_CLASSES, Found, abandoned
from harness.stats.load import RunData
from harness.stats.streams import ABSENT

MAX_IDS = 20
SERVING_LOAD = 20  # so many requests elsewhere after a recovery, and none on the target: it doesn't serve
CUT = ("stream_error", "truncated", "timed_out")


def all_of(
    data: RunData,
    found: Mapping[str, Found],
    happened: Sequence[FaultEvent],
    services: Mapping[str, Service],
    ledger: Sequence[LedgerEntry],
    counts: Mapping[str, int],
) -> tuple[Invariant, ...]:
    """Every invariant, in a fixed order."""
    return (
        *(_violation(data, one) for one in found.values()),
        _streams_complete(data, found),
        _requests_unique(data),
        _no_lost(counts),
        _ledger_closes(data, ledger),
        _ledger_agrees(ledger),
        _faults_verified(data, happened),
        _faults_recovered(happened),
        _not_recovered(services),
        _serving_again(data, happened),
        freed(data, happened, not missing_faults(data, happened)),
        _generator_on_time(data),
        _host_restored(data),
    )


def _violation(data: RunData, found: Found) -> Invariant:
    rows = found.beyond > 0
    count = int(found.beyond.sum())
    ids = data.requests.ids(rows, MAX_IDS)
    if count:
        excused = int(found.excused.sum())
        unit = "tokens" if found.violation in TOKEN_CLASSES else "requests"
        detail = f"{count} {unit}" + (f", {excused} more are known" if excused else "")
        return Invariant(found.violation, False, count, ids, detail)
    if not _checked(data, found.violation):
        return Invariant(found.violation, None, 0, (), "no request could be checked for it")
    return Invariant(found.violation, True, 0)


def _checked(data: RunData, violation: str) -> bool:
    """Could this violation be seen at all? Not in a run that somebody else's client made."""
    if data.manifest.get("imported"):
        return False
    frame = data.frame
    if violation in TOKEN_CLASSES:
        return data.sut.oracle == "witness" and bool((frame["tokens_received"].fillna(0) > 0).any())
    answered = (data.requests.first != ABSENT) | data.requests.is_("ok", "corrupted", *CUT)
    if violation == "usage_prompt_mismatch":
        return bool((frame["prompt_tokens"].notna() & frame["usage_prompt_tokens"].notna()).any())
    if violation == "usage_completion_mismatch":
        return bool(frame["usage_completion_tokens"].notna().any())
    return bool(answered.any())


def _streams_complete(data: RunData, found: Mapping[str, Found]) -> Invariant:
    """No stream was cut, hung or corrupted, but those all of whose violations are known."""
    s = data.requests
    bad = s.is_(*CUT, "corrupted") & ~abandoned(data)
    beyond = np.zeros(len(s), bool)
    some = np.zeros(len(s), bool)
    for one in found.values():
        beyond |= one.beyond > 0
        some |= one.amount > 0
    rows = bad & (beyond | ~some)
    if not len(s):
        return Invariant("streams_complete", None, 0, (), "there are no requests")
    kinds = [(name, int((rows & s.is_(name)).sum())) for name in (*CUT, "corrupted")]
    detail = ", ".join(f"{count} {name}" for name, count in kinds if count)
    return Invariant("streams_complete", not rows.any(), int(rows.sum()), s.ids(rows, MAX_IDS), detail)


def _requests_unique(data: RunData) -> Invariant:
    doubled = data.frame["request_id"].duplicated().to_numpy(bool)
    ids = tuple(dict.fromkeys(data.requests.ids(doubled)))[:MAX_IDS]
    return Invariant("requests_unique", not doubled.any() if len(doubled) else None, int(doubled.sum()), ids)


def _no_lost(counts: Mapping[str, int]) -> Invariant:
    """sent = ok + shed + cancelled + failed, lost = 0."""
    told = sum(counts[name] for name in ("ok", "shed", "cancelled", "failed"))
    lost = counts["lost"]
    ok = lost == 0 and counts["sent"] == told
    detail = "" if ok else f"{counts['sent']} sent, {told} with an outcome, {lost} lost"
    return Invariant("no_lost_requests", ok, max(lost, abs(counts["sent"] - told)), (), detail, "invalid")


def _ledger_closes(data: RunData, ledger: Sequence[LedgerEntry]) -> Invariant:
    """Every request has an end and an outcome, and every stream in flight at a fault has one fate."""
    s = data.requests
    open_ids = list(s.ids(~s.closed | (s.outcome < 0)))
    details = [f"{len(open_ids)} requests without end or outcome"] if open_ids else []
    for entry in ledger:
        lost = entry.fates.get("lost", ())
        if entry.closes is False:
            details.append(
                f"{entry.fault_id} on {entry.target}: {len(lost)} of {entry.in_flight} in flight lost"
            )
            open_ids += lost
    ids = tuple(dict.fromkeys(open_ids))
    if not len(s) and not ids:
        return Invariant("ledger_closes", None, 0, (), "there are no requests")
    breaks: Literal["fail", "invalid"] = "fail" if data.complete else "invalid"  # absent by our own fault?
    return Invariant("ledger_closes", not details, len(ids), ids[:MAX_IDS], "; ".join(details), breaks)


def _ledger_agrees(ledger: Sequence[LedgerEntry]) -> Invariant:
    """The SUT's counters of migrations and what became of the requests tell the same story."""
    wrong = [entry for entry in ledger if entry.agrees is False]
    new = [entry for entry in ledger if entry.agrees_new is False]
    known = [entry for entry in ledger if entry.agrees is not None]
    if not known:
        why = next((e.why for e in ledger if e.why), "no fault with both segments and counters")
        return Invariant("ledger_agrees", None, 0, (), why)
    details = [
        f"{e.fault_id} on {e.target}: the counter rose by {e.counter_ongoing:g}, the segments allow "
        f"{e.attempts_low} to {e.attempts_high}"
        for e in wrong
    ]
    details += [
        f"{e.fault_id} on {e.target}: the counter of new requests rose by {e.counter_new:g}, but "
        f"{len(e.moved)} moved and {len(e.refused)} were refused"
        for e in new
    ]
    count = len({(e.fault_id, e.target) for e in (*wrong, *new)})
    return Invariant("ledger_agrees", not details, count, (), "; ".join(details))


def missing_faults(data: RunData, happened: Sequence[FaultEvent]) -> list[str]:
    """Ids of the scenario's and the plan's faults that the journal doesn't know."""
    seen = {e.fault_id for e in happened}
    return [fault_id for fault_id in planned_ids(data) if fault_id not in seen]


def planned_ids(data: RunData) -> list[str]:
    """Fault ids that were to happen: of plan.json, else of the scenario's steps."""
    planned = data.plan.get("injections") if data.plan else None
    if isinstance(planned, list) and all(isinstance(one, dict) and "fault_id" in one for one in planned):
        return [str(one["fault_id"]) for one in planned]
    return [step.id for step in data.scenario.faults]


def _faults_verified(data: RunData, happened: Sequence[FaultEvent]) -> Invariant:
    """Every planned fault was injected on every target, with proof of its effect."""
    bad = [f"{e.fault_id} on {e.target}" for e in happened if not e.verified]
    bad += [f"{fault_id} (never injected)" for fault_id in missing_faults(data, happened)]
    if not happened and not bad:
        return Invariant("faults_verified", None, 0, (), "the scenario has no faults")
    return Invariant("faults_verified", not bad, len(bad), (), "; ".join(bad), "invalid")


def _faults_recovered(happened: Sequence[FaultEvent]) -> Invariant:
    """Every fault that took effect is over, and its target is back.

    A recovery that was tried and failed is the system's doing (fail). One that the journal doesn't
    finish is ours: nobody knows (invalid).
    """
    struck = [e for e in happened if e.effective_ns is not None]
    bad = [e for e in struck if not e.recovered]
    if not struck:
        return Invariant("faults_recovered", None, 0, (), "no fault took effect")
    failed = [e for e in bad if e.failed_recovering]
    detail = "; ".join(
        f"{e.fault_id} on {e.target}: {e.error or 'the journal ends before it was recovered'}" for e in bad
    )
    return Invariant(
        "faults_recovered", not bad, len(bad), (), detail, "fail" if failed or not bad else "invalid"
    )


def _not_recovered(services: Mapping[str, Service]) -> Invariant:
    """After each fault the service came back to its steady state (breaks: recover_s is null)."""
    if not services:
        return Invariant("not_recovered", None, 0, (), "no fault took effect")
    never = [s for s in services.values() if s.recover_s is None]
    proven = [s for s in never if s.recover_known]
    detail = "; ".join(f"{s.fault_id}: {s.recover_note}" for s in never)
    ok = True if not never else False if proven else None
    return Invariant("not_recovered", ok, len(proven), (), detail)


def _serving_again(data: RunData, happened: Sequence[FaultEvent]) -> Invariant:
    """Each target got streams again after it had recovered, by its own engine's account."""
    if data.segments is None:
        return _took_request(happened)
    end_ns = round((data.scenario.load.warmup_s + duration_s(data)) * NS)
    silent: list[str] = []
    unknown: list[str] = []
    struck = [e for e in happened if e.recovered and data.sut.roles.get(e.target) in ENGINES]
    for e in struck:
        since = e.recovered_ns or 0
        next_fault = [
            x.effective_ns for x in happened if x.target == e.target and (x.effective_ns or 0) > since
        ]
        until = min([end_ns, *(t for t in next_fault if t is not None)])
        rows = data.segments[(data.segments["start_ns"] >= since) & (data.segments["start_ns"] < until)]
        mine = int((rows["target"] == e.target).sum())
        if mine == 0:
            (silent if len(rows) >= SERVING_LOAD else unknown).append(f"{e.fault_id} on {e.target}")
    if not struck:
        return Invariant("serving_again", None, 0, (), "no worker was recovered")
    detail = f"no stream came to it again: {'; '.join(silent)}" if silent else ""
    if unknown and not silent:
        return Invariant("serving_again", None, 0, (), f"too little load to tell after {'; '.join(unknown)}")
    return Invariant("serving_again", not silent, len(silent), (), detail)


def _took_request(happened: Sequence[FaultEvent]) -> Invariant:
    """Without segments: whether the recovery itself saw the target take a request."""
    told = [e for e in happened if e.recovered and e.took_request is not None]
    if not told or not all(e.took_request for e in told):
        return Invariant("serving_again", None, 0, (), "no proof: no engine kept segments of its streams")
    return Invariant("serving_again", True, 0)


def duration_s(data: RunData) -> float:
    """Length of the measured part: what the manifest says was measured, else what was asked for."""
    value = data.manifest.get("duration_s")
    known = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return float(value) if known and value is not None else float(data.scenario.load.duration_s)


def generator_figures(data: RunData) -> dict[str, float | None]:
    """send_lag_p99_ms, hub_lag_p99_ms, coalesced_ratio: the manifest's; the first and last else by the records.

    send lag: t_start - t_due. coalesced: tokens that came with another one / tokens.
    """
    said = data.manifest.get("generator")
    told = said if isinstance(said, dict) else {}
    figures: dict[str, float | None] = {}
    for name in ("send_lag_p99_ms", "hub_lag_p99_ms", "coalesced_ratio"):
        value = told.get(name)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        figures[name] = float(value) if known and value is not None else None
    s = data.requests
    if figures["send_lag_p99_ms"] is None and len(s):
        figures["send_lag_p99_ms"] = float(np.quantile(s.start - s.due, 0.99)) / 1e6
    if figures["coalesced_ratio"] is None and data.frame["coalesced"].notna().any():
        tokens = int(data.frame["tokens_received"].fillna(0).sum())
        figures["coalesced_ratio"] = int(data.frame["coalesced"].fillna(0).sum()) / max(tokens, 1)
    return figures


def _generator_on_time(data: RunData) -> Invariant:
    """The load generator sent and read in time, so that what was measured is the system."""
    limits = {
        "send_lag_p99_ms": data.scenario.generator.send_lag_p99_ms,
        "hub_lag_p99_ms": data.scenario.generator.hub_lag_p99_ms,
        "coalesced_ratio": data.scenario.generator.coalesced_max_ratio,
    }
    figures = generator_figures(data)
    late = [
        f"{name} is {value:.3g}, limit {limits[name]:g}"
        for name, value in figures.items()
        if value is not None and not value <= limits[name]
    ]
    unknown = [f"{name} is unknown" for name, value in figures.items() if value is None]
    ok = False if late else None if unknown else True
    return Invariant("generator_on_time", ok, len(late), (), "; ".join(late + unknown), "invalid")


def _host_restored(data: RunData) -> Invariant:
    """Host as it was before (said by the run's last stage)."""
    restored = data.manifest.get("restored")
    ok = restored if isinstance(restored, bool) else None
    return Invariant(
        "host_restored", ok, int(ok is False), (), "" if ok is not None else "not said yet", "invalid"
    )


def count_outcomes(data: RunData) -> dict[str, int]:
    """sent, ok, shed, cancelled, failed, lost of the whole run, warm-up included.

    lost: sent but without a record, where the manifest says how many were sent or lost; a record
    without an outcome counts as lost too.
    """
    s = data.requests
    by = {name: int((s.outcome == code).sum()) for code, name in enumerate(OUTCOMES)}
    counts = {name: by[name] for name in ("ok", "shed", "cancelled")}
    counts["failed"] = int(s.failed.sum())
    before = data.manifest.get("counts")
    said = before if isinstance(before, dict) else {}
    sent, lost = _whole(said.get("sent")), _whole(said.get("lost"))
    strange = int((s.outcome < 0).sum())
    absent = sent - len(s) if sent is not None else (lost or 0) - strange
    lost = max(absent, 0) + strange
    return {"sent": sum(counts.values()) + lost, **counts, "lost": lost}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
