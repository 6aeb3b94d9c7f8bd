"""process.crashloop: n identities, each seen gone, each a new one; then it serves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from faults.crashloop import Crashloop
from faults.ports import Target
from harness.core import clock, proc
from harness.core.errors import FaultError
from harness.core.proc import Identity
from harness.platforms.local import LocalProcesses
from tests.fixtures.faults_lab import scheduler, step, system

pytestmark = pytest.mark.slow


def test_each_is_a_new_one_and_each_is_gone(tmp_path: Path) -> None:
    with system(tmp_path, workers=2, frontend=[], options=["child"]) as lab:
        first = lab.who("worker-1")
        scheduler(lab, [step("loop", "process.crashloop", times=3, restart_after_s=0.3)]).run()
        seen = lab.line("loop", "verified").evidence
        whole = [Identity(*one) for one in seen["identities"]]
        assert whole[0] == first and len({*whole}) == 3 and not any(proc.alive(one) for one in whole)
        assert len(seen["every_s"]) == 2 and min(seen["every_s"]) >= 0.3
        back = lab.line("loop", "recovered").evidence
        assert back["took_request"] is True and back["recovered_by"] == "undo"
        assert Identity(back["pid"], back["start_ticks"]) == lab.who("worker-1") not in whole
        last_ns = seen["effective_ns"] + (sum(seen["every_s"]) - 2 * 0.0005) * 1e9  # each was rounded to 1 ms
        assert lab.line("loop", "recovering").t_ns >= last_ns + 3e8
        left = [
            one for one in proc.marked(proc.SUT_ENV, lab.sut_id) if one not in proc.tree(lab.who("worker-1"))
        ]
        assert len(left) == 3, "the other worker with its child, and the frontend"


def test_stopping_the_run_ends_the_loop(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[]) as lab:
        one = scheduler(lab, [step("loop", "process.crashloop", times=100, restart_after_s=0.2)])
        thread = threading.Thread(target=one.run)
        thread.start()
        first = lab.who("worker-1")
        assert clock.wait_until(lambda: lab.who("worker-1") != first, 15)
        assert one.stop() == []
        thread.join(10)
        assert "run was stopped" in lab.line("loop", "failed").error
        assert lab.phases("loop")[-1] == "recovered" and proc.alive(lab.who("worker-1"))


def test_one_that_does_not_come_back_is_no_loop(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        fault, ports = Crashloop(times=2, restart_after_s=0), lab.ports(0.5)
        made = fault.prepare(ports, Target("worker", 1))
        broken = dict(made.ops[0]) | {"argv": ["/bin/false"]}
        made = type(made)((broken,), made.identity, made.saved)
        fault.inject(ports, Target("worker", 1), made)
        with pytest.raises(FaultError, match=r"worker-1.* (ended by itself|gone at once)"):
            fault.verify(ports, Target("worker", 1), made)


def test_the_same_process_again_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with system(tmp_path) as lab:
        fault, ports = Crashloop(times=2, restart_after_s=0), lab.ports()
        made = fault.prepare(ports, Target("worker", 1))
        fault.inject(ports, Target("worker", 1), made)
        monkeypatch.setattr(LocalProcesses, "respawn", lambda *_: made.identity)
        with pytest.raises(FaultError, match="no new process"):
            fault.verify(ports, Target("worker", 1), made)


def test_what_cannot_be_a_loop_is_refused(tmp_path: Path) -> None:
    bad: Any
    for bad in ({"times": 0}, {"times": 1000}, {"restart_after_s": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Crashloop(**bad)
    with system(tmp_path, owner="outside") as lab, pytest.raises(FaultError, match="can't crash twice"):
        Crashloop().prepare(lab.ports(), Target("worker", 1))
