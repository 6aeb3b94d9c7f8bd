"""Every invariant, broken by a case of its own; and what a broken one makes of the run."""

from __future__ import annotations

import pytest
from make_run import NS, SCENARIO, fault_lines, line, plain_parts, record, samples, write_run

from harness.core.records import VIOLATIONS
from harness.stats import analyse
from harness.stats.known import TOKEN_CLASSES

GOOD = [record(n) for n in range(5, 65)]
PAUSE = SCENARIO["faults"][1]


def judge(path, rows=(), **changes):
    manifest = changes.pop("manifest", {})
    parts = plain_parts([*GOOD, *rows], **{k: v for k, v in changes.items() if k in SCENARIO or k == "known"})
    parts.manifest = manifest
    for key in ("journal", "segments", "samples"):
        if key in changes:
            setattr(parts, key, changes[key])
    parts.sut = changes.get("sut_file")
    found = analyse.analyse(write_run(path / "run", parts))
    return found, {one.name: one for one in found.invariants}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_each_violation_breaks_its_invariant_and_names_the_request(tmp_path, violation):
    more = {violation: 3} if violation in TOKEN_CLASSES else {}
    found, held = judge(
        tmp_path, [record(10, request_id="bad", outcome="corrupted", violations=[violation], **more)]
    )
    one = held[violation]
    assert (one.ok, one.count, one.request_ids) == (False, 3 if more else 1, ("bad",))
    assert (found.status, found.exit_code) == ("fail", 1)
    assert sum(x.ok is False for x in found.invariants) == 2  # and streams_complete
    assert any("bad" in reason for reason in found.verdict["reasons"])


def test_a_counted_token_is_a_violation_even_if_nobody_listed_it(tmp_path):
    found, held = judge(tmp_path, [record(10, request_id="x", lost_tokens=1)])
    assert held["lost_tokens"].ok is False
    assert found.exit_code == 1


def test_a_good_run_holds_everything(tmp_path):
    found, held = judge(tmp_path)
    assert found.exit_code == 0
    assert {one.name for one in found.invariants if one.ok is False} == set()
    assert held["faults_verified"].ok is None  # no faults: not applicable, no pass
    assert held["host_restored"].ok is True


def test_violations_in_the_warm_up_count(tmp_path):
    row = record(1, request_id="early", outcome="corrupted", violations=["id_changed"])
    assert judge(tmp_path, [row])[0].exit_code == 1


@pytest.mark.parametrize("outcome", ["stream_error", "truncated", "timed_out", "corrupted"])
def test_a_cut_stream_without_any_violation_still_fails(tmp_path, outcome):
    found, held = judge(tmp_path, [record(10, request_id="cut", outcome=outcome)])
    assert held["streams_complete"].request_ids == ("cut",)
    assert held["streams_complete"].detail == f"1 {outcome}"
    assert found.exit_code == 1


@pytest.mark.parametrize("outcome", ["cancelled", "shed", "http_error", "transport_error"])
def test_other_outcomes_are_for_gates_not_for_invariants(tmp_path, outcome):
    found, _ = judge(tmp_path, [record(10, request_id="x", outcome=outcome, ttft_ms=None, gaps_us=[])])
    assert found.exit_code == 0


def test_at_most_20_request_ids(tmp_path):
    rows = [
        record(10, request_id=f"b{n:02}", outcome="corrupted", violations=["lost_tokens"]) for n in range(30)
    ]
    one = judge(tmp_path, rows)[1]["lost_tokens"]
    assert one.count == 30
    assert one.request_ids == tuple(f"b{n:02}" for n in range(20))


def test_what_the_oracle_cannot_check_is_not_applicable(tmp_path):
    sut = {"oracle": "count", "processes": [{"name": "frontend-1", "role": "frontend"}]}
    held = judge(tmp_path, sut_file=sut)[1]
    assert [held[name].ok for name in TOKEN_CLASSES] == [None] * 5
    assert held["short_stream"].ok is True
    foreign = [record(n, request_id=f"f{n}", prompt_tokens=None) for n in range(5, 65)]
    parts = plain_parts(foreign)
    found = analyse.analyse(write_run(tmp_path / "b", parts))
    assert {one.name: one.ok for one in found.invariants}["usage_prompt_mismatch"] is None


def test_a_request_twice(tmp_path):
    found, held = judge(tmp_path, [record(10)])
    assert held["requests_unique"].request_ids == ("r10",)
    assert found.exit_code == 1


def test_a_request_without_an_end_is_an_open_ledger(tmp_path):
    parts = plain_parts([*GOOD, record(10, request_id="open")])
    parts.records[-1].t_end_ns = None  # type: ignore[assignment]
    found = analyse.analyse(write_run(tmp_path / "r", parts))
    held = {one.name: one for one in found.invariants}
    assert held["ledger_closes"].request_ids == ("open",)
    assert found.exit_code == 1


@pytest.mark.parametrize("counts", [{"lost": 2}, {"sent": 62}])
def test_a_lost_record_makes_the_run_invalid(tmp_path, counts):
    found, held = judge(tmp_path, manifest={"counts": counts})
    assert held["no_lost_requests"].ok is False
    assert (found.status, found.exit_code) == ("invalid", 4)
    assert found.counts["lost"] == 2
    assert found.counts["sent"] == 62


