"""Apache Otava in a venv of its own, from configs/locks/bench.lock."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import uv

from benchmarks.detection.generate import Floats
from harness.core import proc, rundir

LOCK = rundir.project_root() / "configs" / "locks" / "bench.lock"
VENV = rundir.project_root() / ".cache" / "venv-bench"


def python() -> Path:
    """Its interpreter, after making the venv when it is missing or from another lock."""
    marker, digest = VENV / "lock.sha256", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    there = VENV / "bin" / "python"
    if not (marker.exists() and marker.read_text() == digest and there.exists()):
        VENV.parent.mkdir(exist_ok=True)
        _uv("venv", "--no-project", "--clear", "--python", sys.executable, str(VENV))
        _uv("pip", "install", "--python", str(there), "--require-hashes", "--no-deps", "-r", str(LOCK))
        marker.write_text(digest)
    return there


def version() -> str:
    """The locked version."""
    lines = (line for line in LOCK.read_text().splitlines() if line.startswith("apache-otava=="))
    return next(lines).partition("==")[2].split()[0]


def _uv(*args: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = proc.run([uv.find_uv_bin(), *args], env=env, timeout_s=600)
    if done.code:
        raise RuntimeError(f"uv {args[0]} failed: {done.err[-1000:]}")


def change_points(series: Floats, level: float, place: Path) -> list[list[list[float]]]:
    """[index, p, mean before, mean after] of each change point in each series (series, points)."""
    given, out = place / "series.npy", place / "points.json"
    np.save(given, series)
    script = Path(__file__).with_name("otava_series.py")
    done = proc.run([str(python()), str(script), str(given), str(level), str(out)], timeout_s=3600)
    if done.code:
        raise RuntimeError(f"otava failed: {done.err[-1000:]}")
    found: list[list[list[float]]] = json.loads(out.read_text())
    return found
