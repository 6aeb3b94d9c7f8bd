"""An experiment and its verdict to ReportData: the comparison first, then what held in all runs together.

Formats nothing and draws nothing; renderers read the result only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.core.expfile import ExperimentFile
from harness.stats import paired
from harness.stats.experiment import Experiment
from harness.stats.metrics import METRICS
from harness.stats.plan import Plan
from harness.stats.runfacts import FAULT_METRICS, RunFacts
from reports import glossary, text
from reports.comparison_text import says
from reports.data import (
    MAX_IDS,
    ComparedFault,
    ComparedMetric,
    ComparedValue,
    Comparison,
    DroppedPair,
    Gate,
    Invariant,
    Known,
    ReportData,
    Run,
    Verdict,
)
from reports.model import joined, scenario_yaml


def build(
    found: Experiment, verdict: Mapping[str, Any], file: ExperimentFile | None, command: Sequence[str]
) -> ReportData:
    """Everything that the report of an experiment says. file: None where only run directories were named."""
    first = found.runs[0] if found.runs else None
    labels = _labels(found, file)
    comparison = _comparison(found, verdict, labels)
    return ReportData(
        verdict=_verdict(verdict, comparison),
        comparison=comparison,
        run=_run(found, file, labels),
        invariants=[_invariant(one) for one in verdict["invariants"]],
        gates=[_gate(one, first) for one in verdict["gates"]],
        known=[
            Known(violation=k["violation"], window=k["window"], count=k["count"], max_count=k["max_count"],
                  reason=k["reason"], expires=k["expires"])
            for k in verdict["known"]
        ],
        command=joined(list(command)),
        scenario_yaml=scenario_yaml(first.scenario) if first else "",
        glossary=glossary.terms(),
    )  # fmt: skip


def _labels(found: Experiment, file: ExperimentFile | None) -> tuple[str, str]:
    if file is not None:
        return file.a.label, file.b.label
    named = [next((run.sut_version for run in found.arm(arm)), "") or arm for arm in ("A", "B")]
    return named[0], named[1]


def _verdict(verdict: Mapping[str, Any], comparison: Comparison) -> Verdict:
    reasons = [str(one) for one in verdict["reasons"]]
    good = verdict["status"] in ("pass", "improvement")
    why = comparison.says[0] if good or not reasons else reasons[0]
    return Verdict(status=verdict["status"], exit_code=verdict["exit_code"], why=why, reasons=reasons)


def _run(found: Experiment, file: ExperimentFile | None, labels: tuple[str, str]) -> Run:
    first = found.runs[0] if found.runs else None
    if first is None:
        return Run(run_id=file.experiment_id if file else "", scenario=file.scenario if file else "")
    return Run(
        run_id=first.experiment_id or first.run_id,
        scenario=first.scenario.name,
        seed=file.seed if file else first.seed,
        started_at=file.started_at if file else first.started_at,
        duration_s=first.scenario.load.duration_s,
        warmup_s=first.scenario.load.warmup_s,
        sut_version=" → ".join(labels),
        squall_version=file.squall_version if file else None,
        engine=first.scenario.sut.engine,
        fingerprint_class=first.fingerprint_class,
        fingerprint={str(k): str(v) for k, v in first.fingerprint.items()},
        config_sha256=first.config_sha256,
    )


def _comparison(found: Experiment, verdict: Mapping[str, Any], labels: tuple[str, str]) -> Comparison:
    used = found.valid[: verdict["pairs_used"]]
    plan = paired.plan_for(found) if found.runs else None
    rows = [_metric(one, plan, used) for one in verdict["metrics"]]
    return Comparison(
        baseline=labels[0],
        candidate=labels[1],
        pairs_used=verdict["pairs_used"],
        pair_ids=[pair.pair_id for pair in used],
        looks=list(plan.looks) if plan else [],
        says=says(rows, verdict["pairs_used"], *labels),
        metrics=rows,
        faults=_faults([pair.a for pair in used], [pair.b for pair in used]),
        dropped=[DroppedPair(one["pair_id"], one["reason"]) for one in verdict["dropped"]],
    )


def _metric(row: Mapping[str, Any], plan: Plan | None, used: Sequence[Any]) -> ComparedMetric:
    known = METRICS.get(row["metric"])
    key = (row["metric"], row["window"])
    tested = next((one for one in plan.metrics if one.key == key), None) if plan else None
    return ComparedMetric(
        metric=row["metric"], window=row["window"], unit=row["unit"] or "", status=str(row["status"] or ""),
        higher_is_better=bool(known and known.better == "higher") or row["metric"] == "migrated_ratio",
        baseline=row["baseline"], candidate=row["candidate"], delta_ratio=row["delta_ratio"],
        ci_low=row["ci_low"], ci_high=row["ci_high"], p_regression=row["p_regression"],
        mde_ratio=row["mde_ratio"], more_pairs=row["more_pairs"], note=row["note"] or "",
        margin_ratio=tested.margin if tested else None, floor_ratio=tested.floor if tested else None,
        a_values=[pair.a.values.get(key) for pair in used] if tested else [],
        b_values=[pair.b.values.get(key) for pair in used] if tested else [],
    )  # fmt: skip


def _faults(a: Sequence[RunFacts], b: Sequence[RunFacts]) -> list[ComparedFault]:
    """Each fault of the scenario in both arms."""
    if not a:
        return []
    found = []
    for step in a[0].scenario.faults:
        values = []
        for name in FAULT_METRICS:
            window = f"{'recovery' if name == 'recover_s' else 'fault'}:{step.id}"
            before, after = (_median([run.values.get((name, window)) for run in runs]) for runs in (a, b))
            if before is not None or after is not None:
                values.append(
                    ComparedValue(name=name, unit=METRICS[name].unit, baseline=before, candidate=after)
                )
        found.append(ComparedFault(fault_id=step.id, fault=step.fault, values=values))
    return found


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _invariant(one: Mapping[str, Any]) -> Invariant:
    states = {True: "ok", False: "broken", None: "not_applicable"}
    where = {"A": "in the baseline only", "B": "in the candidate only", "both": "in both arms"}
    return Invariant(
        name=one["name"], state=states[one["ok"]], count=one["count"], about=glossary.ABOUT.get(one["name"], ""),
        detail=where.get(one["arm"], ""), request_ids=list(one["request_ids"])[:MAX_IDS],
    )  # fmt: skip


def _gate(one: Mapping[str, Any], first: RunFacts | None) -> Gate:
    unit = METRICS[one["metric"]].unit if one["metric"] in METRICS else ""
    gates = first.scenario.gates if first else []
    low = any(g.metric == one["metric"] and g.window == one["window"] and g.min is not None for g in gates)
    limit = f"{'at least' if low else 'at most'} {text.quantity(one['limit'], unit)}"
    return Gate(
        metric=one["metric"], window=one["window"], limit=limit, unit=unit, value=one["value"], ok=one["ok"]
    )
