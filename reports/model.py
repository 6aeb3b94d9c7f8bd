"""Run directory and analysis to ReportData: the one place where a report's content is decided.

Formats nothing and draws nothing; renderers read the result only.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from harness.core import config
from harness.core.records import VIOLATIONS
from harness.core.rundir import RunDir
from harness.stats.analysis import Analysis, Delivery, GateResult
from harness.stats.metrics import METRICS
from reports import cards, glossary, quality, text, timeline
from reports.data import (
    MAX_IDS,
    Account,
    Cancel,
    Counts,
    Fault,
    Gate,
    Invariant,
    Known,
    Loss,
    MetricRow,
    Metrics,
    ReportData,
    Run,
    Sent,
    Teller,
    Verdict,
    Violation,
)

_SECRET_NAME = re.compile(r"token|secret|passw|authorization|api_?key|credential", re.IGNORECASE)


def build(run: RunDir, analysis: Analysis) -> ReportData:
    """Everything that the report of `run` says."""
    manifest = analysis.data.manifest
    faults = cards.build(analysis)
    return ReportData(
        verdict=_verdict(analysis, faults),
        run=_run(run, analysis, manifest),
        counts=msgspec.convert({k: v for k, v in analysis.counts.items() if k in Counts.__struct_fields__}, Counts),
        losses=_losses(analysis),
        timeline=timeline.build(analysis),
        faults=faults,
        cancels=[Cancel(**dataclasses.asdict(one)) for one in analysis.cancels],
        cancel_tellers=[Teller(name=one.teller, count=one.count) for one in analysis.cancel_counts],
        accounts=[Account(**dataclasses.asdict(one) | {"request_ids": list(one.request_ids)}) for one in analysis.accounts],
        sent=[_sent(analysis, one) for one in analysis.delivery],
        metrics=_metrics(analysis),
        gates=[_gate(gate) for gate in analysis.gates],
        invariants=_invariants(analysis),
        violations=_violations(analysis),
        known=[
            Known(violation=k.violation, window=k.window, count=k.count, max_count=k.max_count,
                  reason=k.reason + (f" ({k.note})" if k.note else ""), expires=k.expires)
            for k in analysis.known
        ],
        quality=quality.figures(analysis),
        generators=quality.processes(manifest),
        warnings=list(analysis.warnings),
        command=command(manifest, analysis.data.scenario),
        scenario_yaml=scenario_yaml(analysis.data.scenario),
        glossary=glossary.terms(),
    )  # fmt: skip


def _verdict(analysis: Analysis, faults: Sequence[Fault]) -> Verdict:
    reasons = [str(one) for one in analysis.verdict.get("reasons") or []]
    good = analysis.status in ("pass", "improvement")
    why = _why_good(analysis, faults) if good else _why_bad(analysis, reasons)
    return Verdict(status=analysis.status, exit_code=analysis.exit_code, why=why, reasons=reasons)


def _why_good(analysis: Analysis, faults: Sequence[Fault]) -> str:
    """What held, in one sentence."""
    parts = [f"{analysis.counts.get('ok', 0):,} streams came back complete"]
    if analysis.data.sut.oracle == "witness":
        parts[0] += " and exact"
    if faults:
        parts.append(_all(len(faults), "fault", "proven and undone", "proven and undone"))
    if analysis.gates:
        parts.append(_all(len(analysis.gates), "gate", "met", "met"))
    parts.append("no invariant is broken" + (" beyond the known ones" if analysis.known else ""))
    return text.sentence(parts)


def _why_bad(analysis: Analysis, reasons: Sequence[str]) -> str:
    """The most telling reason: streams that didn't come back whole before the rules that they broke."""
    broken = {one.name: one for one in analysis.invariants if one.ok is False and one.breaks == "fail"}
    if analysis.status == "fail" and broken:
        whole = broken.get("streams_complete")
        if whole is not None and whole.detail != f"{whole.count} corrupted":
            streams = "stream" if whole.count == 1 else "streams"
            return f"{whole.count:,} {streams} didn't come back whole ({whole.detail})"
        first = next(iter(broken.values()))
        about = glossary.ABOUT.get(first.name, "")
        return f"{first.name}: {first.detail or first.count}" + (f". {about}" if about else "")
    if not reasons:
        return "No reason was written down."
    return reasons[0].replace("generator_on_time:", "The load generator was too slow to be trusted:", 1)


def _all(count: int, noun: str, one: str, many: str) -> str:
    if count == 1:
        return f"the {noun} was {one}"
    return f"{'both' if count == 2 else f'all {count}'} {noun}s were {many}"


def _run(run: RunDir, analysis: Analysis, manifest: Mapping[str, Any]) -> Run:
    scenario = analysis.data.scenario
    fingerprint = manifest.get("fingerprint")
    return Run(
        run_id=analysis.data.run_id or run.path.name,
        scenario=scenario.name,
        seed=_int(manifest.get("seed")) if manifest.get("seed") is not None else scenario.seed,
        started_at=_text(manifest.get("started_at")),
        duration_s=scenario.load.duration_s,
        warmup_s=scenario.load.warmup_s,
        squall_version=_text(manifest.get("squall_version")),
        sut_version=_text(manifest.get("sut_version")) or scenario.sut.dynamo,
        engine=analysis.data.sut.engine or scenario.sut.engine,
        processes=sorted(analysis.data.sut.roles),
        fingerprint_class=_text(manifest.get("fingerprint_class")),
        fingerprint={str(k): str(v) for k, v in fingerprint.items()} if isinstance(fingerprint, dict) else {},
        trace_sha256=_text(manifest.get("trace_sha256")),
        config_sha256=_text(manifest.get("config_sha256")),
        interrupted=bool(manifest.get("interrupted")),
        restored=manifest.get("restored") if isinstance(manifest.get("restored"), bool) else None,
    )


