"""Undo operations on real processes: idempotent, exact about whom, honest about what is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import undo
from harness.core import clock, ids, proc
from harness.core.proc import Identity
from tests.fixtures.faults_lab import PYTHON

SLEEP = [*PYTHON, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sut_id() -> Iterator[str]:
    name = ids.token()
    yield name
    proc.stop_all(proc.marked(proc.SUT_ENV, name), 0)
    proc.reap()


def start(sut_id: str, tmp_path: Path, target: str = "worker-1") -> Identity:
    return proc.spawn_detached(SLEEP, {proc.SUT_ENV: sut_id, proc.TARGET_ENV: target}, tmp_path / "log")


def spawn_op(sut_id: str, tmp_path: Path, old: Identity, **more: Any) -> dict[str, Any]:
    env = {proc.SUT_ENV: sut_id, proc.TARGET_ENV: "worker-1"}
    base = {"op": "spawn", "target": "worker-1", "argv": SLEEP, "env": env, "cwd": "/", "sut_id": sut_id}
    replaces = {"pid": old.pid, "start_ticks": old.start_ticks}
    return {**base, "log": str(tmp_path / "log"), "replaces": replaces, "tree": [list(old)], **more}


def test_cont_lets_it_run_twice(sut_id: str, tmp_path: Path) -> None:
    who = start(sut_id, tmp_path)
    proc.send(who, signal.SIGSTOP)
    ops = undo.cont([who])
    assert clock.wait_until(lambda: undo.stopped(who), 5)
    assert undo.commands(ops) == [f"kill -CONT {who.pid}"]
    assert [one["did"] for one in undo.apply(ops)] == ["sent CONT"]
    assert undo.verify(ops) == [] and undo.commands(ops) == []
    undo.apply(ops)
    assert undo.verify(ops) == []


def test_a_reused_pid_is_never_touched(sut_id: str, tmp_path: Path) -> None:
    who = start(sut_id, tmp_path)
    proc.send(who, signal.SIGSTOP)
    assert clock.wait_until(lambda: undo.stopped(who), 5)
    earlier = Identity(who.pid, who.start_ticks - 1)
    assert undo.apply(undo.cont([earlier]))[0]["did"] == "already gone"
    assert undo.stopped(who)
    kill = [{"op": "signal", "pid": who.pid, "start_ticks": who.start_ticks - 1, "signal": "KILL"}]
    undo.apply(kill)
    assert proc.alive(who) and undo.verify(kill) == []


def test_still_stopped_is_a_problem(sut_id: str, tmp_path: Path) -> None:
    who = start(sut_id, tmp_path)
    proc.send(who, signal.SIGSTOP)
    assert clock.wait_until(lambda: undo.stopped(who), 5)
    assert undo.verify(undo.cont([who])) == [f"pid {who.pid} is still stopped"]


def test_kill_is_verified(sut_id: str, tmp_path: Path) -> None:
    who = start(sut_id, tmp_path)
    op = [{"op": "signal", "pid": who.pid, "start_ticks": who.start_ticks, "signal": "KILL"}]
    assert undo.verify(op) == [f"pid {who.pid} still lives"]
    undo.apply(op)
    assert undo.verify(op) == []


def test_spawn_starts_once(sut_id: str, tmp_path: Path) -> None:
    old = start(sut_id, tmp_path)
    op = spawn_op(sut_id, tmp_path, old)
    assert undo.apply([op])[0]["did"] == "never ended" and undo.verify([op]) == []
    proc.stop_all([old], 0)
    assert "worker-1 does not run" in undo.verify([op])[0]
    assert undo.commands([op])[0].startswith("cd / && setsid env -i SQUALL_SUT_ID=")
    first, second = undo.apply([op])[0], undo.apply([op])[0]
    assert (first["did"], second["did"]) == ("started", "already there")
    assert (first["pid"], first["start_ticks"]) == (second["pid"], second["start_ticks"])
    assert undo.verify([op]) == [] and len(proc.marked(proc.SUT_ENV, sut_id)) == 1


def test_another_target_of_the_system_is_not_the_one(sut_id: str, tmp_path: Path) -> None:
    old = start(sut_id, tmp_path)
    start(sut_id, tmp_path, "worker-2")
    proc.stop_all([old], 0)
    assert undo.apply([spawn_op(sut_id, tmp_path, old)])[0]["did"] == "started"


def test_spawn_ends_what_is_left_of_the_old_tree(sut_id: str, tmp_path: Path) -> None:
    old, child = start(sut_id, tmp_path), start(sut_id, tmp_path)
    proc.stop_all([old], 0)
    op = spawn_op(sut_id, tmp_path, old, tree=[list(old), list(child)])
    done = undo.apply([op])[0]
    assert done["did"] == "started" and not proc.alive(child) and done["pid"] != child.pid


def forked(sut_id: str, tmp_path: Path) -> tuple[Identity, Identity]:
    """A target that has a child, with the same marks and the same command line."""
    code = "import os, time; os.fork(); time.sleep(60)"
    env = {proc.SUT_ENV: sut_id, proc.TARGET_ENV: "worker-1"}
    who = proc.spawn_detached([*PYTHON, "-c", code], env, tmp_path / "log")
    assert clock.wait_until(lambda: len(proc.tree(who)) == 2, 5)
    return who, proc.tree(who)[1]


def test_a_child_that_outlives_the_target_is_not_the_target(sut_id: str, tmp_path: Path) -> None:
    old, child = forked(sut_id, tmp_path)
    op = spawn_op(sut_id, tmp_path, old)
    assert undo.living(sut_id, "worker-1") == old
    proc.send(old, signal.SIGKILL)
    assert clock.wait_until(lambda: not proc.alive(old), 5) and proc.alive(child)
    assert undo.living(sut_id, "worker-1") is None and "worker-1 does not run" in undo.verify([op])[0]
    done = undo.apply([op])[0]
    assert done["did"] == "started" and not proc.alive(child)
    assert undo.living(sut_id, "worker-1") == (done["pid"], done["start_ticks"])


def test_a_kill_that_was_cut_short_leaves_nobody_stopped(sut_id: str, tmp_path: Path) -> None:
    old, child = forked(sut_id, tmp_path)
    for one in (old, child):
        proc.send(one, signal.SIGSTOP)
        assert clock.wait_until(lambda one=one: undo.stopped(one), 5)  # type: ignore[misc]
    op = spawn_op(sut_id, tmp_path, old)
    assert undo.verify([op]) == [f"worker-1 (pid {old.pid}) is still stopped"]
    assert undo.commands([op]) == [f"kill -CONT {old.pid}"]
    assert undo.apply([op])[0]["did"] == "never ended" and undo.verify([op]) == []
    assert clock.wait_until(lambda: not undo.stopped(child), 5)


def test_spawn_with_stop_replaces_a_living_one(sut_id: str, tmp_path: Path) -> None:
    old = start(sut_id, tmp_path)
    op = spawn_op(sut_id, tmp_path, old, stop=True)
    done = undo.apply([op])[0]
    assert done["did"] == "started" and not proc.alive(old) and undo.verify([op]) == []


def test_a_program_that_is_not_there_is_said(sut_id: str, tmp_path: Path) -> None:
    old = start(sut_id, tmp_path)
    proc.stop_all([old], 0)
    op = spawn_op(sut_id, tmp_path, old, argv=["/nowhere/python"])
    done = undo.apply([op])[0]
    assert done["did"] == "failed" and "FileNotFoundError" in done["error"]
    assert "does not run" in undo.verify([op])[0]


@pytest.mark.parametrize(
    "op", [{"op": "dance"}, {}, {"op": "signal", "pid": 1}, {"op": "signal", "signal": "NO"}]
)
def test_nonsense_does_not_stop_the_others(op: dict[str, Any], sut_id: str, tmp_path: Path) -> None:
    who = start(sut_id, tmp_path)
    proc.send(who, signal.SIGSTOP)
    assert clock.wait_until(lambda: undo.stopped(who), 5)
    done = undo.apply([op, *undo.cont([who])])
    assert [one["did"] for one in done] == ["failed", "sent CONT"]
    assert len(undo.verify([op])) == 1 and len(undo.commands([op])) == 1
