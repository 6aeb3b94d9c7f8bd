"""From the files of one run to everything that can be said about it: `analyse`, then `write`.

Pure: the same directory gives the same Analysis and the same bytes. Knows no Locust, no report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from harness.core import rundir
from harness.core.clock import NS
from harness.core.rundir import RunDir
from harness.stats import (
    accounts,
    delivery,
    events,
    gates,
    generator,
    health,
    invariants,
    known,
    ledger,
    load,
    metrics,
    readiness,
    series,
    service,
)
from harness.stats import cancels as cancelling
from harness.stats import hurt as hurting
from harness.stats import verdict as verdicts
from harness.stats import windows as windowing
from harness.stats.analysis import (
    Analysis,
    FaultEvent,
    GateResult,
    Interval,
    Invariant,
    KnownUse,
    Service,
    Window,
)
from harness.stats.load import RunData
from harness.stats.service import Seen, Steady
from harness.stats.streams import Bools, within

Wanted = Mapping[str, Collection[str]]


def analyse(run: RunDir) -> Analysis:
    """Judge one run. Raises InvalidRun when it has no readable manifest or scenario."""
    return judge(load.read(run))


def judge(data: RunData, wanted: Wanted | None = None) -> Analysis:
    """The same, of data already read. wanted: the only metrics to compute, by window; gates' always are."""
    happened = events.events(data.journal)
    horizon = horizon_ns(data, happened)
    windows = windowing.build(data.scenario, invariants.duration_s(data), happened, horizon)
    good = service.good(data.requests, data.scenario.slo)
    stalls = metrics.stalls_us(data.requests)
    seen, signals = _seen(data, happened, horizon)
    services = service.services(
        seen, data.requests, good, _steady_states(data, windows, happened, good), data.probes, happened, windows, horizon,
        readiness.by_fault(data, happened, seen.changes, seen.bins, horizon) if _asks_readiness(data, wanted) else {},
    )  # fmt: skip
    entries = ledger.build(data, happened, horizon)
    cancels = cancelling.build(data)
    values = {
        name: metrics.compute(
            metrics.Scope(data, window, good, stalls, seen, services, entries, cancels),
            None if wanted is None else _names_in(name, wanted, data),
        )
        for name, window in windows.items()
    }
    counts = invariants.count_outcomes(data)
    found, uses = known.violations(data, windows)
    sent = delivery.build(data, windows)
    held = (
        *invariants.all_of(data, found, happened, services, entries, counts),
        delivery.invariant(data, sent),
    )
    results = gates.judge(data.scenario, values)
    invalid = _invalid(data, happened, held, results, services)
    judgement = verdicts.Judgement(
        data.run_id, values, results, held, uses, happened, invalid,
        interrupted=data.manifest.get("interrupted") is True,
        restored=None if data.manifest.get("restored") is None else data.manifest["restored"] is True,
    )  # fmt: skip
    return Analysis(
        data=data,
        windows=windows,
        metrics=values,
        counts=counts,
        events=happened,
        services=services,
        ledger=entries,
        losses=service.losses(seen, data.requests, happened, services, horizon),
        cancels=cancelling.rows(cancels),
        cancel_counts=cancelling.counted(data, cancels, windows["all"]),
        accounts=accounts.build(data),
        delivery=sent,
        invariants=held,
        known=uses,
        gates=results,
        invalid_reasons=tuple(invalid),
        warnings=(
            *_warnings(uses, held, data.manifest.get("dead")),
            *delivery.warnings(data, sent),
            *generator.warnings(data),
        ),
        series=series.build(data.requests, seen.hurt, signals, seen.bins),
        verdict=verdicts.build(judgement),
    )


def _asks_readiness(data: RunData, wanted: Wanted | None) -> bool:
    """Does somebody want to know how right the targets' readiness was? It takes a while to work out."""
    if wanted is None:
        return True
    names = {name for some in wanted.values() for name in some} | {g.metric for g in data.scenario.gates}
    return not names.isdisjoint(readiness.METRICS)


def _names_in(window: str, wanted: Wanted, data: RunData) -> set[str]:
    """Metrics to compute in a window."""
    return set(wanted.get(window, ())) | {g.metric for g in data.scenario.gates if g.window == window}


def write(run: RunDir, analysis: Analysis) -> None:
    """metrics.json, verdict.json, and in manifest.json counts, generator figures, valid, invalid_reasons."""
    rundir.write_atomic(run.metrics, verdicts.to_bytes(analysis.metrics))
    rundir.write_atomic(run.verdict, verdicts.to_bytes(analysis.verdict))
    manifest = rundir.read_json(run.manifest)
    said = manifest.get("generator")
    generator = {**invariants.generator_figures(analysis.data), **(said if isinstance(said, dict) else {})}
    manifest |= {
        "counts": dict(analysis.counts),
        "generator": generator,
        "valid": analysis.status != "invalid" and not analysis.invalid_reasons,
        "invalid_reasons": list(analysis.invalid_reasons),
        "judged_reasons": [r for r in analysis.invalid_reasons if r not in load.earlier_reasons(manifest)],
    }
    rundir.write_json(run.manifest, manifest)


