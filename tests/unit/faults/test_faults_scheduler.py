"""The scheduler with small real processes: every fault, its proof, its undo, and what goes wrong."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.ports import Found, Target
from faults.scheduler import Hooks
from harness.core import clock, proc
from harness.core.proc import Identity
from harness.platforms.local import LocalProcesses
from tests.fixtures import faults_lab as lab_module
from tests.fixtures.faults_lab import Lab, scheduler, step, system

pytestmark = pytest.mark.slow  # starts many real processes


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with system(tmp_path, workers=2, frontend=[]) as one:
        yield one


def test_kill_is_proven_restarted_and_serving_again(lab: Lab) -> None:
    before = lab.who("worker-1")
    scheduler(lab, [step("kill", "process.kill", restart_after_s=0.3)]).run()
    assert lab.phases("kill") == ["intent", "injected", "verified", "recovering", "recovered"]
    intent, verified = lab.line("kill", "intent"), lab.line("kill", "verified")
    recovering, recovered = lab.line("kill", "recovering"), lab.line("kill", "recovered")
    assert intent.evidence["identity"] == {"pid": before.pid, "start_ticks": before.start_ticks}
    assert intent.evidence["requested_ns"] == 600_000_000
    assert "refuse" in verified.evidence["proof"]
    assert verified.evidence["effective_ns"] >= intent.evidence["requested_ns"]
    assert recovering.t_ns >= verified.evidence["effective_ns"] + 300_000_000
    assert recovered.evidence["recovered_by"] == "undo"
    assert recovered.evidence["proof"] == "runs, healthy, listed by the frontend, took a request"
    assert recovering.t_ns < recovered.evidence["gone_ns"] <= recovered.t_ns
    after = lab.who("worker-1")
    assert after != before and proc.alive(after) and not proc.alive(before)
    assert recovered.evidence["pid"] == after.pid


def test_kill_without_restart_ends_with_the_run(lab: Lab) -> None:
    one = scheduler(lab, [step("kill", "process.kill")])
    thread = threading.Thread(target=one.run)
    thread.start()
    assert clock.wait_until(lambda: "verified" in lab.phases("kill"), 10)
    assert one.open_ids() == ["kill"]
    assert one.stop() == []
    thread.join(10)
    assert one.open_ids() == [] and not thread.is_alive()
    assert lab.phases("kill")[-1] == "recovered" and proc.alive(lab.who("worker-1"))


def test_pause_stops_the_tree_and_lets_it_go_on(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=[], options=["child"]) as lab:
        tree = proc.tree(lab.who("worker-1"))
        assert len(tree) == 2
        states: list[str] = []

        def after(_: Any) -> None:
            states.extend(stat.state for one in tree if (stat := proc.stat(one.pid)))

        scheduler(lab, [step("pause", "process.pause", hold_s=0.5)], Hooks(after=after)).run()
        assert states == ["T", "T"]
        assert [proc.stat(one.pid).state for one in tree] == ["S", "S"]  # type: ignore[union-attr]
        evidence = lab.line("pause", "recovered").evidence
        assert evidence["took_request"] is True and evidence["recovered_by"] == "undo"
        assert "state T, no CPU tick" in lab.line("pause", "verified").evidence["proof"]
        assert lab.who("worker-1") == tree[0]


def test_a_pause_beyond_the_lease_needs_a_restart_and_says_so(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=["forget=0.5"]) as lab:
        before = lab.who("worker-1")
        one = scheduler(lab, [step("pause", "process.pause", hold_s=1.5)], using=lab.ports(1.5))
        one.run()
        recovered = lab.line("pause", "recovered")
        assert recovered.evidence["recovered_by"] == "restart"
        assert "doesn't list it" in recovered.evidence["proof"]
        assert lab.phases("pause").count("recovering") == 2
        assert lab.who("worker-1") != before and not proc.alive(before)


def test_without_traffic_the_proof_says_so(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=["quiet"]) as lab:
        scheduler(lab, [step("pause", "process.pause", hold_s=0.1)]).run()
        evidence = lab.line("pause", "recovered").evidence
        assert evidence["took_request"] is False
        assert "not proven by a request: no traffic" in evidence["proof"]


def test_terminate_watches_the_drain(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=[], options=["child", "drain=0.6"]) as lab:
        child = proc.tree(lab.who("worker-1"))[1]
        scheduler(lab, [step("term", "process.terminate", restart_after_s=0)]).run()
        facts = lab.line("term", "verified").evidence
        assert facts["exit_code"] == 3 and facts["escalated"] is None
        assert facts["leftovers"] == [child.pid] and not proc.alive(child)
        assert facts["effective_ns"] <= facts["refused_ns"] < facts["exit_ns"]
        assert facts["drain_s"] >= 0.5
        assert lab.phases("term")[-1] == "recovered" and proc.alive(lab.who("worker-1"))


def test_terminate_ends_a_drain_that_takes_too_long(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=[], options=["drain=60"]) as lab:
        scheduler(lab, [step("term", "process.terminate", grace_s=0.8, restart_after_s=0)]).run()
        facts = lab.line("term", "verified").evidence
        assert facts["escalated"] == "KILL" and "ended by SIGKILL" in facts["proof"]
        assert lab.phases("term")[-1] == "recovered"


def test_terminate_of_a_deaf_process_is_no_fault(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, frontend=[], options=["deaf"]) as lab:
        scheduler(lab, [step("term", "process.terminate", grace_s=0.5, restart_after_s=0)]).run()
        assert lab.phases("term") == ["intent", "injected", "failed", "recovering", "recovered"]
        assert "no sign of SIGTERM" in lab.line("term", "failed").error


class Misaimed:
    """Signals go to another process: what a wrong pid would do."""

    def __init__(self, real: LocalProcesses, other: Identity) -> None:
        self._real, self._other = real, other

    def signal(self, who: Identity, sig: signal.Signals) -> bool:
        return self._real.signal(self._other, sig)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    ("fault", "params"),
    [
        ("process.kill", {"restart_after_s": 0}),
        ("process.pause", {"hold_s": 1}),
        ("process.terminate", {"restart_after_s": 0, "grace_s": 0.5}),
    ],
)
def test_a_signal_to_another_process_is_no_proof(tmp_path: Path, fault: str, params: dict[str, Any]) -> None:
    with system(tmp_path, workers=2) as lab:
        failed: list[str] = []
        using = lab.ports(1)
        aimed = Misaimed(using.processes, lab.who("worker-2"))  # type: ignore[arg-type]
        hooks = Hooks(on_failed=lambda _i, _t, reason: failed.append(reason))
        using = dataclasses.replace(using, processes=aimed)
        scheduler(lab, [step("f", fault, **params)], hooks, using).run()
        assert lab.phases("f")[:3] == ["intent", "injected", "failed"]
        assert lab.phases("f")[-1] == "recovered"
        assert "verified" not in lab.phases("f") and len(failed) == 1


def test_a_target_gone_at_injection_fails_with_the_reason(lab: Lab) -> None:
    proc.stop_all([lab.who("worker-1")], 0)
    scheduler(lab, [step("pause", "process.pause", hold_s=1)]).run()
    assert lab.phases("pause") == ["failed"]
    assert "is not there any more" in lab.line("pause", "failed").error


def test_gone_between_intent_and_injection(lab: Lab) -> None:
    def before(_: Any) -> None:
        proc.stop_all([lab.who("worker-1")], 0)

    scheduler(lab, [step("pause", "process.pause", hold_s=1)], Hooks(before=before)).run()
    assert lab.phases("pause")[:2] == ["intent", "failed"]
    assert "gone at injection" in lab.line("pause", "failed").error


def test_an_unsteady_system_is_left_alone(lab: Lab) -> None:
    asked: list[int] = []

    def steady() -> str:
        asked.append(1)
        return "ttft still falls"

    pids = [lab.who(name) for name in ("worker-1", "worker-2")]
    steps = [
        step("a", "process.kill"),
        step("b", "process.pause", hold_s=1, select={"role": "worker", "index": [2]}),
    ]
    scheduler(lab, steps, Hooks(steady=steady)).run()
    assert [line.phase for line in lab.lines()] == ["failed", "failed"]
    assert all("ttft still falls" in line.error for line in lab.lines())
    assert asked == [1] and all(proc.alive(who) for who in pids)


def test_two_faults_at_once_and_stop_in_reverse(lab: Lab) -> None:
    steps = [
        step("one", "process.pause", hold_s=60),
        step("two", "process.pause", hold_s=60, at_s=0.7, select={"role": "worker", "index": [2]}),
    ]
    one = scheduler(lab, steps, duration_s=120)
    thread = threading.Thread(target=one.run)
    thread.start()
    assert clock.wait_until(lambda: [line.phase for line in lab.lines()].count("verified") == 2, 10)
    assert one.open_ids() == ["one", "two"]
    assert [lab.state_of(f"worker-{n}") for n in (1, 2)] == ["T", "T"]
    assert one.stop("interrupted") == [] and one.stop() == []
    thread.join(10)
    ends = [line.fault_id for line in lab.lines() if line.phase in {"recovering", "recovered"}]
    assert ends == ["two", "two", "one", "one"]


def test_a_fault_strikes_while_another_target_still_recovers(lab: Lab) -> None:
    """A kill whose target isn't proven to serve yet, when its neighbour is paused and comes back before it."""
    steps = [
        step("kill", "process.kill", restart_after_s=0.2),
        step("pause", "process.pause", hold_s=0.3, at_s=1.5, select={"role": "worker", "index": [2]}),
    ]

    class Late:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def serving(self, target: Target) -> Any:
            seen = self._real.serving(target)
            late = target.index == 1 and "recovered" not in lab.phases("pause")
            return dataclasses.replace(seen, healthy=False) if late else seen

    using = lab.ports()
    using = dataclasses.replace(using, processes=Late(using.processes))  # type: ignore[arg-type]
    scheduler(lab, steps, using=using).run()
    order = [f"{line.fault_id} {line.phase}" for line in lab.lines()]
    assert order.index("kill recovering") < order.index("pause verified") < order.index("kill recovered")
    assert [lab.phases(one)[-1] for one in ("kill", "pause")] == ["recovered", "recovered"]
    assert lab.line("kill", "recovered").evidence["recovered_by"] == "undo"


