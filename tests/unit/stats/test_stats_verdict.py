"""Status, exit code, their order, and the bytes of verdict.json."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import make_run, write_requests

from harness.core.records import RequestRecord
from harness.stats import analyse, verdict
from harness.stats.analysis import GateResult, Invariant


def decide(broken=False, invalid=False, gate=False, interrupted=False, restored=None):
    return verdict.decide(
        verdict.Judgement(
            "run", {}, [GateResult("ttft_p50_ms", "all", "max", 1.0, 2.0, not gate)],
            [Invariant("x", not broken, 0), Invariant("y", False, 1, breaks="invalid")], [], [],
            ["why"] if invalid else [], interrupted, restored,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ({}, ("pass", 0)),
        ({"gate": True}, ("fail", 1)),
        ({"invalid": True}, ("invalid", 4)),
        ({"invalid": True, "gate": True}, ("invalid", 4)),
        ({"broken": True}, ("fail", 1)),
        ({"broken": True, "invalid": True}, ("fail", 1)),
        ({"restored": True}, ("pass", 0)),
        ({"restored": False}, ("invalid", 5)),
        ({"restored": False, "broken": True}, ("fail", 5)),
        ({"restored": False, "gate": True}, ("fail", 5)),
        ({"interrupted": True}, ("invalid", 130)),
        ({"interrupted": True, "broken": True}, ("invalid", 130)),
        ({"interrupted": True, "restored": True}, ("invalid", 130)),
        ({"interrupted": True, "restored": False}, ("invalid", 5)),
    ],
)
def test_the_order_of_exit_codes(given_, wanted):
    assert decide(**given_) == wanted


KEYS = {
    "schema",
    "status",
    "exit_code",
    "run_ids",
    "metrics",
    "gates",
    "invariants",
    "known",
    "faults",
    "reasons",
}


def test_the_file_has_the_contracts_keys(tmp_path):
    run, _ = make_run(tmp_path / "run")
    found = analyse.analyse(run)
    analyse.write(run, found)
    tree = json.loads(run.verdict.read_bytes())
    assert set(tree) == KEYS
    assert set(tree["metrics"][0]) == {
        "metric", "window", "unit", "baseline", "candidate", "delta_ratio", "ci_low", "ci_high", "p_regression",
        "status", "mde_ratio", "more_pairs", "note",
    }  # fmt: skip
    assert set(tree["gates"][0]) == {"metric", "window", "limit", "value", "ok"}
    assert set(tree["invariants"][0]) == {"name", "ok", "count", "request_ids"}
    assert tree["faults"][0] == {
        "fault_id": "kill", "fault": "process.kill", "target": "worker-1", "verified": True, "recovered": True,
        "recovered_by": "undo",
    }  # fmt: skip
    assert tree["run_ids"] == ["run-1"]
    text = run.verdict.read_text()
    assert str(tmp_path) not in text
    assert text == json.dumps(tree, indent=2, sort_keys=True) + "\n"
    assert json.loads(run.metrics.read_bytes()).keys() == found.metrics.keys()


def test_the_order_of_rows_and_files_changes_no_byte(tmp_path):
    run, _ = make_run(tmp_path / "run", usage_lie=True)
    first = verdict.to_bytes(analyse.analyse(run).verdict)
    import pyarrow.parquet as pq

    rows = [msgspec.convert(one, RequestRecord) for one in pq.read_table(run.requests).to_pylist()]
    rows.sort(key=lambda one: one.request_id)
    write_requests(run.requests, rows[1::2] + rows[::2])
    for path in (run.samples, run.probes):
        table = pq.read_table(path)
        pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)
    assert verdict.to_bytes(analyse.analyse(run).verdict) == first


def test_the_time_zone_changes_no_byte(tmp_path, monkeypatch):
    import time

    run, _ = make_run(tmp_path / "run")
    first = verdict.to_bytes(analyse.analyse(run).verdict)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert verdict.to_bytes(analyse.analyse(run).verdict) == first
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.floats())
def test_six_significant_digits(value):
    rounded = verdict.rounded_tree({"x": [value]})["x"][0]
    if value != value or value in (float("inf"), float("-inf")):
        assert rounded is None
    else:
        assert rounded == float(f"{value:.6g}")


def test_rounding_by_hand():
    assert verdict.rounded_tree(1234.56789) == 1234.57
    assert verdict.rounded_tree((0.1 + 0.2, True, None, 7)) == [0.3, True, None, 7]
