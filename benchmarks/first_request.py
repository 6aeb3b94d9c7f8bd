"""From the command to the first request on the wire, with venvs present; three runs, all shown."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from harness.core import clock, proc, rundir

RUNS = 3
SETS = ("load.duration_s=2", "load.warmup_s=1", "load.drain_s=4", "faults=[]", "gates=[]")


def measure(place: Path) -> str:
    """Seconds, one figure a run."""
    return "command to first request: " + ", ".join(f"{_once(place / str(n)):.2f} s" for n in range(RUNS))


def _once(out: Path) -> float:
    scenario = rundir.project_root() / "configs" / "scenarios" / "quickstart.yaml"
    argv = [str(Path(sys.executable).parent / "squall"), "run", str(scenario), "--out", str(out)]
    argv += [word for override in SETS for word in ("--set", override)]
    began = clock.now_ns()
    done = proc.run(argv, env=dict(os.environ), timeout_s=120)
    if done.code not in (0, 4):
        raise RuntimeError(f"squall run ended with {done.code}: {done.err}")
    anchor = json.loads((out / "manifest.json").read_text())["anchor"]["mono_ns"]
    with (out / "records-0.jsonl").open() as lines:
        first = min(json.loads(line)["t_start_ns"] for line in lines)
    return (anchor + first - began) / clock.NS
