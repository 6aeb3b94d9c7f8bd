"""Does memory grow with the number of streams? SQUALL_BENCH_STREAMS of them (a million unless told), short.

SQUALL_BENCH_CLIENTS chooses an engine, as in client.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks import client, ground
from benchmarks.ground import Load

STREAMS = int(os.environ.get("SQUALL_BENCH_STREAMS", "1000000"))
USERS = 100  # more than can be judged: what waits to be is bounded (MOST_JOBS)


def measure(place: Path) -> str:
    """Resident memory at each tenth. Lag keeps 16 bytes a request and Locust's statistics a little; no more."""
    why = ground.build(place)
    if why is not None:
        return f"skipped: {why}"
    lines, words = [], os.environ.get("SQUALL_BENCH_CLIENTS", "squall").split(",")
    for name in ("squall, reactor", "squall, hub"):
        if not any(word in name for word in words):
            continue
        load, out = (
            Load(USERS, STREAMS // USERS, tokens=8, gap_ms=5.0, first_ms=5.0),
            place / f"leak-{name[-3:]}",
        )
        one = ground.measure(place, load, client.CLIENTS[name](load, out))
        said = json.loads((out / "bench.json").read_text())
        grown = [f"{mib:.0f}" for mib in said["rss_mib"]]
        lines.append(f"{name}: {said['ok']} of {STREAMS} streams ok in {one.wall_s:.0f} s, MiB at each tenth: {' '.join(grown)}")  # fmt: skip
    return "\n".join(lines)
