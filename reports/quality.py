"""What the load generator says of itself: figures against their limits, and each of its processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.stats.analysis import Analysis
from harness.stats.invariants import generator_figures
from reports import glossary
from reports.data import GeneratorProcess, Quality


def figures(analysis: Analysis) -> list[Quality]:
    """The generator's figures against the scenario's limits; of several processes the worst, or the sum."""
    limits, said = analysis.data.scenario.generator, analysis.data.manifest.get("generator")
    told: dict[str, Any] = {**(said if isinstance(said, dict) else {}), **generator_figures(analysis.data)}
    known = {
        "send_lag_p99_ms": ("ms", limits.send_lag_p99_ms), "hub_lag_p99_ms": ("ms", limits.hub_lag_p99_ms),
        "coalesced_ratio": ("ratio", limits.coalesced_max_ratio), "cpu_s": ("s", None),
    }  # fmt: skip
    names = [*known, *sorted(name for name in told if name not in known)]
    rows = []
    for name in names:
        unit, limit = known.get(name, (_unit(name), None))
        value = _number(told.get(name))
        if value is None and name not in known:
            continue
        ok = None if value is None or limit is None else value <= limit
        rows.append(Quality(name=name, unit=unit, value=value, limit=limit, ok=ok,
                            about=glossary.ABOUT.get(name, "")))  # fmt: skip
    return rows


def processes(manifest: Mapping[str, Any]) -> list[GeneratorProcess]:
    """Each Locust process that had users, when there were several; what it didn't say is unknown."""
    said = manifest.get("generator")
    told = said.get("workers") if isinstance(said, dict) else None
    return [
        GeneratorProcess(
            name=f"worker {one.get('worker_index')}", host=str(one.get("host") or ""), sent=_whole(one.get("sent")),
            rows=_whole(one.get("rows")), send_lag_p99_ms=_number(one.get("send_lag_p99_ms")),
            hub_lag_p99_ms=_number(one.get("hub_lag_p99_ms")), cpu_s=_number(one.get("cpu_s")),
            cpu_steal_ratio=_number(one.get("cpu_steal_ratio")), clock_error_ms=_ms(one.get("clock_error_ns")),
        )
        for one in (told if isinstance(told, list) else [])
        if isinstance(one, dict)
    ]  # fmt: skip


def _unit(name: str) -> str:
    end = name.rpartition("_")[2]
    return end if end in ("ms", "s", "ratio") else "count"


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ms(value: object) -> float | None:
    number = _number(value)
    return None if number is None else number / 1e6
