"""The journal: durable before it returns, numbered, readable after any crash."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import journal, wal
from faults.journal import Journal, JournalError
from harness.core import clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write(path: Path, *phases: str, target: str = "worker-1", **more: Any) -> None:
    one = Journal(path, clock.anchor_now())
    for phase in phases:
        one.write("kill", "process.kill", phase, target, **more)  # type: ignore[arg-type]
    one.close()


def test_a_line_has_every_column_and_comes_back(path: Path) -> None:
    one = Journal(path, clock.anchor_now())
    line = one.write(
        "kill", "process.kill", "intent", "worker-1", undo={"ops": []}, evidence={"a": 1}, t_ns=7
    )
    one.close()
    one.close()
    assert journal.read(path) == [line]
    assert (line.seq, line.t_ns, line.undo, line.evidence, line.error) == (1, 7, {"ops": []}, {"a": 1}, None)
    assert list(json.loads(path.read_bytes())) == [
        "seq", "t_ns", "wall_ns", "fault_id", "fault", "phase", "target", "undo", "evidence", "error",
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_no_lines(path: Path) -> None:
    assert journal.read(path) == []


def test_file_and_directory_are_synced_before_write_returns(path: Path) -> None:
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        os.fsync(fd)

    one = Journal(path, clock.anchor_now(), fsync)
    assert synced == [str(path.parent)]
    one.write("kill", "process.kill", "intent", "worker-1")
    assert synced == [str(path.parent), str(path)]
    one.close()


def test_numbers_go_on_in_an_existing_file_and_between_writers(path: Path) -> None:
    first, second = (Journal(path, clock.anchor_now()) for _ in range(2))
    for one in (first, second, first):
        one.write("kill", "process.kill", "intent", "worker-1")
    assert [line.seq for line in journal.read(path)] == [1, 2, 3]
    first.close()
    second.close()


def test_a_full_disk_is_an_error_and_leaves_no_part(path: Path) -> None:
    write(path, "intent")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    one = Journal(path, clock.anchor_now())
    one._fsync = full
    with pytest.raises(JournalError, match="No space left"):
        one.write("kill", "process.kill", "injected", "worker-1")
    one.close()
    assert path.read_bytes() == before


def test_dev_full_refuses(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(JournalError, match="No space left"):
            wal.append(fd, {"fault_id": "kill"}, "j")
    finally:
        os.close(fd)


def test_a_directory_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nothing may be injected"):
        Journal(tmp_path / "absent" / "journal.jsonl", clock.anchor_now())


@given(cut=st.integers(0, 400), junk=st.binary(max_size=60))
def test_torn_tails_are_left_out_and_repaired(
    cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    write(path, "intent", "injected")
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    torn = data[first:][: min(cut, len(data) - first - 1)]
    if b"seq" not in junk:
        torn += junk.replace(b"\n", b"")
    path.write_bytes(data[:first] + torn)
    try:
        kept = len(journal.read(path))
    except JournalError:
        return  # junk that happens to finish the line as another one
    assert kept in {1, 2}
    write(path, "verified")
    lines = journal.read(path)
    assert [line.seq for line in lines] == list(range(1, kept + 2))
    assert lines[-1].phase == "verified"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        wal.parse(data, "j")
    except JournalError:
        pass


def test_a_hole_is_refused(path: Path) -> None:
    write(path, "intent", "injected", "verified")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(JournalError, match="number 3 where 2 should be"):
        journal.read(path)


def test_another_version_is_refused(path: Path) -> None:
    path.write_text('{"seq": 1, "phase": "dancing"}\n')
    with pytest.raises(JournalError, match="another version"):
        journal.read(path)


@pytest.mark.parametrize(
    ("phases", "still_open"),
    [
        ([], False),
        (["failed"], False),
        (["intent"], True),
        (["intent", "injected", "verified"], True),
        (["intent", "failed"], True),
        (["intent", "failed", "recovering", "recovered"], False),
        (["intent", "recovering", "failed"], True),
        (["intent", "recovered", "intent"], True),
    ],
)
def test_open_faults(path: Path, phases: list[str], still_open: bool) -> None:
    write(path, *phases, undo={"ops": [{"op": "x"}]})
    found = journal.open_faults(journal.read(path))
    assert [(one.fault_id, one.target) for one in found] == ([("kill", "worker-1")] if still_open else [])
    assert all(one.ops == [{"op": "x"}] for one in found)


def test_open_faults_are_kept_apart_by_target_and_use_the_newest_undo(path: Path) -> None:
    write(path, "intent", undo={"ops": [{"op": "a"}]})
    write(path, "intent", target="worker-2", undo={"ops": [{"op": "b"}]})
    write(path, "recovering", undo={"ops": [{"op": "a"}, {"op": "c"}]})
    write(path, "recovered", target="worker-2")
    (one,) = journal.open_faults(journal.read(path))
    assert one.target == "worker-1" and one.ops == [{"op": "a"}, {"op": "c"}]