def horizon_ns(data: RunData, happened: tuple[FaultEvent, ...]) -> int:
    """The run's last event: end of the measured part, of a request, of a fault."""
    end = round((data.scenario.load.warmup_s + invariants.duration_s(data)) * NS)
    times = [t for e in happened for t in (e.effective_ns, e.gone_ns, e.recovered_ns) if t is not None]
    return max([end, int(data.requests.end.max(initial=0)), *times])


def _seen(
    data: RunData, happened: tuple[FaultEvent, ...], horizon: int
) -> tuple[Seen, tuple[health.Signal, ...]]:
    bins = hurting.bins_of((0, horizon))[1]
    signals = health.signals(data.probes, bins)
    changes = health.listed(data.samples)
    ready = health.readiness(signals, data.sut)
    return Seen(
        hurt=hurting.hurt(data.requests, data.scenario.slo.ttft_ms, data.scenario.slo.itl_ms),
        bins=bins,
        ready=health.combine(ready, bins),
        all_green=health.combine(signals, bins),
        has_probes=bool(ready),
        changes=changes,
        unlisted=health.unlisted(changes, data.sut, happened, horizon),
    ), signals


def _steady_states(
    data: RunData, windows: dict[str, Window], happened: tuple[FaultEvent, ...], good: Bools
) -> dict[str, Steady]:
    """What each fault's recovery is held against: steady, within the phase of the load in which it struck
    where there are phases and that one has a steady part."""
    steady = windows["steady"].intervals
    phases = [
        window.intervals[0] for window in windows.values() if window.kind == "phase" and window.intervals
    ]
    whole = _steady(data, steady, good)
    found = {}
    for fault_id in events.fault_ids(happened):
        struck = min(e.effective_ns or 0 for e in events.of_id(happened, fault_id))
        same = next((windowing.overlap(steady, one) for one in phases if one[0] <= struck < one[1]), ())
        of_phase = _steady(data, same, good)
        known = of_phase.goodput_ratio is not None and of_phase.ttft_p50_ms is not None
        found[fault_id] = of_phase if known else whole
    return found


def _steady(data: RunData, intervals: tuple[Interval, ...], good: Bools) -> Steady:
    first = within(data.requests.first, intervals) & data.requests.has_ttft
    ttft = (data.requests.first - data.requests.start)[first] / 1e6
    rows = data.requests.in_window(intervals)
    counted = int((rows & ~data.requests.is_("cancelled")).sum())
    ratio = int((rows & good).sum()) / counted if counted else None
    return Steady(ratio, float(np.median(ttft)) if len(ttft) else None)


def _invalid(
    data: RunData, happened: tuple[FaultEvent, ...], held: tuple[Invariant, ...],
    results: tuple[GateResult, ...], services: dict[str, Service],
) -> list[str]:  # fmt: skip
    """Why the run can't be judged: what earlier stages and loading found, then what judging found."""
    reasons = list(data.reasons)
    if not len(data.requests):
        reasons.append("no request was recorded")
    for e in happened:
        if not e.verified:
            why = e.error or (
                "its effect was never proven" if e.injected_ns is not None else "it was never injected"
            )
            reasons.append(f"fault {e.fault_id} on {e.target}: {why}")
    reasons += [
        f"fault {fault_id} was never injected" for fault_id in invariants.missing_faults(data, happened)
    ]
    reasons += [
        f"{one.name}: {one.detail}"
        for one in held
        if one.breaks == "invalid"
        and one.ok is False
        and one.name not in ("faults_verified", "host_restored")
    ]
    generator = next(one for one in held if one.name == "generator_on_time")
    if generator.ok is None:
        reasons.append(f"generator_on_time: {generator.detail}")
    reasons += [
        f"fault {s.fault_id}: nobody can tell whether the service recovered, {s.recover_note}"
        for s in services.values()
        if s.recover_s is None and not s.recover_known
    ]
    reasons += [
        f"gate: {gate.metric} in {gate.window} is unknown, so the gate can't be held against it"
        for gate in results
        if gate.ok is None
    ]
    return list(dict.fromkeys(reasons))


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _warnings(uses: tuple[KnownUse, ...], held: tuple[Invariant, ...], dead: object) -> tuple[str, ...]:
    """What deserves a look but changes no verdict."""
    found = [f"known {use.violation}: {use.note}" for use in uses if use.note]
    found += [
        f"{one.name}: {one.detail}" for one in held if one.ok is None and one.detail.startswith("too little")
    ]
    found += [
        f"{name} was gone or stopped when the load ended, by no fault of the scenario"
        for name in _names(dead)
    ]
    return tuple(found)
