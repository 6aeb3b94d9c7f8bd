"""What the world does while a fault is on: the target replaced or gone by itself, a full disk, a clock step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import FAULTS
from faults.scheduler import Hooks
from harness.core import clock, proc
from tests.conftest import need
from tests.fixtures.fault_benches import BENCHES
from tests.fixtures.faults_lab import Lab, scheduler, step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENDS_A_PROCESS = [name for name in FAULTS if name.startswith("process.")]
LASTING = [name for name in ENDS_A_PROCESS if "hold_s" in BENCHES[name].params]


def _begin(lab: Lab, name: str, hooks: Hooks | None = None, **more: object) -> threading.Thread:
    row = BENCHES[name]
    params = {**row.params, **more}
    thread = threading.Thread(
        target=scheduler(lab, [step("f", name, at_s=0.3, **row.select(), **params)], hooks).run
    )
    thread.start()
    return thread


def _skip(name: str) -> None:
    for marker in BENCHES[name].markers:
        need(marker)


@pytest.mark.parametrize("name", ENDS_A_PROCESS)
def test_a_target_replaced_before_the_injection_is_left_alone(name: str, tmp_path: Path) -> None:
    """Its name lives on in another process: what was announced for the old one must not hit the new one."""
    _skip(name)
    heard: list[str] = []
    with BENCHES[name].lab(tmp_path, owner="run") as lab:
        target = BENCHES[name].target
        old = lab.who(target.name)

        def replace(_: object) -> None:
            processes = lab.ports().processes
            op = processes.find(target).respawn
            assert op is not None
            processes.respawn({**op, "stop": True})

        hooks = Hooks(before=replace, on_failed=lambda _i, _t, why: heard.append(why))
        _begin(lab, name, hooks).join(60)
        new = lab.who(target.name)
        assert new != old and proc.alive(new) and lab.state_of(target.name) in {"S", "R", "D"}
        assert "verified" not in lab.phases("f") and lab.phases("f")[-1] == "recovered"
        assert any("gone at injection" in why for why in heard), heard


@pytest.mark.parametrize("name", LASTING)
def test_a_target_that_ends_while_the_fault_is_on_is_started_again(name: str, tmp_path: Path) -> None:
    """Undoing doesn't bring a dead process back: it is started again, and the journal names the new one."""
    _skip(name)
    with BENCHES[name].lab(tmp_path, owner="run") as lab:
        target = BENCHES[name].target
        old = lab.who(target.name)
        thread = _begin(lab, name, hold_s=1.5)
        assert clock.wait_until(lambda: "verified" in lab.phases("f"), 30)
        for one in reversed(proc.tree(old)):
            proc.send(one, signal.SIGKILL)
        thread.join(60)
        assert lab.phases("f")[-1] == "recovered"
        by = lab.line("f", "recovered").evidence["recovered_by"]
        assert by == ("restart" if name == "process.pause" else "undo"), "a cgroup's undo starts it, too"
        assert lab.who(target.name) != old and lab.state_of(target.name) in {"S", "R", "D"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_full_disk_means_no_injection(name: str, tmp_path: Path) -> None:
    """The journal is a disk that takes nothing: no intent, so no fault."""
    _skip(name)
    heard: list[str] = []
    with BENCHES[name].lab(tmp_path, owner="run") as lab:
        before = {process.name: process.identity for process in lab.state.processes}
        lab.run.journal.symlink_to("/dev/full")
        _begin(lab, name, Hooks(on_failed=lambda _i, _t, why: heard.append(why))).join(60)
        assert any("No space left on device" in why for why in heard), heard
        assert {process.name: process.identity for process in lab.state.processes} == before
        assert all(proc.alive(who) for who in before.values())
        assert not [name for name in before if lab.state_of(name) == "T"]


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_step_of_the_wall_clock_changes_nothing(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BENCHES["process.pause"].lab(tmp_path, owner="run") as lab:
        real: Callable[[], int] = clock.wall_ns
        thread = _begin(lab, "process.pause", hold_s=1)
        assert clock.wait_until(lambda: "verified" in lab.phases("f"), 30)
        monkeypatch.setattr(clock, "wall_ns", lambda: real() + hours * 3600 * clock.NS)
        thread.join(60)
        lines = lab.lines()
        assert [line.phase for line in lines] == ["intent", "injected", "verified", "recovering", "recovered"]
        assert abs(lines[-1].wall_ns - lines[0].wall_ns) > 3000 * clock.NS, "the step is in the file"
        times = [line.t_ns for line in lines]
        assert times == sorted(times) and times[-1] < 60 * clock.NS
        held_ns = lines[3].t_ns - lab.line("f", "verified").evidence["effective_ns"]
        assert clock.NS <= held_ns < 30 * clock.NS
