"""The verdict of a comparison: what it says, and that nothing makes bad data a pass."""

from __future__ import annotations

import json

import pytest
from sessions import archive, session

from harness.stats.compare import Plan, judge
from harness.stats.verdict import to_bytes

KEYS = {
    "schema", "status", "exit_code", "pairs_used", "run_ids", "metrics", "gates", "invariants", "known", "faults",
    "reasons",
}  # fmt: skip
ROW = {
    "metric", "window", "unit", "baseline", "candidate", "delta_ratio", "ci_low", "ci_high", "p_regression",
    "p_improvement", "status", "mde_ratio", "more_pairs", "note",
}  # fmt: skip
TWENTY = {"ttft_p50_ms": 0.2}


def row(verdict, metric="ttft_p50_ms", window="steady"):
    return next(r for r in verdict.to_dict()["metrics"] if (r["metric"], r["window"]) == (metric, window))


def statuses(verdict):
    return {(r["metric"], r["window"]): r["status"] for r in verdict.rows}


def test_equal_arms_pass_and_a_slower_candidate_is_named():
    same = judge(session(10), archive(60), Plan())
    assert (same.status, same.exit_code) == ("pass", 0)
    worse = judge(session(10, TWENTY), archive(60), Plan())
    assert (worse.status, worse.exit_code, worse.pairs_used) == ("regression", 1, 3)
    assert row(worse)["status"] == "regression"
    assert row(worse, "itl_p50_ms")["status"] == "pass"
    assert row(worse)["delta_ratio"] == pytest.approx(0.2, abs=0.05)
    assert row(worse)["ci_low"] < row(worse)["delta_ratio"] < row(worse)["ci_high"]
    assert worse.reasons[0].startswith("ttft_p50_ms in steady is ")


def test_a_faster_candidate_is_an_improvement_and_fewer_tokens_a_regression():
    better = judge(session(10, {"ttft_p50_ms": -0.2}), archive(60))
    assert (better.status, better.exit_code) == ("improvement", 0)
    assert row(better)["delta_ratio"] < 0
    fewer = judge(session(10, {"output_tokens_per_s": -0.2}), archive(60))
    assert fewer.status == "regression"
    assert row(fewer, "output_tokens_per_s")["delta_ratio"] == pytest.approx(-0.2, abs=0.05)
    assert row(fewer, "output_tokens_per_s")["p_regression"] < 1e-4
    assert judge(session(10, {"output_tokens_per_s": 0.2}), archive(60)).status == "improvement"


def test_the_file_has_the_contracts_keys():
    tree = json.loads(to_bytes(judge(session(5, TWENTY), archive(60), Plan()).to_dict()))
    assert set(tree) == KEYS
    assert len(tree["metrics"]) == 12
    assert all(set(one) == ROW for one in tree["metrics"])
    assert tree["invariants"] == [{"name": "not_recovered", "ok": True, "count": 0, "request_ids": []}]
