"""An experiment's verdict: invariants first, then whether the data may be used, gates, and the paired comparison.

Pure: the same runs and archive give the same bytes, in whatever order they were named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.core.errors import Exit
from harness.stats import compare, experiment, runfacts
from harness.stats.analysis import FaultEvent, GateResult, Invariant
from harness.stats.compare import Verdict
from harness.stats.experiment import Experiment
from harness.stats.invariants import MAX_IDS
from harness.stats.plan import LOOKS, Plan, fixed
from harness.stats.refusals import ARMS
from harness.stats.runfacts import RunFacts
from harness.stats.verdict import rounded_tree

IN_BASELINE = "also in baseline"


def plan_for(found: Experiment) -> Plan:
    """The plan: what experiment.json or the scenario fixed beforehand, else by the number of pairs.

    Runs of which nobody wrote down that they were looked at one by one are a fixed number: one look.
    """
    plan = runfacts.plan_of(found.runs[0].scenario)
    if found.looks is not None:
        return replace(plan, looks=found.looks)
    pairs = len(found.valid)
    if found.runs[0].scenario.compare.looks is None and LOOKS[0] <= pairs < LOOKS[-1]:
        return fixed(pairs, plan)
    return plan


def judge(found: Experiment, archive: pd.DataFrame | None) -> dict[str, Any]:
    """verdict.json of an experiment.

    Beyond a single run's: pairs_used; dropped [{pair_id, reason}]; and in each invariant `arm`, A, B or
    both where it is broken. Order of what decides: an invariant broken in B (1), data that can't be used
    (4), a failed gate or a regression (1), inconclusive or an invariant broken in A only (3), pass.
    """
    broken = {arm: any(run.broken for run in found.arm(arm)) for arm in ARMS}
    core = _core(found, archive)
    gates = _gates([pair.b for pair in found.valid], [pair.a for pair in found.valid])
    failed = [gate for gate in gates if gate["ok"] is False]
    reasons = [*_breaches(found), *found.problems, *core.reasons, *_gate_reasons(failed)]
    # An experiment ends with the pair in which something broke: too few pairs are no bad data then.
    stopped = broken["A"] and 0 < len(found.valid) < plan_for(found).looks[0]
    unusable = bool(found.problems) or (core.status == "invalid" and not stopped)
    status = _status(broken, unusable, bool(failed), core.status)
    if broken["A"] and not broken["B"]:
        reasons.insert(
            0, "baseline broken: an invariant is broken in arm A only, so nothing can be held against it"
        )
    reasons += [f"pair {pair_id} dropped: {reason}" for pair_id, reason in found.dropped]
    tree = core.to_dict() | {
        "status": status,
        "exit_code": int(_code(status)),
        "run_ids": [run.run_id for run in found.runs],
        "gates": gates,
        "invariants": _invariants(found.runs),
        "known": _known(found.runs),
        "faults": _faults(found.runs),
        "dropped": [{"pair_id": pair_id, "reason": reason} for pair_id, reason in found.dropped],
        "reasons": list(dict.fromkeys(reasons)),
    }
    rounded: dict[str, Any] = rounded_tree(tree)
    return rounded


def _core(found: Experiment, archive: pd.DataFrame | None) -> Verdict:
    """The statistical verdict of the pairs that count."""
    if found.problems:
        return Verdict("invalid", 0)
    if not found.valid:
        return Verdict("invalid", 0, reasons=("no pair counts; a verdict needs at least 3",))
    plan = plan_for(found)
    values = compare.judge(experiment.values(found.valid), archive, plan)
    if values.status == "invalid":
        return values
    seen = found.valid[: values.pairs_used] if values.pairs_used else found.valid
    counts = compare.judge_counts(_countable(experiment.counts(seen)), archive, plan)
    return replace(
        values,
        status=compare.worst([values.status, counts.status]),
        rows=(*values.rows, *counts.rows),
        reasons=(*values.reasons, *counts.reasons),
    )


def _countable(counts: pd.DataFrame) -> pd.DataFrame:
    """Without kinds of which an arm had none: where nothing was in flight, nothing could migrate."""
    total = counts.groupby(["kind", "arm"])["n"].sum()
    return counts[[bool(total[kind].min() > 0) for kind in counts["kind"]]]


def _status(broken: Mapping[str, bool], unusable: bool, failed_gate: bool, core: str) -> str:
    if broken["B"]:
        return "fail"
    if unusable:
        return "invalid"
    if failed_gate:
        return "fail"
    if core == "regression":
        return core
    return "inconclusive" if broken["A"] else core


def _code(status: str) -> Exit:
    return compare.CODES[status]


def _breaches(found: Experiment) -> list[str]:
    """One line for each invariant broken in an arm, the candidate's first: runs, what happened, request ids."""
    by: dict[tuple[str, str], list[tuple[RunFacts, Invariant]]] = {}
    for arm in reversed(ARMS):
        for run in found.arm(arm):
            for one in run.broken:
                by.setdefault((arm, one.name), []).append((run, one))
    lines = []
    for (arm, name), where in by.items():
        ids = [i for _, one in where for i in one.request_ids]
        shown = f" ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})" if ids else ""
        also = f", {IN_BASELINE}" if arm == "B" and ("A", name) in by else ""
        first = where[0]
        more = _others(len(where))
        lines.append(
            f"{name} in arm {arm}, run {first[0].run_id}{more}: {first[1].detail or first[1].count}{shown}{also}"
        )
    return lines


