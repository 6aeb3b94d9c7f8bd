"""Traces: what is right is read as it is, whatever is wrong is told by line; the replay's arithmetic."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import arrivals, config, trace
from harness.core.errors import ScenarioError
from harness.core.trace import Row

LINES = [
    {"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [46, 49]},
    {"timestamp": 1500, "input_length": 20, "output_length": 700, "hash_ids": []},
]


def lines(rows: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def written(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    path.write_bytes(b"\n".join(lines(LINES if rows is None else rows)) + b"\n")
    return path


def scenario(tmp_path: Path, name: str = "trace.jsonl", **more: Any) -> config.Scenario:
    file = tmp_path / "s.yaml"
    load = {"duration_s": 5, "warmup_s": 0, "users": [{"class": "ChatUser", "weight": 1}],
            "arrivals": {"process": "trace", "file": name, **more}}  # fmt: skip
    file.write_text(json.dumps({"schema": 1, "name": "s", "sut": {"dynamo": "1.6.1"}, "load": load}))
    return config.load_scenario(file)


def test_rows_come_in_order_of_time() -> None:
    assert trace.parse(lines(LINES)) == [
        Row(0, 1100, 52, (46, 47, 48)), Row(1500, 20, 700), Row(3000, 700, 5, (46, 49)),
    ]  # fmt: skip


def test_offset_and_length_ratio() -> None:
    assert trace.parse(lines(LINES), offset_s=1, length_ratio=0.1) == [
        Row(500, 2, 70),
        Row(2000, 70, 1, (46, 49)),
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: "),
        ('{"timestamp": -1, "input_length": 1, "output_length": 1}', "line 2: "),
        ('{"timestamp": 1, "input_length": 1}', "line 2: "),
        ('{"timestamp": 1, "input_length": "1", "output_length": 1}', "line 2: "),
        (
            '{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1, 2, 3]}',
            "2: 3 hash_ids for 600",
        ),
    ],
)
def test_a_bad_line_is_named(line: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        trace.parse([lines(LINES)[0], line.encode()])


ROWS = st.lists(
    st.builds(
        lambda t, n, out, ids: {"timestamp": t, "input_length": n, "output_length": out,
                                "hash_ids": ids[: -(-n // 512)], "extra": "let pass"},
        st.floats(0, 1e9) | st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**5),
        st.lists(st.integers(0, 2**40), max_size=9),
    )
)  # fmt: skip


@given(ROWS, st.floats(0, 1e4), st.floats(0.01, 2))
def test_every_row_from_the_offset_on_is_there_once(
    rows: list[dict[str, Any]], offset_s: float, ratio: float
) -> None:
    found = trace.parse(lines(rows), offset_s, ratio)
    assert len(found) == sum(row["timestamp"] - 1000 * offset_s >= 0 for row in rows)
    assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(found))
    assert all(row.input_length >= 1 and row.output_length >= 1 and row.timestamp_ms >= 0 for row in found)


@given(st.lists(st.binary() | st.sampled_from(lines(LINES))))
def test_any_bytes_are_rows_or_an_error_that_names_the_line(data: list[bytes]) -> None:
    try:
        found = trace.parse(data)
    except ValueError as error:
        assert str(error).startswith("line ")
    else:
        assert len(found) <= len(data)


def test_speed_makes_it_faster(tmp_path: Path) -> None:
    written(tmp_path / "trace.jsonl")
    s = scenario(tmp_path, speed_ratio=3)
    rows = trace.parse(lines(LINES))
    assert [one.due_s for one in arrivals.schedule(s.load, 1, rows)] == [0, 0.5, 1]


def test_a_scenario_knows_its_trace_by_content(tmp_path: Path) -> None:
    written(tmp_path / "trace.jsonl")
    one = scenario(tmp_path)
    assert one.load.arrivals is not None and one.load.arrivals.sha256 and one.load.arrivals.file == str(
        tmp_path / "trace.jsonl"
    )  # fmt: skip
    (tmp_path / "other.jsonl").write_bytes((tmp_path / "trace.jsonl").read_bytes())
    assert config.trace_sha256(scenario(tmp_path, "other.jsonl")) == config.trace_sha256(one)
    written(tmp_path / "trace.jsonl", LINES[:1])
    assert config.trace_sha256(scenario(tmp_path)) != config.trace_sha256(one)
    with pytest.raises(ScenarioError, match="has changed since the scenario was loaded"):
        trace.read(tmp_path / "trace.jsonl", 0, 1, one.load.arrivals.sha256, "s")


def test_a_trace_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"load.arrivals.file.*No such file"):
        scenario(tmp_path)
    with pytest.raises(ScenarioError, match="has no request from 9 s on"):
        trace.read(written(tmp_path / "trace.jsonl"), 9, 1, None, "s")
