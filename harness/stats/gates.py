"""Gates: limits on metrics, held against the values of one run."""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.config import Scenario
from harness.stats.analysis import GateResult


def judge(scenario: Scenario, metrics: Mapping[str, Mapping[str, float | None]]) -> tuple[GateResult, ...]:
    """One result for each gate. ok is None when the value is unknown: the run is invalid then."""
    found = []
    for gate in scenario.gates:
        value = metrics.get(gate.window, {}).get(gate.metric)
        if gate.max is not None:
            ok = None if value is None else value <= gate.max
            found.append(GateResult(gate.metric, gate.window, "max", gate.max, value, ok))
        elif gate.min is not None:
            ok = None if value is None else value >= gate.min
            found.append(GateResult(gate.metric, gate.window, "min", gate.min, value, ok))
    return tuple(found)
