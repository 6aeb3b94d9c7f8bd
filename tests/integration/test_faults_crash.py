"""kill -9 at every journal transition of every fault: what is left afterwards is what was before.

Small real processes stand in for the system. (a) the run is killed, its child and the guardian live;
(c) everything of ours but the guardian; (d) guardian and all, then `recover` twice.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from faults import guardian, restore, undo
from faults.recover import recover
from harness.core import clock, proc, rundir
from harness.core.errors import NotRestored, UsageError
from tests.fixtures.faults_lab import Lab, system

ROOT = Path(__file__).resolve().parents[2]


def _start(lab: Lab, fault: str, point: str) -> proc.Identity:
    argv = [sys.executable, "-m", "tests.fixtures.faults_run", "run", str(lab.run.path), point, fault]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return proc.spawn_detached(argv, env, lab.run.log("run"), ROOT)


def _reach(lab: Lab, fault: str, point: str) -> tuple[proc.Identity, list[proc.Identity]]:
    run = _start(lab, fault, point)
    reached = clock.wait_until(lambda: (lab.run.path / "reached").exists(), 60)
    assert reached, f"{proc.tail(lab.run.log('inject'))}\n{proc.tail(lab.run.log('run'))}"
    return run, guardian.find(lab.run_id)


def _kill(*who: proc.Identity) -> None:
    for one in who:
        proc.send(one, signal.SIGKILL)


def test_recover_refuses_while_the_run_lives(tmp_path: Path) -> None:
    with system(tmp_path, owner="up") as lab:
        run, guards = _reach(lab, "process.pause", "verified")
        with pytest.raises(UsageError, match=f"process {run.pid} still works"):
            recover(lab.run, lambda _: None)
        assert lab.state_of("worker-1") == "T"
        _kill(run)
        assert clock.wait_until(lambda: not any(proc.alive(one) for one in guards), 10)
        assert lab.state_of("worker-1") == "S"


def test_recover_names_the_command_for_what_stays(tmp_path: Path) -> None:
    with system(tmp_path, owner="up") as lab:
        run, guards = _reach(lab, "process.kill", "verified")
        _kill(*guards, run, *proc.marked(proc.RUN_ENV, lab.run_id))
        proc.reap()
        assert clock.wait_until(lambda: not proc.alive(run), 5)
        lines = lab.run.journal.read_text().replace(sys.executable, "/nowhere/python")
        lab.run.journal.write_text(lines)
        with pytest.raises(NotRestored, match="worker-1 does not run") as stays:
            recover(lab.run, lambda _: None)
        assert any("setsid env -i" in line and "/nowhere/python" in line for line in stays.value.commands)
        assert not lab.run.restored.exists()
        assert lab.phases("f")[-1] == "failed"


def test_recover_waits_for_a_guardian_at_work(tmp_path: Path) -> None:
    with system(tmp_path, owner="run") as lab:
        run, guards = _reach(lab, "process.pause", "verified")
        _kill(run)
        assert clock.wait_until(lambda: not proc.alive(run), 5)
        said: list[str] = []
        recover(lab.run, said.append)
        assert not any(proc.alive(one) for one in guards)
        assert proc.marked(proc.SUT_ENV, lab.sut_id) == []
        assert said[-1].endswith("host as before")


def test_a_normal_end_leaves_the_guardian_silent(tmp_path: Path) -> None:
    with system(tmp_path, owner="run") as lab:
        guard = guardian.start(lab.run, lab.run_id)
        assert guard.alive()
        argv = Path(f"/proc/{guard.pid}/cmdline").read_text()
        assert "faults.guardian" in argv
        assert os.getsid(guard.pid) == guard.pid
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard.pid, name)
        assert guard.alive()
        assert guard.done() is True
        assert lab.state_of("worker-1") == "S" and not lab.run.restored.exists()
        assert lab.run.log("guardian").read_bytes() == b""


def test_a_system_that_was_being_made_is_torn_down(tmp_path: Path) -> None:
    """No sut.json yet: the guardian knows the id of the system."""
    with system(tmp_path, owner="run") as lab:
        lab.run.sut.unlink()
        guard = guardian.start(lab.run, lab.run_id, lab.sut_id)
        os.close(guard._fd)
        assert proc.wait(guard._child, 10) == 0
        assert proc.marked(proc.SUT_ENV, lab.sut_id) == [] and lab.run.restored.exists()


def test_a_deadline_undoes_one_fault_while_the_run_lives(tmp_path: Path) -> None:
    with system(tmp_path, workers=2, owner="run") as lab:
        for name in ("worker-1", "worker-2"):
            proc.send(lab.who(name), signal.SIGSTOP)
        anchor = clock.anchor_now()
        journal = lab.journal(anchor)
        for name, deadline_s in (("worker-1", 0), ("worker-2", 600)):
            plain = {
                "ops": undo.cont([lab.who(name)]), "anchor_mono_ns": anchor.mono_ns,
                "deadline_ns": clock.now_ns() + deadline_s * clock.NS,
            }  # fmt: skip
            journal.write(f"p-{name}", "process.pause", "intent", name, undo=plain)
        guard = guardian.start(lab.run, lab.run_id)
        assert clock.wait_until(lambda: lab.phases("p-worker-1")[-1] == "recovered", 10)
        assert lab.state_of("worker-1") == "S" and lab.state_of("worker-2") == "T"
        assert lab.line("p-worker-1", "recovered").evidence["recovered_by"] == "guardian"
        journal.write("p-worker-2", "process.pause", "failed", "worker-2", error="goes on after the guardian")
        assert guard.alive() and lab.phases("p-worker-2") == ["intent", "failed"]
        os.close(guard._fd)
        assert proc.wait(guard._child, 10) == 0
        assert proc.marked(proc.SUT_ENV, lab.sut_id) == []


def test_the_guardian_needs_the_standard_library_only() -> None:
    code = "from faults import guardian, recover"
    argv = [sys.executable, "-S", "-c", code]  # without site-packages
    done = proc.run(argv, {"PYTHONPATH": str(ROOT), "PATH": os.defpath}, 20, Path("/"))
    assert done.code == 0, done.err


def test_children_of_the_run_do_not_hold_the_pipe(tmp_path: Path) -> None:
    """The end of the pipe must come when the run dies, whoever it started."""
    with system(tmp_path, owner="run") as lab:
        guard = guardian.start(lab.run, lab.run_id)
        env = {"PATH": os.defpath, proc.RUN_ENV: lab.run_id}
        child = proc.spawn(
            [sys.executable, "-S", "-c", "import time; time.sleep(60)"], env, lab.run.log("child")
        )
        os.close(guard._fd)
        assert proc.wait(guard._child, 10) == 0
        assert child.wait(5) != 0 and rundir.read_json(lab.run.restored)["processes_stopped"] == 1
        assert restore.run_id_of(lab.run.path) == lab.run_id


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, threading, gevent
from harness.core import clock
from harness.core.rundir import RunDir
from tests.fixtures import faults_lab as lab
one = lab.Lab(RunDir(__import__("pathlib").Path(sys.argv[1])), "", "")
steps = [lab.step("kill", "process.kill", at_s=0, restart_after_s=0.1),
         lab.step("pause", "process.pause", at_s=0.1, hold_s=60, select={"role": "worker", "index": [2]})]
scheduler = lab.scheduler(one, steps, duration_s=120)
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
run = gevent.spawn(scheduler.run)
while [line.phase for line in one.lines()].count("verified") < 2 or "recovered" not in one.phases("kill"):
    gevent.sleep(0.02)
assert scheduler.open_ids() == ["pause"], scheduler.open_ids()
assert scheduler.stop() == []
run.join(10)
assert run.successful() and len(ticks) > 20, "the hub was held up"
"""


def test_the_scheduler_runs_as_greenlets(tmp_path: Path) -> None:
    with system(tmp_path, workers=2, frontend=[]) as lab:
        env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
        done = proc.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", GREENLETS, str(lab.run.path)], env, 40
        )
        assert done.code == 0, done.err
        assert lab.phases("kill")[-1] == "recovered" and lab.phases("pause")[-1] == "recovered"
        assert lab.state_of("worker-1") in {"S", "R"} and lab.state_of("worker-2") in {"S", "R"}
