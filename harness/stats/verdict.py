"""verdict.json of one run: status, exit code and the facts behind them, the same bytes for the same run.

Sorted keys, floats of 6 significant digits, no paths, no times. Comparisons fill the other columns of
`metrics`; here only `candidate` has a value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import Exit
from harness.stats.analysis import FaultEvent, GateResult, Invariant, KnownUse
from harness.stats.metrics import METRICS

SCHEMA = 1
DIGITS = 6


@dataclass(frozen=True)
class Judgement:
    """What a verdict is made from. invalid: reasons why the run can't be judged."""

    run_id: str
    metrics: Mapping[str, Mapping[str, float | None]]
    gates: Sequence[GateResult]
    invariants: Sequence[Invariant]
    known: Sequence[KnownUse]
    events: Sequence[FaultEvent]
    invalid: Sequence[str]
    interrupted: bool
    restored: bool | None


def decide(j: Judgement) -> tuple[str, Exit]:
    """(status, exit code).

    An interrupted run is invalid, 130, or 5 if the host isn't as before. Else: 5 if it isn't, 1 for a
    proven broken invariant, 4 for an invalid run, 1 for a failed gate, 0. What is proven stays the status.
    """
    broken = any(one.ok is False and one.breaks == "fail" for one in j.invariants)
    failed_gate = any(gate.ok is False for gate in j.gates)
    if j.interrupted:
        return "invalid", Exit.NOT_RESTORED if j.restored is False else Exit.INTERRUPTED
    status = "fail" if broken else "invalid" if j.invalid else "fail" if failed_gate else "pass"
    if j.restored is False:
        return "invalid" if status == "pass" else status, Exit.NOT_RESTORED
    return status, {"fail": Exit.FAIL, "invalid": Exit.INVALID, "pass": Exit.PASS}[status]


def reasons(j: Judgement) -> list[str]:
    """Why, most important first: interrupted, not restored, broken invariants, invalid, failed gates."""
    found = ["interrupted"] if j.interrupted else []
    if j.restored is False:
        found.append("the host is not as it was before: `squall recover` finishes the job")
    found += [_broken(one) for one in j.invariants if one.ok is False and one.breaks == "fail"]
    found += j.invalid
    for gate in j.gates:
        if gate.ok is False and gate.value is not None:
            sign = "above" if gate.bound == "max" else "below"
            found.append(
                f"gate: {gate.metric} in {gate.window} is {gate.value:.6g}, {sign} its {gate.bound} {gate.limit:g}"
            )
    return list(dict.fromkeys(found))


def _broken(one: Invariant) -> str:
    names = f" ({', '.join(one.request_ids[:3])}{', ...' if len(one.request_ids) > 3 else ''})"
    return f"{one.name}: {one.detail or one.count}{names if one.request_ids else ''}"


def build(j: Judgement) -> dict[str, Any]:
    """verdict.json as plain data, rounded."""
    status, code = decide(j)
    tree = {
        "schema": SCHEMA,
        "status": status,
        "exit_code": int(code),
        "run_ids": [j.run_id],
        "metrics": [
            _metric(name, window, values[name])
            for window, values in sorted(j.metrics.items())
            for name in sorted(values)
        ],
        "gates": [
            {"metric": g.metric, "window": g.window, "limit": g.limit, "value": g.value, "ok": g.ok}
            for g in j.gates
        ],
        "invariants": [
            {"name": one.name, "ok": one.ok, "count": one.count, "request_ids": list(one.request_ids)}
            for one in j.invariants
        ],
        "known": [
            {
                "violation": use.violation, "window": use.window, "max_count": use.max_count,
                "reason": use.reason, "expires": use.expires, "count": use.count,
                "expired": use.expired, "note": use.note,
            }
            for use in j.known
        ],
        "faults": [
            {
                "fault_id": e.fault_id, "fault": e.fault, "target": e.target, "verified": e.verified,
                "recovered": e.recovered, "recovered_by": e.recovered_by,
            }
            for e in j.events
        ],
        "reasons": reasons(j),
    }  # fmt: skip
    rounded: dict[str, Any] = rounded_tree(tree)
    return rounded


def _metric(name: str, window: str, value: float | None) -> dict[str, Any]:
    """One line of `metrics` of a single run: there is nothing to compare with."""
    empty = dict.fromkeys(
        ("baseline", "delta_ratio", "ci_low", "ci_high", "p_regression", "status", "mde_ratio", "more_pairs")
    )
    return {
        "metric": name,
        "window": window,
        "unit": METRICS[name].unit,
        "candidate": value,
        "note": "",
        **empty,
    }


def rounded_tree(value: Any) -> Any:
    """Floats to 6 significant digits; what is no number (NaN, infinite) to None."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): rounded_tree(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded_tree(one) for one in value]
    return value


def to_bytes(tree: Mapping[str, Any]) -> bytes:
    """The file's bytes."""
    return (json.dumps(rounded_tree(tree), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
