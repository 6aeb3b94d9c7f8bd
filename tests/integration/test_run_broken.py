"""The same pipeline must fail where it should: every verdict here is the negative control of a pass."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pipeline import NO_FAULTS, SHORT, Done, left_over, run

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]


def test_without_migration_the_kill_cuts_streams_and_they_are_named(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "sut.migration_limit=0")
    assert done.code == 1, done.out + done.err
    cut = done.requests[done.requests.outcome == "stream_error"]
    assert len(cut) > 0
    named = {
        name for i in done.json("verdict.json")["invariants"] if i["ok"] is False for name in i["request_ids"]
    }
    assert set(cut.request_id) <= named or len(named) >= 20
    assert done.json("verdict.json")["status"] == "fail"


def told(done: Done, kind: str) -> Counter[str]:
    """Misbehaviours that the engines themselves wrote down, by request id."""
    lines = [
        json.loads(line)
        for log in (done.dir / "logs").glob("*.segments.jsonl")
        for line in log.read_text().splitlines()
    ]
    return Counter(line["request_id"] for line in lines if line["event"] == "lie" and line["kind"] == kind)


def test_repeated_tokens_are_counted_exactly(tmp_path: Path) -> None:
    lie = "sut.engine_options.misbehave=[{kind: repeat, one_in: 300}]"
    done = run(tmp_path / "run", *SHORT, *NO_FAULTS, lie)
    assert done.code == 1, done.out + done.err
    requests = done.requests
    lies = told(done, "repeat")
    whole = requests[requests.outcome != "cancelled"]  # a cancelled stream doesn't see its end
    seen = dict(zip(whole.request_id, whole.duplicated_tokens, strict=True))
    assert {name: count for name, count in seen.items() if count} == {
        name: lies[name] for name in seen if lies[name]
    }
    assert sum(seen.values()) > 0
    assert done.invariant("duplicated_tokens")["count"] == int(requests.duplicated_tokens.sum())
    assert requests[["lost_tokens", "reordered_tokens", "foreign_tokens"]].to_numpy().sum() == 0


def test_naive_usage_is_named_on_migrated_requests_only(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "sut.engine_options.misbehave=[{kind: naive_usage, one_in: 1}]")
    assert done.code == 1, done.out + done.err
    requests = done.requests
    lied = requests[requests.violations.map(lambda v: "usage_prompt_mismatch" in v)]
    assert len(lied) > 0
    assert (lied.migrated > 0).all()
    assert done.invariant("usage_prompt_mismatch")["ok"] is False


def test_a_known_violation_passes_and_a_gate_that_fails_does_not(tmp_path: Path) -> None:
    known = "known=[{violation: duplicated_tokens, reason: test, expires: 2199-01-31}]"
    lie = "sut.engine_options.misbehave=[{kind: repeat, one_in: 500}]"
    done = run(
        tmp_path / "run", *SHORT, *NO_FAULTS, lie, known, "gates=[{metric: ttft_p50_ms, window: all, max: 1}]"
    )
    assert done.code == 1, done.out + done.err
    verdict = done.json("verdict.json")
    assert [gate["ok"] for gate in verdict["gates"]] == [False]
    assert all(invariant["ok"] is not False for invariant in verdict["invariants"])


def test_mocker_runs_with_the_count_oracle(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "faults=[]", "load.duration_s=5", "sut.engine=mocker", "gates=[]")
    assert done.code == 0, done.out + done.err
    requests = done.requests
    assert (
        requests[requests.outcome == "ok"].tokens_received
        == requests[requests.outcome == "ok"].tokens_expected
    ).all()


def test_older_dynamo_passes_too(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "faults=[]", "load.duration_s=5", 'sut.dynamo="1.4.2"')
    assert done.code == 0, done.out + done.err
    assert left_over(done.json("manifest.json")["run_id"]) == []


def test_a_worker_that_dies_at_start_shows_its_log(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "sut.engine=mocker", "sut.worker_args=[--no-such-flag]")
    assert done.code == 2
    assert "--no-such-flag" in done.err
    assert left_over(done.json("manifest.json")["run_id"]) == []


def test_a_system_that_never_gets_ready_says_who_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "sut.ready_timeout_s=0.05")
    assert done.code == 2
    assert "worker-1" in done.err
    assert "ready" in done.err
    assert left_over(done.json("manifest.json")["run_id"]) == []


def test_a_generator_that_is_too_slow_makes_the_run_invalid(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, *NO_FAULTS, "generator.hub_lag_p99_ms=0.000001")
    assert done.code == 4, done.out + done.err
    assert done.json("verdict.json")["status"] == "invalid"
    assert any("hub_lag_p99_ms" in reason for reason in done.json("verdict.json")["reasons"])


def test_a_run_in_which_nothing_is_answered_after_the_warm_up_is_invalid(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, *NO_FAULTS, "gates=[]", "load.users.0.think_s=1000",
               "load.users.1.think_s=1000", "load.users.0.output_tokens=5")  # fmt: skip
    assert done.code == 4, done.out + done.err
    assert "nothing was measured" in done.json("verdict.json")["reasons"][0]
    assert left_over(done.json("manifest.json")["run_id"]) == []