def test_stop_before_a_fault_is_due_injects_nothing(lab: Lab) -> None:
    intent = threading.Event()
    one = scheduler(lab, [step("late", "process.kill", at_s=20)], Hooks(before=lambda _: intent.set()))
    thread = threading.Thread(target=one.run)
    thread.start()
    assert one.stop() == []
    thread.join(5)
    assert lab.lines() == [] and not intent.is_set()


def test_stop_between_intent_and_injection(lab: Lab) -> None:
    announced = threading.Event()
    before = lab.who("worker-1")
    one = scheduler(lab, [step("term", "process.terminate")], Hooks(before=lambda _: announced.set()))
    thread = threading.Thread(target=one.run)
    thread.start()
    assert announced.wait(10)
    assert one.stop() == []
    thread.join(5)
    assert lab.phases("term") == ["intent", "failed", "recovering", "recovered"]
    assert lab.who("worker-1") == before and proc.alive(before)


class Broken:
    """A platform with a bug in one method."""

    def __init__(self, real: LocalProcesses, name: str) -> None:
        self._real, self._name = real, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise RuntimeError(f"bug in {name}")
        return getattr(self._real, name)


@pytest.mark.parametrize(("method", "phases"), [("find", ["failed"]), ("signal", ["intent", "failed"])])
def test_a_bug_is_a_failed_fault_and_not_the_end(lab: Lab, method: str, phases: list[str]) -> None:
    using = lab.ports()
    using = dataclasses.replace(using, processes=Broken(using.processes, method))  # type: ignore[arg-type]
    scheduler(lab, [step("pause", "process.pause", hold_s=1)], using=using).run()
    assert lab.phases("pause")[: len(phases)] == phases
    assert f"RuntimeError: bug in {method}" in lab.line("pause", "failed").error


