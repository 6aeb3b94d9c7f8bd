"""The run directory: distinct names, private files, writes that a crash can't tear, unfinished runs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core import clock, rundir
from harness.core.errors import UsageError
from harness.core.rundir import RunDir

ROOT = Path(__file__).resolve().parents[3]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_name_is_of_the_run_and_of_its_own() -> None:
    run = RunDir(Path("/r"))
    names = [getattr(run, name) for name, value in vars(RunDir).items() if isinstance(value, property)]
    names += [
        run.records(0),
        run.records(1),
        run.records_done(0),
        run.segments("worker-1"),
        run.log("worker-1"),
    ]
    assert len(set(names)) == len(names)
    assert all(path.is_relative_to(run.path) for path in names)
    assert run.records(3).name == "records-3.jsonl"
    assert run.report_html == Path("/r/report/report.html")


def test_create_is_private_and_refuses_what_is_not_empty(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "a" / "run")
    assert (mode(run.path), mode(run.logs)) == (0o700, 0o700)
    with pytest.raises(UsageError, match="isn't empty"):
        rundir.create(run.path)
    assert rundir.open_run(run.path) == run
    with pytest.raises(UsageError, match="no such run directory"):
        rundir.open_run(tmp_path / "absent")


def test_write_is_private_complete_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    rundir.write_json(path, {"b": 1, "a": [1.5, None]})
    assert path.read_text() == '{\n  "a": [\n    1.5,\n    null\n  ],\n  "b": 1\n}\n'
    assert mode(path) == 0o600
    rundir.write_atomic(path, b"new", 0o644)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    rundir.write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rundir.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_9_in_the_middle_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """A writer that replaces the file without pause is killed at arbitrary points."""
    path = tmp_path / "state.json"
    size = 200_000
    script = (
        "import itertools, sys\nfrom pathlib import Path\nfrom harness.core import rundir\n"
        f"for n in itertools.count():\n    rundir.write_json(Path({str(path)!r}), {{'n': n, 'pad': 'x' * {size}}})\n"
    )
    seen = set()
    for kill in range(6):
        with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as writer:
            try:
                assert clock.wait_until(
                    lambda: path.exists() and path.stat().st_mtime_ns not in seen, 30, 0.001
                )
                clock.sleep_s(kill * 0.0017)  # any point will do: this only moves it
            finally:
                writer.send_signal(signal.SIGKILL)
        assert len(json.loads(path.read_bytes())["pad"]) == size
        seen.add(path.stat().st_mtime_ns)


def test_a_reader_beside_a_writer_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    rundir.write_json(path, {"pad": ""})
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness.core import rundir\n"
        f"for n in range(60): rundir.write_json(Path({str(path)!r}), {{'pad': 'x' * (n * 5000)}})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as writer:
        while writer.poll() is None:
            assert set(rundir.read_json(path)["pad"]) <= {"x"}
    assert writer.returncode == 0


def test_read_json_names_the_file(tmp_path: Path) -> None:
    for data in (None, b"", b'{"a": ', b"\xff\xfe"):
        path = tmp_path / "m.json"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UsageError, match=r"m\.json"):
            rundir.read_json(path)


def test_latest_points_to_the_newest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        rundir.link_latest(rundir.create(tmp_path / name))
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert (tmp_path / "latest").readlink() == Path("two")  # relative: the directory may be moved


def test_unfinished_runs_are_those_without_their_last_word(tmp_path: Path) -> None:
    assert rundir.unfinished(tmp_path / "absent") == []
    done, left, empty = (rundir.create(tmp_path / name) for name in ("done", "left", "empty"))
    for run in (done, left):
        run.manifest.write_text("{}")
    done.restored.touch()
    rundir.link_latest(left)
    assert rundir.unfinished(tmp_path) == [left]
    assert not empty.manifest.exists()


def test_a_run_is_held_by_one_process_and_released_by_its_death(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    assert not rundir.held(run)
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness.core import rundir\n"
        f"with rundir.hold(rundir.RunDir(Path({str(run.path)!r}))):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert rundir.held(run)
        with pytest.raises(UsageError, match=f"process {holder.pid} still works"), rundir.hold(run):
            pass
        holder.send_signal(signal.SIGKILL)
    assert not rundir.held(run)


def test_a_run_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match=r"Not a directory|File exists"):
            rundir.create(path)
