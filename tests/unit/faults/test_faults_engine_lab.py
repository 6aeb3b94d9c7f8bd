"""Lies as faults, on real witness engines (tests/fixtures/standin_engine.py): what the contract tests don't ask."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import undo
from faults.ports import Target
from harness.core import clock, control, proc
from harness.core.errors import FaultError
from tests.fixtures.fault_benches import make
from tests.fixtures.faults_lab import TOKEN, Lab, system

pytestmark = pytest.mark.slow  # starts many real processes

T = Target("worker", 1)
MINE = {"kind": "repeat", "one_in": 7}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with system(tmp_path, script="standin_engine.py") as made:
        yield made


def ask(lab: Lab, **command: Any) -> dict[str, Any]:
    return control.ask(lab.state.process("worker-1").control_port or 0, TOKEN, command)


def test_the_scenarios_own_lies_survive_and_count_on(lab: Lab) -> None:
    ask(lab, command="misbehave", misbehave=[MINE])
    fault, ports = make("engine.repeat", at_token=None, one_in=3), lab.ports(2)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    fault.verify(ports, T, made)
    assert ask(lab, command="status")["misbehave"] == [MINE, {"kind": "repeat", "one_in": 3}]
    fault.recover(ports, T, made)
    assert "lies" in fault.verify_recovered(ports, T, made).facts
    after = ask(lab, command="status")
    assert after["misbehave"] == [MINE]
    assert clock.wait_until(
        lambda: ask(lab, command="status")["lies"]["repeat"]["count"] > after["lies"]["repeat"]["count"], 10
    )


def test_the_scenarios_lies_of_the_same_kind_prove_nothing(lab: Lab) -> None:
    ask(lab, command="misbehave", misbehave=[MINE])
    fault, ports = make("engine.repeat", at_token=4000, within_s=0.5), lab.ports(2)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    assert clock.wait_until(lambda: "repeat" in ask(lab, command="status")["lies"], 10)
    with pytest.raises(FaultError, match=r"worker-1: .* did not repeat within 0.5 s .* at_token: 4000"):
        fault.verify(ports, T, made)
    fault.recover(ports, T, made)
    assert ask(lab, command="status")["misbehave"] == [MINE]


@pytest.mark.parametrize("kind", ["hang", "first_then_silence", "slow"])
def test_streams_that_it_held_go_on(lab: Lab, kind: str) -> None:
    fault, ports = make(f"engine.{kind}"), lab.ports(5)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    fault.verify(ports, T, made)
    if kind != "slow":  # all of its users are held: nothing is completed any more
        count = lambda: ask(lab, command="status")["lies"][kind]["count"]  # noqa: E731
        assert clock.wait_until(lambda: count() == 3, 10)
        done = ask(lab, command="status")["completed"]
        clock.sleep_s(0.3)  # many times what a request takes
        assert ask(lab, command="status")["completed"] == done
    fault.recover(ports, T, made)
    fault.verify_recovered(ports, T, made)
    before = ask(lab, command="status")
    assert clock.wait_until(lambda: ask(lab, command="status")["completed"] >= before["completed"] + 6, 10)
    assert ask(lab, command="status")["aborts"] == 0


def test_a_planned_lie_that_did_not_happen_is_off(lab: Lab) -> None:
    """It hangs at its last token but one: taken back before, no stream ever hangs."""
    fault, ports = make("engine.die", at_token=19), lab.ports(5)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    undo.apply(made.ops[:1])
    before = ask(lab, command="status")["completed"]
    assert clock.wait_until(lambda: ask(lab, command="status")["completed"] >= before + 9, 10)
    assert proc.alive(made.identity)


def test_the_journal_holds_no_secret(lab: Lab) -> None:
    made = make("engine.drop").prepare(lab.ports(1), T)
    assert TOKEN not in json.dumps([*map(dict, made.ops), dict(made.saved)])


def test_undoing_twice_and_when_nobody_is_there(lab: Lab) -> None:
    fault, ports = make("engine.hang"), lab.ports(2)
    made = fault.prepare(ports, T)
    assert [one["did"] for one in undo.apply(made.ops)] == ["never told"]
    fault.inject(ports, T, made)
    assert undo.verify(made.ops) == ["worker-1: its engine is still told to hang"]
    assert [undo.apply(made.ops)[0]["did"] for _ in range(2)] == ["took hang back"] * 2
    assert undo.verify(made.ops) == [] and undo.commands(made.ops) == []
    with pytest.raises(FaultError, match="was taken back"):
        fault.inject(ports, T, made)
    proc.stop_all([made.identity], 0)
    assert [one["did"] for one in undo.apply(made.ops)] == ["already gone"]
    assert undo.verify(made.ops) == []


def test_an_engine_that_cannot_be_asked_is_a_problem_with_a_way_out(lab: Lab) -> None:
    fault, ports = make("engine.hang"), lab.ports(2)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    proc.send(made.identity, signal.SIGSTOP)
    assert undo.apply(made.ops)[0]["did"] == "failed"
    assert "can't be asked" in undo.verify(made.ops)[0]
    assert undo.commands(made.ops)[0].startswith(f"kill -KILL {made.identity.pid} ")


def test_a_process_that_somebody_else_killed_did_not_die_of_it(lab: Lab) -> None:
    fault, ports = make("engine.die", at_token=4000), lab.ports(2)
    made = fault.prepare(ports, T)
    fault.inject(ports, T, made)
    proc.send(made.identity, signal.SIGKILL)
    with pytest.raises(FaultError, match=r"is gone \(exit code -9\), but not because of this fault"):
        fault.verify(ports, T, made)


def test_a_target_that_is_another_process_now_is_refused(lab: Lab) -> None:
    fault, ports = make("engine.drop"), lab.ports(8)
    made = fault.prepare(ports, T)
    kill = make("process.kill")
    killed = kill.prepare(ports, T)
    kill.inject(ports, T, killed)
    kill.verify(ports, T, killed)
    kill.recover(ports, T, killed)
    kill.verify_recovered(ports, T, killed)
    with pytest.raises(FaultError, match="gone at injection"):
        fault.inject(ports, T, made)
