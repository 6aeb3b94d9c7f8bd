"""Every metric by hand on a few records. The run's `all` is [5 s, 65 s)."""

from __future__ import annotations

import pytest
from make_run import MS, NS, SCENARIO, fault_lines, line, plain_parts, record, samples, write_run

from harness.core import config
from harness.core.errors import ScenarioError
from harness.core.records import Sample
from harness.stats import analyse, metrics


def values(tmp_path, parts, window="all"):
    return analyse.analyse(write_run(tmp_path / "run", parts)).metrics[window]


def of(tmp_path, records, **changes):
    return values(tmp_path, plain_parts(records, **changes))


def test_ttft_is_first_minus_start_in_the_window_of_t_first(tmp_path):
    rows = [
        record(10, ttft_ms=100),
        record(11, ttft_ms=200),
        record(4, ttft_ms=900),
        record(4, request_id="in", ttft_ms=1100),
    ]
    got = of(tmp_path, rows)
    assert got["ttft_p50_ms"] == pytest.approx(200)  # 100, 200, 1100; the fourth came at 4.9 s, in warm-up
    assert got["ttft_p90_ms"] == pytest.approx(200 + 0.8 * 900)
    assert got["ttft_p99_ms"] == pytest.approx(200 + 0.98 * 900)


def test_a_first_token_at_the_end_of_the_window_is_outside(tmp_path):
    got = of(tmp_path, [record(64, ttft_ms=1000, gaps_us=[]), record(5, ttft_ms=0, gaps_us=[])])
    assert got["ttft_p50_ms"] == 0


def test_due_counts_the_wait_before_sending(tmp_path):
    got = of(tmp_path, [record(10, t_due_ns=10 * NS - 30 * MS, ttft_ms=50, gaps_us=[20_000])])
    assert got["ttft_p50_due_ms"] == pytest.approx(80)
    assert got["ttft_p50_ms"] == pytest.approx(50)
    assert got["e2e_p99_due_ms"] == pytest.approx(100)


def test_itl_pools_gaps_and_each_belongs_where_it_ends(tmp_path):
    # the second request's gaps end at 64.99, 65.01: only the first is inside
    rows = [record(10, gaps_us=[10_000, 20_000, 30_000]), record(64, ttft_ms=950, gaps_us=[40_000, 20_000])]
    got = of(tmp_path, rows)
    assert got["itl_p50_ms"] == pytest.approx(25)  # 10 20 30 40
    assert got["itl_p90_ms"] == pytest.approx(37)
    assert got["itl_p99_ms"] == pytest.approx(39.7)


def test_itl_mean_is_per_request(tmp_path):
    rows = [record(10, gaps_us=[10_000, 30_000]), record(11, gaps_us=[50_000] * 10), record(12, gaps_us=[])]
    assert of(tmp_path, rows)["itl_mean_p50_ms"] == pytest.approx(35)


def test_e2e_of_complete_requests_by_their_end(tmp_path):
    rows = [
        record(10, t_end_ns=10 * NS + 300 * MS),
        record(11, t_end_ns=11 * NS + 500 * MS, outcome="corrupted", violations=["lost_tokens"]),
        record(12, t_end_ns=12 * NS + 10 * MS, outcome="shed", status=529, ttft_ms=None, gaps_us=[]),
        record(13, t_end_ns=14 * NS, outcome="cancelled"),
        record(64, t_end_ns=66 * NS),
    ]
    got = of(tmp_path, rows)
    assert got["e2e_p50_ms"] == pytest.approx(400)
    assert got["e2e_p90_ms"] == pytest.approx(480)


def test_stall_is_the_longest_gap_and_the_silence_before_a_cut(tmp_path):
    cut = record(
        12, outcome="stream_error", t_end_ns=12 * NS + 1130 * MS, violations=["error_event"]
    )  # last at 12.13
    rows = [record(10, gaps_us=[20_000, 300_000]), record(11, gaps_us=[40_000]), cut, record(13, gaps_us=[])]
    got = of(tmp_path, rows)
    assert got["stall_p50_ms"] == pytest.approx(300)  # 40, 300, 1000; one token has no gap
    assert got["stall_max_ms"] == pytest.approx(1000)


def test_a_finished_or_cancelled_stream_has_no_silence_at_its_end(tmp_path):
    rows = [record(10, t_end_ns=20 * NS), record(11, t_end_ns=20 * NS, outcome="cancelled")]
    assert of(tmp_path, rows)["stall_max_ms"] == pytest.approx(20)


def test_goodput_counts_shed_as_a_miss_and_leaves_cancelled_out(tmp_path):
    rows = [
        record(10),
        record(11, ttft_ms=500),  # at the limit: good
        record(12, ttft_ms=500.001),
        record(13, gaps_us=[100_000, 100_000]),  # at the limit: good
        record(14, gaps_us=[100_000, 100_001]),
        record(15, gaps_us=[]),  # one token: no mean gap
        record(16, outcome="shed", status=529, ttft_ms=None, gaps_us=[]),
        record(17, outcome="cancelled"),
        record(1),  # warm-up
    ]
    assert of(tmp_path, rows)["goodput_ratio"] == pytest.approx(4 / 7)


def test_tokens_per_s_counts_arrivals_in_the_window(tmp_path):
    rows = [record(10), record(4, ttft_ms=950, gaps_us=[100_000])]  # 5 tokens; then one at 4.95, one at 5.05
    assert of(tmp_path, rows)["output_tokens_per_s"] == pytest.approx(6 / 60)


