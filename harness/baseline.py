"""The accepted baseline of each scenario: who accepted what, when and why. It never advances by itself.

A baseline that follows every good night swallows slow creep; so accepting is an act of a person, and every
one is kept (`runs/baselines/<scenario>.jsonl`, append-only).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from harness.core import clock, expfile, rundir
from harness.core.errors import Exit, UsageError

UNFIT = ("fail", "invalid")


class Accepted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One acceptance. status: the verdict of the experiment whose candidate it is."""

    scenario: str
    label: str
    sut: dict[str, Any]
    experiment_id: str
    status: str
    who: str
    why: str
    at: str


def accept(runs: Path, experiment: Path, who: str | None, why: str, show: Callable[[str], None]) -> int:
    """`squall baseline accept`: the candidate of an experiment becomes the baseline. Raises UsageError."""
    if not why.strip():
        raise UsageError("--why is empty; say why this may be the baseline from now on")
    file = expfile.read(experiment)
    verdict = rundir.read_json(experiment / "verdict.json")
    status = str(verdict.get("status"))
    if status in UNFIT:
        raise UsageError(
            f"{experiment}: its verdict is {status}, so its candidate can't be a baseline; run it again first"
        )
    one = Accepted(
        file.scenario, file.b.label, file.b.sut, file.experiment_id, status, who or _user(), why.strip(),
        clock.utc_text(clock.wall_ns()),
    )  # fmt: skip
    path = _path(runs, file.scenario)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    rundir.write_atomic(path, before + msgspec.json.encode(one) + b"\n")
    show(_line(one))
    return int(Exit.PASS)


def show(runs: Path, scenario: str | None, out: Callable[[str], None]) -> int:
    """`squall baseline show`: every acceptance, the newest last."""
    paths = [_path(runs, scenario)] if scenario else sorted((runs / "baselines").glob("*.jsonl"))
    found = [one for path in paths for one in _read(path)]
    for one in found:
        out(_line(one))
    if not found:
        out(
            f"no baseline was accepted{f' for {scenario}' if scenario else ''}: `squall baseline accept EXPERIMENT --why TEXT`"
        )
    return int(Exit.PASS)


def current(runs: Path, scenario: str) -> Accepted:
    """The newest one. Raises UsageError when none was ever accepted."""
    found = _read(_path(runs, scenario))
    if not found:
        raise UsageError(
            f"no baseline was accepted for {scenario}; `squall baseline accept EXPERIMENT --why TEXT`, or name a "
            "version"
        )
    return found[-1]


def _path(runs: Path, scenario: str) -> Path:
    return runs / "baselines" / f"{scenario}.jsonl"


def _read(path: Path) -> list[Accepted]:
    if not path.exists():
        return []
    try:
        return [msgspec.convert(json.loads(line), Accepted) for line in path.read_text().splitlines() if line]
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}; restore it, every line is one acceptance") from None


def _line(one: Accepted) -> str:
    return (
        f"{one.scenario:<24} {one.label:<16} since {one.at}, by {one.who}: {one.why} "
        f"(experiment {one.experiment_id}, {one.status})"
    )


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
