"""Segments of the engines' own account, paired by hand; torn and foreign lines don't hurt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.collect import segments
from harness.core import rundir
from harness.core.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return rundir.create(tmp_path / "run")


def start(t: int, request_id: str, first: int = 0) -> str:
    return json.dumps(
        {"event": "start", "t_mono_ns": t, "request_id": request_id, "a": 1, "b": 2, "first": first,
         "max_tokens": 10, "prompt_tokens": 5}
    )  # fmt: skip


def end(t: int, request_id: str, following: int) -> str:
    return json.dumps(
        {"event": "end", "t_mono_ns": t, "request_id": request_id, "next": following, "reason": "length"}
    )


def write(run: RunDir, target: str, *lines: str, torn: str = "") -> None:
    run.segments(target).write_text("".join(f"{line}\n" for line in lines) + torn)


def test_no_files_is_unknown_not_none_migrated(run: RunDir) -> None:
    assert segments.read(run) is None
    write(run, "worker-1")
    assert segments.read(run) == []


def test_a_stream_killed_on_one_worker_goes_on_on_another(run: RunDir) -> None:
    write(run, "worker-1", start(10, "r"), start(11, "s"), end(15, "s", 10), torn='{"event":"end","t_mo')
    write(run, "worker-2", start(20, "r", 4), end(30, "r", 10))
    found = segments.read(run)
    assert found is not None
    view = [(s.target, s.request_id, s.start_mono_ns, s.end_mono_ns, s.first, s.next) for s in found]
    assert view == [
        ("worker-1", "r", 10, None, 0, None),
        ("worker-1", "s", 11, 15, 0, 10),
        ("worker-2", "r", 20, 30, 4, 10),
    ]
    assert (found[0].max_tokens, found[0].prompt_tokens, found[1].reason) == (10, 5, "length")
    assert segments.migrations(found) == {"r": 1, "s": 0}


def test_back_on_the_same_restarted_worker_is_two_segments(run: RunDir) -> None:
    write(run, "worker-1", start(1, "r"), start(5, "r", 3), end(9, "r", 10), start(20, "r", 9))
    found = segments.read(run)
    assert found is not None
    assert [(s.start_mono_ns, s.end_mono_ns) for s in found] == [(1, None), (5, 9), (20, None)]
    assert segments.migrations(found) == {"r": 2}


def test_an_end_without_a_start_is_no_segment(run: RunDir) -> None:
    write(run, "worker-1", end(1, "r", 3))
    assert segments.read(run) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary())
def test_any_bytes_are_read(run: RunDir, data: bytes) -> None:
    run.segments("worker-1").write_bytes(data)
    assert isinstance(segments.read(run), list)