def test_ratios_are_of_all_that_overlap(tmp_path):
    rows = [
        record(10), record(11, outcome="cancelled"),
        record(12, outcome="shed", status=503, ttft_ms=None, gaps_us=[]),
        record(13, outcome="http_error", status=500, ttft_ms=None, gaps_us=[]),
        record(14, outcome="transport_error", status=0, ttft_ms=None, gaps_us=[]),
        record(4, outcome="timed_out", ttft_ms=None, gaps_us=[], t_end_ns=6 * NS),
        record(3, outcome="timed_out", ttft_ms=None, gaps_us=[], t_end_ns=5 * NS),  # ends as the window begins
    ]  # fmt: skip
    got = of(tmp_path, rows)
    assert got["shed_ratio"] == pytest.approx(1 / 6)
    assert got["error_ratio"] == pytest.approx(3 / 6)
    assert got["cancel_ratio"] == pytest.approx(1 / 6)


def test_migrations_by_records_and_by_counters(tmp_path):
    parts = plain_parts([record(10, migrated=2), record(11, migrated=1), record(1, migrated=5)])
    parts.samples = samples(70, [(3, 4.0), (20, 7.0), (69, 50.0)])
    got = values(tmp_path, parts)
    assert got["migrations_ledger"] == 3
    assert got["migrations_ongoing"] == 3  # from 4 at 5 s to 7; the rise after 65 s is outside
    assert got["migrations_new"] == 0  # made at first use, and its page was read


def test_unknown_is_none_never_zero(tmp_path):
    parts = plain_parts([record(10, migrated=None)])
    parts.samples, parts.probes = [], []
    got = values(tmp_path, parts)
    for name in (
        "migrations_ledger",
        "migrations_ongoing",
        "migrations_new",
        "silent_s",
        "silent_all_s",
        "detect_s",
    ):
        assert got[name] is None, name


def test_a_run_without_requests_knows_nothing(tmp_path):
    got = of(tmp_path, [])
    known = {name: value for name, value in got.items() if value is not None}
    assert set(known) <= {"migrations_ongoing", "migrations_new", "silent_s", "silent_all_s"}


def test_one_unknown_migrated_makes_the_sum_unknown(tmp_path):
    assert of(tmp_path, [record(10, migrated=1), record(11, migrated=None)])["migrations_ledger"] is None
    shed = record(11, migrated=None, outcome="shed", status=529, ttft_ms=None, gaps_us=[])
    assert values(tmp_path / "b", plain_parts([record(10, migrated=1), shed]))["migrations_ledger"] == 1


def test_counters_of_all_frontends_add_up(tmp_path):
    parts = plain_parts([record(10)])
    second = [
        Sample(one.t_ns, "frontend-2", one.metric, one.labels, one.value * 2)
        for one in samples(70, [(20, 3.0)])
    ]
    parts.samples = samples(70, [(20, 3.0)]) + second
    from make_run import sut_tree

    parts.sut = sut_tree()
    parts.sut["processes"].append({"name": "frontend-2", "role": "frontend"})
    assert values(tmp_path, parts)["migrations_ongoing"] == 9


def test_fault_metrics_exist_in_fault_windows_only(tmp_path):
    parts = plain_parts([record(n) for n in range(5, 65)], faults=[SCENARIO["faults"][1]])
    parts.journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
    found = analyse.analyse(write_run(tmp_path / "r", parts)).metrics
    assert found["fault:pause"]["mitigate_s"] == 0
    assert found["fault:pause"]["recover_s"] == found["recovery:pause"]["recover_s"] is not None
    assert found["all"]["mitigate_s"] is None
    assert found["recovery:pause"]["mitigate_s"] is None


def gate(metric="ttft_p99_ms", window="steady", **more):
    return config.build(
        {**SCENARIO, "gates": [{"metric": metric, "window": window, "max": 1}], **more}, "f.yaml"
    )


@pytest.mark.parametrize(
    ("metric", "window", "said"),
    [
        ("ttft_p99", "steady", "ttft_p99_ms"),
        ("tftt_p50_ms", "all", "ttft_p50_ms"),
        ("ttft_p99_ms", "steedy", "steady"),
        ("ttft_p99_ms", "fault:kil", "fault:kill"),
        ("mitigate_s", "steady", "fault:<id>"),
    ],
)
def test_a_gate_on_nothing_is_refused_with_the_nearest_name(metric, window, said):
    with pytest.raises(ScenarioError, match=r"gates\[0\]") as caught:
        metrics.check_gates(gate(metric, window), "f.yaml")
    assert said in str(caught.value)


def test_good_gates_pass_and_known_windows_are_checked():
    metrics.check_gates(gate(), "f.yaml")
    metrics.check_gates(gate("recover_s", "recovery:kill"), "f.yaml")
    known = {"violation": "lost_tokens", "window": "nowhere", "reason": "x", "expires": "2030-01-01"}
    with pytest.raises(ScenarioError, match=r"known\[0\]"):
        metrics.check_gates(gate(known=[known]), "f.yaml")


def test_a_stuck_line_of_the_journal_changes_nothing(tmp_path):
    parts = plain_parts([record(10)])
    parts.journal = [line(1, 20, "intent"), line(2, 20, "failed", error="gone")]
    assert values(tmp_path, parts)["ttft_p50_ms"] == pytest.approx(50)
