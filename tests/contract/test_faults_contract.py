"""What every entry of FAULTS must keep, on a real process: the five verbs, their order, their undo."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from faults import FAULTS, undo
from faults.ports import Fault, Ports, Target
from harness.core import clock, proc
from harness.core.errors import FaultError
from tests.fixtures.faults_lab import Lab, system

pytestmark = pytest.mark.slow  # starts many real processes

T = Target("worker", 1)
VERBS = ["prepare", "inject", "verify", "recover", "verify_recovered"]
names = pytest.mark.parametrize("name", FAULTS)


def make(name: str) -> Fault:
    """With short times for whatever it takes."""
    fields = {field.name for field in dataclasses.fields(FAULTS[name])}  # type: ignore[arg-type]
    short = {"hold_s": 1, "grace_s": 0.5}
    return msgspec.convert({key: value for key, value in short.items() if key in fields}, FAULTS[name])


def snapshot(lab: Lab) -> list[Any]:
    """Who runs, in which state; sut.json."""
    who = sorted(proc.marked(proc.SUT_ENV, lab.sut_id))
    stopped = [undo.stopped(one) for one in who]
    return [who, stopped, lab.run.sut.read_bytes()]


def fast(lab: Lab) -> Ports:
    return lab.ports(1)


@names
def test_it_is_a_frozen_dataclass_with_units_in_its_names(name: str) -> None:
    kind = FAULTS[name]
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.needs and kind.needs <= {"processes", "network", "gpus", "control_plane"}
    assert [verb for verb in VERBS if callable(getattr(kind, verb, None))] == VERBS
    assert inspect.getdoc(kind)
    for field in dataclasses.fields(kind):
        assert field.type not in {"float", "float | None", "int"} or field.name.endswith(
            ("_s", "_ms", "_ratio")
        )


@names
def test_prepare_reads_only_and_undo_is_plain_data(name: str, tmp_path: Path) -> None:
    with system(tmp_path, options=["child"]) as lab:
        before = snapshot(lab)
        made = make(name).prepare(fast(lab), T)
        assert snapshot(lab) == before
        assert made.identity == lab.who("worker-1")
        plain = {"ops": [dict(op) for op in made.ops], "saved": dict(made.saved)}
        assert json.loads(json.dumps(plain)) == plain
        assert {str(op["op"]) for op in made.ops} <= {"signal", "spawn"} and made.ops


@names
def test_verify_proves_nothing_that_was_not_injected(name: str, tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        fault, ports = make(name), fast(lab)
        made = fault.prepare(ports, T)
        with pytest.raises(FaultError, match="worker-1"):
            fault.verify(ports, T, made)
        assert proc.alive(lab.who("worker-1"))


@names
def test_five_verbs(name: str, tmp_path: Path) -> None:
    with system(tmp_path, options=["child"]) as lab:
        fault, ports = make(name), fast(lab)
        made = fault.prepare(ports, T)
        injected_ns = clock.now_ns()
        fault.inject(ports, T, made)
        seen = fault.verify(ports, T, made)
        assert seen.proof and injected_ns <= seen.at_ns <= clock.now_ns()
        json.dumps(dict(seen.facts))
        with pytest.raises(FaultError, match="not serving"):
            fault.verify_recovered(fast(lab), T, made)
        undone_ns = clock.now_ns()
        fault.recover(ports, T, made)
        back = fault.verify_recovered(ports, T, made)
        assert back.proof and undone_ns <= back.at_ns <= clock.now_ns()
        after = snapshot(lab)
        fault.recover(ports, T, made)
        assert snapshot(lab)[0][0] == after[0][0] and not any(snapshot(lab)[1]), "recover is idempotent"
        assert undo.verify(made.ops) == []


@names
def test_the_guardian_alone_can_undo_it(name: str, tmp_path: Path) -> None:
    with system(tmp_path, options=["child"]) as lab:
        fault, ports = make(name), fast(lab)
        made = fault.prepare(ports, T)
        fault.inject(ports, T, made)
        fault.verify(ports, T, made)
        assert undo.verify(made.ops) != []
        for _ in range(2):
            undo.apply(made.ops)
            assert undo.verify(made.ops) == []
        assert lab.state_of("worker-1") in {"S", "R"}


@names
def test_recover_is_right_even_if_inject_never_ran(name: str, tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        fault, ports = make(name), fast(lab)
        made = fault.prepare(ports, T)
        fault.recover(ports, T, made)
        fault.verify_recovered(ports, T, made)
        assert lab.state_of("worker-1") in {"S", "R"} and undo.verify(made.ops) == []


@names
def test_a_target_that_is_gone_is_refused(name: str, tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        fault, ports = make(name), fast(lab)
        made = fault.prepare(ports, T)
        proc.stop_all([lab.who("worker-1")], 0)
        with pytest.raises(FaultError, match="gone at injection"):
            fault.inject(ports, T, made)
        with pytest.raises(FaultError, match="not there any more"):
            fault.prepare(ports, T)
        with pytest.raises(FaultError, match=r"no target 'worker-9'; this system has worker-1"):
            fault.prepare(ports, Target("worker", 9))


def test_a_pause_by_somebody_else_is_not_ours(tmp_path: Path) -> None:
    import signal

    with system(tmp_path) as lab:
        proc.send(lab.who("worker-1"), signal.SIGSTOP)
        assert clock.wait_until(lambda: lab.state_of("worker-1") == "T", 5)
        with pytest.raises(FaultError, match="stopped already, by somebody else"):
            make("process.pause").prepare(fast(lab), T)