def _others(runs: int) -> str:
    """` and N other runs`."""
    others = runs - 1
    return f" and {others} other run{'s' if others > 1 else ''}" if others else ""


def _invariants(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Every invariant over all runs, dropped pairs too; broken anywhere is broken."""
    names = dict.fromkeys(one.name for run in runs for one in run.invariants)
    found = []
    for name in names:
        told = [(run.arm, one) for run in runs for one in run.invariants if one.name == name]
        bad = [(arm, one) for arm, one in told if one.ok is False]
        arms = sorted({str(arm) for arm, _ in bad})
        ids = dict.fromkeys(
            i for _, one in sorted(bad, key=lambda x: str(x[0]), reverse=True) for i in one.request_ids
        )
        states = {one.ok for _, one in told}
        found.append(
            {
                "name": name,
                "ok": False if bad else True if True in states else None,
                "count": sum(one.count for _, one in bad),
                "request_ids": list(ids)[:MAX_IDS],
                "arm": "both" if len(arms) > 1 else arms[0] if arms else None,
                "note": IN_BASELINE if len(arms) > 1 else "",
            }
        )
    return found


def _known(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Accepted violations with what they excused in all runs together."""
    uses: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        for one in run.known:
            use = uses.setdefault(
                (one.violation, one.window, one.reason),
                {"violation": one.violation, "window": one.window, "max_count": one.max_count, "reason": one.reason,
                 "expires": one.expires, "count": 0, "expired": one.expired, "note": ""},
            )  # fmt: skip
            use["count"] += one.count
            use["expired"] = use["expired"] or one.expired
    return list(uses.values())


def _gates(candidates: Sequence[RunFacts], baselines: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Each gate with the candidate's worst value; met when every run of the candidate meets it."""
    found = []
    for n, first in enumerate(candidates[0].gates if candidates else ()):
        told = [run.gates[n] for run in candidates]
        value = _worst(told)
        states = {gate.ok for gate in told}
        before = any(run.gates[n].ok is False for run in baselines)
        ok = False if False in states else None if None in states else True
        found.append(
            {"metric": first.metric, "window": first.window, "limit": first.limit, "value": value, "ok": ok,
             "note": IN_BASELINE if before and ok is False else ""}
        )  # fmt: skip
    return found


def _worst(gates: Sequence[GateResult]) -> float | None:
    values = [gate.value for gate in gates]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return max(known) if gates[0].bound == "max" else min(known)


def _gate_reasons(failed: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"gate: {one['metric']} in {one['window']} is {one['value']:.6g} in the candidate's worst run, "
        f"its limit is {one['limit']:g}" + (f", {one['note']}" if one["note"] else "")
        for one in failed
    ]


def _faults(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Each fault over all runs: its targets, and whether it was proven and undone every time."""
    by: dict[str, list[FaultEvent]] = {}
    for run in runs:
        for event in run.events:
            by.setdefault(event.fault_id, []).append(event)
    return [
        {
            "fault_id": fault_id,
            "fault": events[0].fault,
            "target": ", ".join(sorted({e.target for e in events})),
            "verified": all(e.verified for e in events),
            "recovered": all(e.recovered for e in events),
            "recovered_by": ", ".join(sorted({e.recovered_by for e in events if e.recovered_by})) or None,
        }
        for fault_id, events in sorted(by.items())
    ]
