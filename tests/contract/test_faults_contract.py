"""What every entry of FAULTS must keep, on a real process: the five verbs, their order, their undo."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faults import FAULTS, undo
from faults.ports import CAPABILITIES, PORTS, Fault, Ports, Target
from harness import catalogue
from harness.core import clock, proc
from harness.core.errors import FaultError
from tests.conftest import need
from tests.fixtures.fault_benches import BENCHES, inject_aside, make
from tests.fixtures.faults_lab import Lab, system

PATIENCE_S = 15  # for what must come; what must not come within a second is waited for no longer
VERBS = ["prepare", "inject", "verify", "recover", "verify_recovered"]
names = pytest.mark.parametrize("name", FAULTS)


@contextmanager
def bench(name: str, tmp_path: Path) -> Iterator[tuple[Lab, Fault, Ports, Target]]:
    """A system for this fault, and the fault."""
    assert name in BENCHES, f"{name} has no row in tests/fixtures/fault_benches.py"
    row = BENCHES[name]
    for marker in row.markers:
        need(marker)
    with row.lab(tmp_path, owner="run") as lab:
        yield lab, make(name), lab.ports(row.recover_timeout_s), row.target


def snapshot(lab: Lab) -> list[Any]:
    """Who runs, in which state; sut.json."""
    who = sorted(proc.marked(proc.SUT_ENV, lab.sut_id))
    stopped = [undo.stopped(one) for one in who]
    return [who, stopped, lab.run.sut.read_bytes()]


@names
def test_it_is_a_frozen_dataclass_with_units_in_its_names(name: str) -> None:
    kind = FAULTS[name]
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.needs and kind.needs <= {*PORTS, *CAPABILITIES}
    assert [verb for verb in VERBS if callable(getattr(kind, verb, None))] == VERBS
    assert inspect.getdoc(kind)
    for field in dataclasses.fields(kind):
        unit = field.name.rpartition("_")[2]
        assert field.type not in {"float", "float | None", "int"} or unit in {
            "s",
            "ms",
            "ratio",
            "mib",
            "times",
        }


@names
def test_it_says_what_it_does_its_proof_and_its_undo(name: str) -> None:
    kind = FAULTS[name]
    assert (inspect.getdoc(kind) or "").splitlines()[0].endswith(".")
    for verb in ("verify", "recover", "verify_recovered"):
        assert catalogue.told(kind, verb).endswith("."), (
            f"{name}.{verb} has no docstring: see faults.ports.Fault"
        )


def test_the_page_of_faults_is_made_from_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    assert page == catalogue.filled(page), "run `make fix`"
    with pytest.raises(ValueError, match="no <!-- made by"):
        catalogue.filled("a page without marks")


@pytest.mark.slow
@names
def test_prepare_reads_only_and_undo_is_plain_data(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (lab, fault, ports, t):
        before = snapshot(lab)
        made = fault.prepare(ports, t)
        assert snapshot(lab) == before
        assert made.identity == lab.who(str(made.saved.get("target", t.name)))
        plain = {"ops": [dict(op) for op in made.ops], "saved": dict(made.saved)}
        assert json.loads(json.dumps(plain)) == plain
        assert {str(op["op"]) for op in made.ops} <= undo.KINDS and made.ops


@pytest.mark.slow
@names
def test_verify_proves_nothing_that_was_not_injected(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (_, fault, ports, t):
        made = fault.prepare(ports, t)
        with pytest.raises(FaultError, match=t.name):
            fault.verify(ports, t, made)
        assert proc.alive(made.identity)


@pytest.mark.slow
@names
def test_a_fault_that_missed_its_target_proves_nothing(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (_, fault, ports, t):
        made = fault.prepare(ports, t)
        aside = inject_aside(name, fault, ports)
        try:
            with pytest.raises(FaultError, match=t.name):
                fault.verify(ports, t, made)
        finally:
            undo.apply(aside.ops)


@pytest.mark.slow
@names
def test_five_verbs(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (lab, fault, ports, t):
        made = fault.prepare(ports, t)
        injected_ns = clock.now_ns()
        fault.inject(ports, t, made)
        seen = fault.verify(ports, t, made)
        assert seen.proof and injected_ns <= seen.at_ns <= clock.now_ns()
        json.dumps(dict(seen.facts))
        with pytest.raises(FaultError, match=t.name):
            fault.verify_recovered(ports, t, made)
        undone_ns = clock.now_ns()
        fault.recover(ports, t, made)
        back = fault.verify_recovered(lab.ports(PATIENCE_S), t, made)
        assert back.proof and undone_ns <= back.at_ns <= clock.now_ns()
        after = snapshot(lab)
        fault.recover(ports, t, made)
        assert snapshot(lab)[0][0] == after[0][0] and not any(snapshot(lab)[1]), "recover is idempotent"
        assert undo.verify(made.ops) == []


@pytest.mark.slow
@names
def test_the_guardian_alone_can_undo_it(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (lab, fault, ports, t):
        made = fault.prepare(ports, t)
        fault.inject(ports, t, made)
        fault.verify(ports, t, made)
        assert undo.verify(made.ops) != []
        for _ in range(2):
            undo.apply(made.ops)
            assert undo.verify(made.ops) == []
        assert lab.state_of(str(made.saved.get("target", t.name))) in {"S", "R", "D"}


@pytest.mark.slow
@names
def test_recover_is_right_even_if_inject_never_ran(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (lab, fault, ports, t):
        made = fault.prepare(ports, t)
        fault.recover(ports, t, made)
        fault.verify_recovered(lab.ports(PATIENCE_S), t, made)
        assert undo.verify(made.ops) == []


@pytest.mark.slow
@names
def test_a_target_that_is_gone_is_refused(name: str, tmp_path: Path) -> None:
    with bench(name, tmp_path) as (_, fault, ports, t):
        made = fault.prepare(ports, t)
        proc.stop_all([made.identity], 0)
        with pytest.raises(FaultError, match="gone at injection"):
            fault.inject(ports, t, made)
        if not t.index:  # asked anew: somebody else, or nobody
            with contextlib.suppress(FaultError):
                assert fault.prepare(ports, t).identity != made.identity
            return
        with pytest.raises(FaultError, match=t.name):
            fault.prepare(ports, t)
        with pytest.raises(FaultError, match=f"no target '{t.role}-9'; this system has "):
            fault.prepare(ports, Target(t.role, 9))


def test_a_pause_by_somebody_else_is_not_ours(tmp_path: Path) -> None:
    import signal

    with system(tmp_path) as lab:
        proc.send(lab.who("worker-1"), signal.SIGSTOP)
        assert clock.wait_until(lambda: lab.state_of("worker-1") == "T", 5)
        with pytest.raises(FaultError, match="stopped already, by somebody else"):
            make("process.pause").prepare(lab.ports(1), Target("worker", 1))
