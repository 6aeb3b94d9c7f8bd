"""Whole answers beside streams: what is timed of which."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from make_run import NS, plain_parts, record, streams_of, write_run

from harness.core.config import Slo
from harness.stats import analyse, load
from harness.stats.hurt import hurt
from harness.stats.service import good


def whole(n: int, took_ms: float, **more):
    """101 tokens in one answer: the SLO of 500 and 100 ms allows 10.5 s."""
    fields = {
        "tokens_expected": 101,
        "tokens_received": 101,
        "gaps_us": [],
        "ttft_ms": took_ms,
        "stream": False,
    }
    return record(n, **(fields | more))


def test_a_whole_answer_is_good_within_the_time_of_its_stream():
    rows = streams_of([whole(1, 10_500), whole(2, 10_501), whole(3, 9_000, stream=True), record(4)])
    assert good(rows, Slo()).tolist() == [True, False, False, True]
    assert sorted(set(hurt(rows, 500, 100).row.tolist())) == [1, 2]


def test_ttft_is_of_streams_and_tokens_are_of_all(tmp_path):
    rows = [record(n) for n in range(5, 65)] + [
        whole(n, 2_000, request_id=f"whole-{n}") for n in range(10, 50)
    ]
    found = analyse.analyse(write_run(tmp_path / "run", plain_parts(rows))).metrics["all"]
    assert found["ttft_p99_ms"] == pytest.approx(50)
    assert found["e2e_p99_ms"] > 1_900
    assert found["itl_p99_ms"] == 20
    assert found["output_tokens_per_s"] == pytest.approx((60 * 5 + 40 * 101) / 60)
    assert found["goodput_ratio"] == 1


def test_without_streams_the_answers_arrival_is_all_there_is(tmp_path):
    rows = [whole(n, 2_000) for n in range(5, 60)]
    found = analyse.analyse(write_run(tmp_path / "run", plain_parts(rows)))
    assert found.metrics["all"]["ttft_p50_ms"] == pytest.approx(2_000)
    assert found.metrics["all"]["itl_p50_ms"] is None
    assert found.series.tokens_per_s.sum() == 55 * 101


def test_runs_from_before_the_column_were_streamed(tmp_path):
    run = write_run(tmp_path / "run", plain_parts([record(n) for n in range(5, 9)]))
    table = pq.read_table(run.requests).drop_columns(["stream"])
    pq.write_table(table, run.requests)
    data = load.read(run)
    assert data.requests.streamed.all()
    assert data.reasons == ()
    assert data.requests.start[0] == 5 * NS
