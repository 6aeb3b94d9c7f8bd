"""Apache Otava, which finds the points where a series changed, in a venv of its own: `.cache/otava`.

It pins an older numpy than squall's, and asks for the clients of several databases that change detection
doesn't need; configs/locks/otava.lock has the three packages that it does. The lock is made by

    uv pip compile in.txt --override ov.txt --generate-hashes --no-header --no-annotate --python-version 3.11

with apache-otava in in.txt, and in ov.txt, for each of its other requirements but numpy and scipy, a line
`NAME; sys_platform == "never"`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from harness.core import proc, rundir
from harness.core.errors import ProvisionError
from harness.sut import lock

MAX_PVALUE = 0.001
MIN_MAGNITUDE = 0.03
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 900, 600
MARKER = "squall-lock.sha256"
SCRIPT = """
import json, sys
from otava.analysis import compute_change_points
asked = json.load(open(sys.argv[1]))
found = {}
for name, series in asked["series"].items():
    points, _ = compute_change_points(series, max_pvalue=asked["max_pvalue"], min_magnitude=asked["min_magnitude"])
    found[name] = [[int(p.index), float(p.stats.pvalue), float(p.stats.mean_1), float(p.stats.mean_2)] for p in points]
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True)
class Point:
    """The series is another from `index` on: mean before and after, and how surely."""

    index: int
    p: float
    before: float
    after: float


def change_points(
    series: Mapping[str, Sequence[float]], say: Callable[[str], None]
) -> dict[str, list[Point]]:
    """Points of change of each series, by its name. Raises ProvisionError when Otava can't be had."""
    asked = {"series": {name: list(one) for name, one in series.items()}, "max_pvalue": MAX_PVALUE,
             "min_magnitude": MIN_MAGNITUDE}  # fmt: skip
    interpreter = _python(say)
    with tempfile.TemporaryDirectory(prefix="squall-otava-") as place:
        file = Path(place) / "series.json"
        file.write_text(json.dumps(asked))
        done = proc.run([str(interpreter), "-c", SCRIPT, str(file)], timeout_s=RUN_TIMEOUT_S)
    if done.code != 0:
        raise ProvisionError(f"Otava failed with exit code {done.code}:\n{done.err.strip()[-1000:]}")
    return {name: [Point(*point) for point in points] for name, points in json.loads(done.out).items()}


def _python(say: Callable[[str], None]) -> Path:
    """Its interpreter, after making the venv when it is missing or from another lock (network, once)."""
    path = rundir.project_root() / ".cache" / "otava"
    locked = rundir.project_root() / "configs" / "locks" / "otava.lock"
    digest = hashlib.sha256(locked.read_bytes()).hexdigest()
    interpreter, marker = path / "bin" / "python", path / MARKER
    if not _made(interpreter, marker, digest):
        with lock.held(path.parent / ".otava.lock"):
            if not _made(interpreter, marker, digest):
                say("making the venv of Apache Otava (once)")
                shutil.rmtree(path, ignore_errors=True)
                _uv("venv", "--no-project", "--python", sys.executable, str(path))
                _uv(
                    "pip",
                    "install",
                    "--python",
                    str(interpreter),
                    "--require-hashes",
                    "--no-deps",
                    "-r",
                    str(locked),
                )
                rundir.write_atomic(marker, f"{digest}\n".encode(), mode=0o644)
    return interpreter


def _made(interpreter: Path, marker: Path, digest: str) -> bool:
    return interpreter.exists() and marker.exists() and marker.read_text().strip() == digest


def _uv(*args: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = proc.run([uv.find_uv_bin(), *args], env=env, timeout_s=INSTALL_TIMEOUT_S)
    if done.code != 0:
        last = "\n".join((done.err or done.out).strip().splitlines()[-8:])
        raise ProvisionError(
            f"Apache Otava can't be installed, so `squall history` can't look for changes (uv {args[0]} failed; "
            f"`squall history --no-changes` shows the series without):\n{last}"
        )
