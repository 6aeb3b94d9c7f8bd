"""Records, sut.json, errors and the manifest: closed lists, round trips, exit codes."""

from __future__ import annotations

import inspect
import json
import stat
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import clock, config, errors, manifest, records, rundir, strict, sutfile
from harness.core.errors import Exit, NotRestored, ScenarioError, SquallError, TargetError, UsageError
from harness.core.proc import Identity
from harness.core.records import FAILED, OUTCOMES, VIOLATIONS, JournalLine, RequestRecord
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NS = st.integers(-(2**62), 2**62)


def test_closed_lists_are_those_of_the_contract() -> None:
    assert set(OUTCOMES) == set(get_args(records.Outcome))
    assert len(set(OUTCOMES)) == len(OUTCOMES) == 9
    assert set(OUTCOMES) - FAILED == {"ok", "shed", "cancelled"}
    assert len(set(VIOLATIONS)) == len(VIOLATIONS) == 16


@given(TEXTS, NS, st.lists(st.integers(-(2**31), 2**31 - 1)), st.none() | TEXTS, st.sampled_from(OUTCOMES))
def test_records_come_back_from_json(
    text: str, t_ns: int, gaps: list[int], error: str | None, outcome: records.Outcome
) -> None:
    record = RequestRecord(
        request_id=text, worker_index=0, user_class="U", route="chat", t_due_ns=t_ns, t_start_ns=t_ns, t_end_ns=t_ns,
        outcome=outcome, gaps_us=gaps, error=error,
    )  # fmt: skip
    line = msgspec.json.encode(record)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=RequestRecord) == record


@pytest.mark.parametrize(
    "change",
    [{"outcome": "fine"}, {"gaps_us": [2**31]}, {"t_end_ns": None}, {"t_end_ns": 1.5}, {"violations": None}],
)
def test_what_no_column_can_hold_is_refused(change: dict[str, object]) -> None:
    good = RequestRecord(
        request_id="r",
        worker_index=0,
        user_class="U",
        route="chat",
        t_due_ns=0,
        t_start_ns=0,
        t_end_ns=0,
        outcome="ok",
    )
    plain = msgspec.to_builtins(good)
    assert msgspec.convert(plain, RequestRecord) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**plain, **change}, RequestRecord)


def test_journal_phases_are_closed() -> None:
    line = {
        "seq": 1,
        "t_ns": 0,
        "wall_ns": 0,
        "fault_id": "f",
        "fault": "process.kill",
        "phase": "intent",
        "target": "w",
    }
    assert msgspec.convert(line, JournalLine).undo is None
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**line, "phase": "undone"}, JournalLine)


def state() -> SutState:
    workers = [Process(name=f"worker-{n}", role="worker", index=n, pid=n, start_ticks=9) for n in (2, 1)]
    return SutState(
        sut_id="s",
        owner="run",
        oracle="witness",
        model="m",
        urls=["http://h"],
        processes=workers,
        control_token="t",
    )


def test_sut_file_round_trip_private_and_by_name(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    sutfile.save(run, state())
    assert stat.S_IMODE(run.sut.stat().st_mode) == 0o600
    assert sutfile.load(run) == state()
    assert [p.name for p in state().role("worker")] == ["worker-1", "worker-2"]
    assert state().role("frontend") == []
    assert state().process("worker-2").identity == Identity(2, 9)
    with pytest.raises(TargetError, match="no target 'worker-3'; this system has worker-2, worker-1"):
        state().process("worker-3")


def test_a_restarted_target_is_another_process_of_the_same_name(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    sutfile.save(run, state())
    fresh = sutfile.replace_identity(run, "worker-1", Identity(77, 88))
    assert fresh == sutfile.load(run)
    assert fresh.process("worker-1").identity == Identity(77, 88)
    assert fresh.process("worker-2").identity == Identity(2, 9)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"sut_id": 1}'])
def test_torn_sut_files_are_usage_errors(tmp_path: Path, text: str) -> None:
    run = RunDir(tmp_path)
    run.sut.write_text(text)
    with pytest.raises(UsageError, match=r"sut\.json"):
        sutfile.load(run)


def test_every_error_has_an_exit_code_and_the_tree_is_the_one_drawn() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SquallError)]
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)
    assert {c.exit_code for c in classes} <= set(Exit)
    assert [int(e) for e in Exit] == [0, 1, 2, 3, 4, 5, 130]
    assert (
        UsageError("x").exit_code == ScenarioError("f", "p", "w").exit_code == TargetError("x").exit_code == 2
    )
    assert errors.FaultError("x").exit_code == errors.InvalidRun("x").exit_code == 4
    assert NotRestored("left", ["kill 1", "kill 2"]).exit_code == 5
    assert str(NotRestored("left", ["kill 1", "kill 2"])) == "left\n  kill 1\n  kill 2"
    assert str(ScenarioError("f", "a.b", "is wrong", "do this")) == "f: a.b: is wrong; do this"


def test_manifest_starts_without_an_anchor_and_is_completed(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    text = 'schema: 1\nname: n\nsut: {dynamo: "1.6.1"}\nload: {duration_s: 10, users: [{class: ChatUser, count: 1}]}'
    scenario = config.build(strict.parse_yaml(text, "f"), "f")
    made = manifest.create(run, scenario, "id", ["squall", "run"])
    assert made == manifest.read(run) == json.loads(run.manifest.read_text())
    assert (made["schema"], made["anchor"], made["duration_s"], made["seed"]) == (1, None, 10, 1)
    assert made["trace_sha256"] == config.trace_sha256(scenario)
    assert "hostname" not in json.dumps(made["fingerprint"]).replace("hostname_sha256", "")
    anchor = clock.anchor_now()
    manifest.update(run, anchor={"mono_ns": anchor.mono_ns, "wall_ns": anchor.wall_ns})
    manifest.add_reasons(run, ["a", "b"])
    manifest.add_reasons(run, ["b", "c"])
    manifest.add_reasons(run, [])
    after = manifest.read(run)
    assert after["invalid_reasons"] == ["a", "b", "c"]
    assert after["anchor"]["mono_ns"] == anchor.mono_ns
    assert {k: v for k, v in after.items() if k not in ("anchor", "invalid_reasons")} == {
        k: v for k, v in made.items() if k not in ("anchor", "invalid_reasons")
    }


def test_machines_of_one_class_differ_in_name_only() -> None:
    one = manifest.fingerprint()
    assert manifest.fingerprint_class(one) == manifest.fingerprint_class({**one, "hostname_sha256": "other"})
    assert manifest.fingerprint_class(one) != manifest.fingerprint_class({**one, "cores": 999})