@pytest.mark.parametrize(
    "generator",
    [
        {"send_lag_p99_ms": 20.1, "hub_lag_p99_ms": 1, "coalesced_ratio": 0},
        {"send_lag_p99_ms": 1, "hub_lag_p99_ms": 51, "coalesced_ratio": 0},
        {"send_lag_p99_ms": 1, "hub_lag_p99_ms": 1, "coalesced_ratio": 0.011},
        {"send_lag_p99_ms": float("nan"), "hub_lag_p99_ms": 1, "coalesced_ratio": 0},
        None,
    ],
)
def test_a_slow_or_unknown_generator_makes_the_run_invalid(tmp_path, generator):
    found, held = judge(tmp_path, manifest={"generator": generator})
    assert held["generator_on_time"].ok is not True
    assert (found.status, found.exit_code) == ("invalid", 4)
    assert any("generator" in reason for reason in found.invalid_reasons)


def test_a_late_send_is_seen_in_the_records_too(tmp_path):
    rows = [record(10, request_id="late", t_due_ns=9 * NS, t_start_ns=10 * NS)]
    generator = {"hub_lag_p99_ms": 1, "coalesced_ratio": 0}
    assert judge(tmp_path, rows * 1, manifest={"generator": generator})[1]["generator_on_time"].ok is False


def with_fault(path, journal, rows=(), **changes):
    return judge(path, rows, faults=[PAUSE], journal=journal, **changes)


CHAIN = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)


def test_a_fault_that_is_verified_and_recovered(tmp_path):
    found, held = with_fault(tmp_path, CHAIN)
    assert found.exit_code == 0
    assert [held[name].ok for name in ("faults_verified", "faults_recovered", "not_recovered")] == [True] * 3


def test_a_fault_without_proof_is_invalid(tmp_path):
    found, held = with_fault(tmp_path, [one for one in CHAIN if one.phase != "verified"])
    assert held["faults_verified"].ok is False
    assert (found.status, found.exit_code) == ("invalid", 4)
    assert "never proven" in str(found.invalid_reasons)


def test_a_fault_whose_target_was_gone_is_invalid(tmp_path):
    journal = [CHAIN[0], line(2, 20, "failed", "pause", error="worker-1 is gone")]
    found, _ = with_fault(tmp_path, journal)
    assert found.exit_code == 4
    assert "worker-1 is gone" in str(found.verdict["reasons"])


def test_a_fault_that_the_journal_does_not_know_is_invalid(tmp_path):
    found, held = with_fault(tmp_path, fault_lines(1, "other", "worker-1", 20, 25, 25, 26))
    assert "never injected" in held["faults_verified"].detail
    assert found.exit_code == 4


def test_a_recovery_that_failed_breaks_an_invariant(tmp_path):
    journal = [*CHAIN[:4], line(5, 40, "failed", "pause", error="not undone: not serving")]
    found, held = with_fault(tmp_path, journal)
    assert held["faults_recovered"].ok is False
    assert found.exit_code == 1


def test_a_journal_that_ends_before_the_recovery_is_invalid(tmp_path):
    _, held = with_fault(tmp_path, CHAIN[:4])
    assert held["faults_recovered"].breaks == "invalid"


def test_not_recovered_by_the_list(tmp_path):
    from test_stats_service import listed

    gone = [*samples(66), listed(1, 1), listed(21, 0)]
    found, held = with_fault(tmp_path, CHAIN, samples=gone)
    assert found.metrics["fault:pause"]["recover_s"] is None
    assert held["not_recovered"].ok is False
    assert (found.status, found.exit_code) == ("fail", 1)


def test_too_little_load_after_the_undo_is_invalid(tmp_path):
    late = fault_lines(1, "pause", "worker-1", 58, 62, 62, 63)
    found, held = with_fault(tmp_path, late)
    assert held["not_recovered"].ok is None
    assert found.exit_code == 4


def segments(until_s, target="worker-1"):
    from make_run import MONO_NS

    return [
        {"event": "start", "t_mono_ns": MONO_NS + n * NS, "request_id": f"r{n}", "first": 0, "max_tokens": 5}
        for n in range(5, until_s)
    ]


def test_a_target_that_gets_no_stream_again_does_not_serve(tmp_path):
    both = {"worker-1": segments(20), "worker-2": segments(65)}
    found, held = with_fault(tmp_path, CHAIN, segments=both)
    assert held["serving_again"].ok is False
    assert found.exit_code == 1
    found, held = with_fault(
        tmp_path / "b", CHAIN, segments={"worker-1": segments(65), "worker-2": segments(20)}
    )
    assert held["serving_again"].ok is True


def test_too_few_streams_prove_nothing_about_serving(tmp_path):
    both = {"worker-1": segments(20), "worker-2": segments(30)}
    found, held = with_fault(tmp_path, CHAIN, segments=both)
    assert held["serving_again"].ok is None
    assert any("serving_again" in one for one in found.warnings)


def test_a_gate_on_an_unknown_value_makes_the_run_invalid(tmp_path):
    found, _ = judge(tmp_path, gates=[{"metric": "migrations_ledger", "window": "all", "min": 1}],
                     rows=[record(10, request_id="x", migrated=None)])  # fmt: skip
    assert found.gates[0].ok is None
    assert (found.status, found.exit_code) == ("invalid", 4)


def test_a_failed_gate_fails_the_run(tmp_path):
    found, _ = judge(tmp_path, gates=[{"metric": "ttft_p99_ms", "window": "all", "max": 49}])
    assert (found.status, found.exit_code) == ("fail", 1)
    assert "above its max 49" in found.verdict["reasons"][0]
    found, _ = judge(tmp_path / "b", gates=[{"metric": "goodput_ratio", "window": "all", "min": 1}])
    assert found.exit_code == 0
