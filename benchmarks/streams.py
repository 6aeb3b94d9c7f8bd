"""How many streams one process takes on one core: CPU over time at 50 tokens a second each, and lost records."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import client, ground
from benchmarks.ground import Load

LOADS = {"squall, reactor": Load(streams=2000, rounds=3, tokens=1000), "squall, hub": Load(streams=1000, rounds=3, tokens=1000)}  # fmt: skip


def measure(place: Path) -> str:
    """A line for each engine."""
    why = ground.build(place)
    if why is not None:
        return f"skipped: {why}"
    lines = []
    for name, load in LOADS.items():
        out = place / name.rpartition(" ")[2]
        one = ground.measure(place, load, client.CLIENTS[name](load, out))
        said = json.loads((out / "bench.json").read_text())
        streaming_s = load.rounds * (load.tokens * load.gap_ms + load.first_ms) / 1000
        lag = said["generator"]
        lines.append(
            f"{name}: {load.streams} streams x {1000 / load.gap_ms:g} tokens/s, {streaming_s:.0f} s: {lag['cpu_s']:.1f} s CPU "
            f"({lag['cpu_s'] / streaming_s:.0%} of a core; {one.cpu_s:.1f} s with start-up), {said['rows']} of "
            f"{load.streams * load.rounds} records, {said['ok']} ok, hub lag p99 {lag['hub_lag_p99_ms']:.1f} ms, "
            f"coalesced {lag['coalesced_any_ratio']:.3%}"
        )
    return "\n".join(lines)
