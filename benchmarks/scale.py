"""How many streams one host drives with one Locust process and with two, and what a chunk costs then.

The server (benchmarks/ticker.py) needs CPU of the same host, so with few cores two processes can only
show what they cost, not how far they would scale.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ticker import TOKENS
from harness.core import clock, proc, rundir
from harness.sut import ports

TICK_MS = 20
STREAMS = (250, 500, 1000)
PROCESSES = (1, 2)
SECONDS = 6


def measure(place: Path) -> str:
    """A line for each number of streams and processes."""
    lines = [
        "streams  processes  chunks/s (asked)  CPU us/chunk  hub lag p99/max ms  send lag p99 ms  coalesced late"
    ]
    with ports.reserved(1) as (port,):
        argv = [sys.executable, "-m", "benchmarks.ticker", str(port), str(TICK_MS)]
        server = proc.spawn(argv, os.environ, place / "server.log", cwd=rundir.project_root())
        try:
            if not clock.wait_until(lambda: _listens(port), 10):
                raise RuntimeError(f"the server didn't start: {proc.tail(place / 'server.log')}")
            lines += [_once(place, port, streams, count) for streams in STREAMS for count in PROCESSES]
        finally:
            server.kill()
            server.wait()
    cost = proc.run([sys.executable, "-m", "benchmarks.message_cost"], cwd=rundir.project_root())
    lines.append(f"a worker's word to its master: {cost.out.strip()} us of CPU, 20 a second")
    return "\n" + "\n".join(lines)


def _once(place: Path, port: int, streams: int, processes: int) -> str:
    name = f"scale-{streams}-{processes}"
    scenario = place / f"{name}.yaml"
    scenario.write_text(yaml.safe_dump(_scenario(name, port, streams, processes)))
    squall = [str(Path(sys.executable).parent / "squall"), "run", str(scenario), "--out", str(place / name)]
    done = proc.run(squall, env=dict(os.environ), timeout_s=180)
    try:
        manifest = json.loads((place / name / "manifest.json").read_text())
    except OSError:
        raise RuntimeError(f"squall run ended with {done.code}: {done.err}") from None
    metrics = json.loads((place / name / "metrics.json").read_text())
    return _line(streams, processes, manifest["generator"], metrics["all"]["output_tokens_per_s"] or 0)


def _scenario(name: str, port: int, streams: int, processes: int) -> dict[str, Any]:
    user = {"class": "ChatUser", "count": streams, "prompt_tokens": 20, "output_tokens": TOKENS}
    return {
        "schema": 1, "name": name,
        "sut": {"url": f"http://127.0.0.1:{port}", "model": "m", "oracle": "count"},
        "load": {"duration_s": SECONDS, "warmup_s": 3, "drain_s": 3, "users": [user]},
        "generator": {"processes": processes},
    }  # fmt: skip


def _line(streams: int, processes: int, g: dict[str, Any], chunks_per_s: float) -> str:
    asked = streams * 1000 / TICK_MS * TOKENS / (TOKENS + 2)
    return (
        f"{streams:>7}  {processes:>9}  {chunks_per_s:>8.0f} ({asked:.0f})  "
        f"{1e6 * g['cpu_s'] / max(1, g['chunks']):>12.1f}  {g['hub_lag_p99_ms']:>8.1f} / {g['hub_lag_max_ms']:<7.1f}  "
        f"{g['send_lag_p99_ms']:>15.1f}  {g['coalesced_ratio']:>14.4f}"
    )


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
