"""The crash matrix: kill -9 at every journal transition of every fault; afterwards all is as before.

Small real systems (tests/fixtures/fault_benches.py). Killed are (a) the run; (b) the process in
Locust's place; (c) everything of ours but the guardian; (d) guardian and all, then `recover` twice.
The ground truth of the OS (tests/fixtures/ground.py) is compared with the snapshot taken before.

`make test` does (c) whole and a seeded tenth of the rest, `make matrix` (SQUALL_MATRIX=all) everything.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from faults import FAULTS, guardian
from faults.recover import recover
from harness.core import clock, ids, proc
from harness.core.proc import Identity
from tests.conftest import need
from tests.fixtures import ground
from tests.fixtures.fault_benches import BENCHES
from tests.fixtures.faults_lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("intent", "strike", "injected", "verified", "recovering", "undone", "recovered")
MODES = ("a", "b", "c", "d")
Mode = Literal["a", "b", "c", "d"]
OWNERS: dict[str, Literal["run", "up"]] = {"a": "up", "b": "run", "c": "run", "d": "up"}
AT_ONCE = 4
REACH_S, GUARDIAN_S = 60, 20


def cells(everything: bool) -> list[tuple[str, str, str]]:
    """(fault, mode, point): all, or (c) whole and a tenth of the others, drawn by a fixed seed."""
    every = [(fault, mode, point) for fault in FAULTS for mode in MODES for point in POINTS]
    if everything:
        return every
    rest = [cell for cell in every if cell[1] != "c"]
    drawn = {*ids.rng(1, "matrix", len(rest)).sample(rest, -(-len(rest) // 10))}
    return [cell for cell in every if cell[1] == "c" or cell in drawn]


CELLS = cells(os.environ.get("SQUALL_MATRIX") == "all")


@pytest.mark.parametrize("fault", FAULTS)
def test_kill_9_leaves_everything_as_before(tmp_path: Path, fault: str) -> None:
    assert fault in BENCHES, f"{fault} has no row in tests/fixtures/fault_benches.py"

    def case(cell: tuple[str, str, str]) -> str | None:
        _, mode, point = cell
        path = tmp_path / f"{mode}-{point}"
        path.mkdir()
        try:
            crash(path, fault, point, mode)
        except BaseException:  # a thread's failure belongs to the test, with its cell
            return f"{mode} at {point}:\n{traceback.format_exc()}"
        return None

    for marker in BENCHES[fault].markers:
        need(marker)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [said for said in pool.map(case, [cell for cell in CELLS if cell[0] == fault]) if said]
    assert not failures, "\n".join(failures)


def test_the_matrix_has_every_cell() -> None:
    every, some = cells(everything=True), cells(everything=False)
    assert len(every) == len({*every}) == len(FAULTS) * len(MODES) * len(POINTS)
    assert {*some} < {*every} and {cell for cell in every if cell[1] == "c"} < {*some}
    assert some == cells(everything=False)


def crash(tmp_path: Path, fault: str, point: str, mode: str) -> None:
    """One cell."""
    owner = OWNERS[mode]
    with BENCHES[fault].lab(tmp_path, owner=owner) as lab:
        before = ground.snapshot(lab)
        run = start(lab, fault, point)
        assert clock.wait_until(lambda: (lab.run.path / "reached").exists(), REACH_S), said(lab)
        guards = guardian.find(lab.run_id)
        assert len(guards) == 1
        kill(lab, mode, run, guards, before)
        assert clock.wait_until(lambda: not any(proc.alive(one) for one in guards), GUARDIAN_S), said(lab)
        assert clock.wait_until(lambda: not proc.alive(run), GUARDIAN_S), said(lab)
        check(lab, owner, before)


def kill(lab: Lab, mode: str, run: Identity, guards: list[Identity], before: dict[str, object]) -> None:
    """Kill what the mode names; (d) puts things right by `recover`, whose second call changes nothing."""
    ours = proc.marked(proc.RUN_ENV, lab.run_id)
    assert ours
    victims = {"a": [run], "b": ours, "c": [run, *ours], "d": [*guards, run, *ours]}[mode]
    for one in victims:
        proc.send(one, signal.SIGKILL)
    if mode != "d":
        return
    assert clock.wait_until(lambda: not any(proc.alive(one) for one in victims), 5)
    recover(lab.run, lambda _: None)
    clock.wait_until(lambda: ground.snapshot(lab) == before, 15)  # a process that was started again comes up
    again = ground.snapshot(lab), lab.run.journal.read_bytes(), lab.run.restored.read_bytes()
    recover(lab.run, lambda _: None)
    assert again == (ground.snapshot(lab), lab.run.journal.read_bytes(), lab.run.restored.read_bytes())


def check(lab: Lab, owner: str, before: dict[str, object]) -> None:
    """As before; a system of the run's own is gone, with everything that was made for it."""
    assert lab.run.restored.exists(), said(lab)
    assert proc.marked(proc.RUN_ENV, lab.run_id) == []
    assert lab.phases("f")[-1] == "recovered", lab.phases("f")
    assert [line.seq for line in lab.lines()] == list(range(1, len(lab.lines()) + 1))
    if owner == "run":
        gone = {**before, "system": {}, "namespaces": [], "tc": {}, "nft": {"None": before["nft"]["None"]}}  # type: ignore[index]
        assert clock.wait_until(lambda: ground.snapshot(lab) == gone, 10), (
            ground.snapshot(lab),
            gone,
            said(lab),
        )
        return
    assert clock.wait_until(lambda: ground.snapshot(lab) == before, 15), (
        ground.snapshot(lab),
        before,
        said(lab),
    )
    for process in lab.state.processes:
        assert proc.alive(process.identity), f"{process.name}: sut.json names a dead process"


def start(lab: Lab, fault: str, point: str) -> Identity:
    argv = [sys.executable, "-m", "tests.fixtures.faults_run", "run", str(lab.run.path), point, fault]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return proc.spawn_detached(argv, env, lab.run.log("run"), ROOT)


def said(lab: Lab) -> str:
    logs = ("inject", "run", "guardian")
    phases = "; ".join(f"{line.phase} {line.error or ''}".strip() for line in lab.lines())
    return "\n".join([phases, *(f"{name}: {proc.tail(lab.run.log(name), 8)}" for name in logs)])