def test_a_full_disk_means_no_injection(lab: Lab) -> None:
    failed: list[str] = []
    before = lab.who("worker-1")
    one = scheduler(
        lab, [step("kill", "process.kill", restart_after_s=0)],
        Hooks(on_failed=lambda _i, _t, reason: failed.append(reason)),
    )  # fmt: skip

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    one.journal._fsync = full
    one.run()
    assert proc.alive(before) and lab.lines() == []
    assert any("No space left" in reason for reason in failed)


def test_a_second_fault_on_a_busy_target_is_refused_at_run_time(lab: Lab) -> None:
    """The plan allows it (times are apart), but the first one isn't undone yet."""
    steps = [step("one", "process.pause", hold_s=0.1), step("two", "process.pause", hold_s=0.1, at_s=0.9)]
    slow = threading.Event()

    class Slow(Misaimed):
        def signal(self, who: Identity, sig: signal.Signals) -> bool:
            if sig == signal.SIGCONT:
                slow.wait(2)
            return self._real.signal(who, sig)

    using = lab.ports()
    using = dataclasses.replace(using, processes=Slow(using.processes, lab.who("worker-1")))  # type: ignore[arg-type]
    scheduler(lab, steps, using=using).run()
    assert lab.phases("one")[-1] == "recovered"
    assert lab.phases("two") == ["failed"]
    assert "still under one" in lab.line("two", "failed").error


def test_an_outside_process_is_killed_once_and_for_all(tmp_path: Path) -> None:
    with system(tmp_path, workers=1, owner="outside") as lab:
        one = scheduler(lab, [step("kill", "process.kill")])
        thread = threading.Thread(target=one.run)
        thread.start()
        assert clock.wait_until(lambda: "verified" in lab.phases("kill"), 10)
        assert one.stop() == []
        thread.join(5)
        assert "can't start it again" in lab.line("kill", "intent").evidence["note"]
        assert lab.line("kill", "recovered").evidence["recovered_by"] == "nobody"


def test_found_names_the_ports_it_listens_on(lab: Lab) -> None:
    found: Found = lab.ports().processes.find(Target("worker", 1))
    assert found.ports == (lab.state.process("worker-1").port,)
    assert lab_module.HERE.is_dir()