def _losses(analysis: Analysis) -> list[Loss]:
    return [
        Loss(
            fault_id=one.fault_id, fault=one.fault, targets=list(one.targets),
            requests_hurt=one.requests_hurt, hurt_user_s=one.hurt_user_s, outage_s=one.outage_s,
            silent_s=analysis.services[one.fault_id].silent_s if one.fault_id in analysis.services else None,
            budget_ratio=one.budget_ratio, text=one.text,
        )
        for one in analysis.losses
    ]  # fmt: skip


def _metrics(analysis: Analysis) -> Metrics:
    """Steady first, then faults and recoveries in order, `all` last."""
    names = list(analysis.metrics)
    windows = [w for w in ("steady",) if w in names]
    windows += [w for w in names if w not in ("steady", "all")] + [w for w in ("all",) if w in names]
    kinds = {name: analysis.windows[name].kind if name in analysis.windows else "all" for name in windows}
    rows = [
        MetricRow(
            name=name, unit=metric.unit, about=metric.formula, higher_is_better=metric.better == "higher",
            values={w: _float(analysis.metrics[w].get(name)) for w in windows if kinds[w] in metric.kinds},
        )
        for name, metric in METRICS.items()
    ]  # fmt: skip
    return Metrics(windows=windows, rows=rows if windows else [])


def _gate(gate: GateResult) -> Gate:
    unit = METRICS[gate.metric].unit if gate.metric in METRICS else ""
    word = {"max": "at most", "min": "at least"}[gate.bound]
    return Gate(metric=gate.metric, window=gate.window, limit=f"{word} {text.quantity(gate.limit, unit)}",
                unit=unit, value=gate.value, ok=gate.ok)  # fmt: skip


def _invariants(analysis: Analysis) -> list[Invariant]:
    states = {True: "ok", False: "broken", None: "not_applicable"}
    return [
        Invariant(name=one.name, state=states[one.ok], count=one.count, detail=one.detail,
                  about=glossary.ABOUT.get(one.name, ""), request_ids=list(one.request_ids[:MAX_IDS]))
        for one in analysis.invariants
    ]  # fmt: skip


def _violations(analysis: Analysis) -> list[Violation]:
    """Requests by violation, known ones included, the most frequent first."""
    lines = analysis.data.requests.violations
    found = []
    for name, group in lines.groupby("violation", sort=True):
        rows = group["row"].to_numpy()
        ids = [str(analysis.data.requests.request_id[row]) for row in rows[:MAX_IDS]]
        found.append(Violation(name=str(name), count=len(rows), request_ids=ids,
                               about=glossary.ABOUT.get(str(name), "")))  # fmt: skip
    order = {name: n for n, name in enumerate(VIOLATIONS)}
    return sorted(found, key=lambda one: (-one.count, order.get(one.name, len(order))))


def _sent(analysis: Analysis, one: Delivery) -> Sent:
    values = analysis.metrics.get(one.window, {})
    return Sent(
        loop=one.loop, window=one.window, unit=one.unit, asked=one.asked, delivered=one.delivered, ratio=one.ratio,
        late_ratio=one.late_ratio, wait_p99_ms=one.wait_p99_ms, wait_max_ms=one.wait_max_ms, unsent=one.unsent,
        held=one.held, ttft_p99_ms=_float(values.get("ttft_p99_ms")),
        ttft_p99_due_ms=_float(values.get("ttft_p99_due_ms")),
    )  # fmt: skip


def command(manifest: Mapping[str, Any], scenario: config.Scenario) -> str:
    """The command that repeats the run, seed included."""
    words = manifest.get("command")
    if isinstance(words, list) and words:
        return joined(words if "--seed" in words else [*words, "--seed", str(scenario.seed)])
    return joined(["squall", "run", f"{scenario.name}.yaml", "--seed", str(scenario.seed)])


def joined(words: Any) -> str:
    """A command line for a shell; values of secret-looking --set paths are hidden."""
    if not isinstance(words, list):
        return ""
    shown = [Path(str(words[0])).name, *(_masked(str(word)) for word in words[1:])] if words else []
    return shlex.join(shown)


def _masked(word: str) -> str:
    path, equals, _ = word.partition("=")
    return f"{path}={cards.HIDDEN}" if equals and _SECRET_NAME.search(path) else word


def scenario_yaml(scenario: config.Scenario) -> str:
    """The resolved scenario; values of secret-looking environment variables are hidden."""
    tree = config.to_plain(scenario)
    env = tree["sut"].get("env") or {}
    tree["sut"]["env"] = {k: cards.HIDDEN if _SECRET_NAME.search(k) else v for k, v in env.items()}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def _float(value: float | None) -> float | None:
    """A plain float, also of numpy's."""
    return None if value is None else float(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
