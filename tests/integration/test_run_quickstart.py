"""The whole pipeline on real Dynamo: kill and pause under load, proven, exact, judged."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from pipeline import SHORT, Done, left_over, run

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(tmp_path_factory.mktemp("quickstart") / "run", *SHORT)


def test_it_passes_and_says_so(done: Done) -> None:
    assert done.code == 0, done.out + done.err
    verdict = done.json("verdict.json")
    assert verdict["status"] == "pass"
    assert verdict["exit_code"] == 0
    assert "PASS" in done.out
    assert str(done.dir / "report" / "report.html") in done.out


def test_every_stream_in_flight_at_the_kill_is_complete_and_exact(done: Done) -> None:
    kill = next(line for line in done.journal if line["fault_id"] == "kill" and line["phase"] == "verified")
    effective = kill["evidence"]["effective_ns"]
    requests = done.requests
    there = requests[
        (requests.t_start_ns < effective) & (requests.t_end_ns > effective) & (requests.migrated > 0)
    ]
    assert len(there) > 0, "nothing was in flight on the killed worker"
    served = there[there.outcome != "cancelled"]
    assert set(served.outcome) == {"ok"}
    assert (served.tokens_received == served.tokens_expected).all()
    assert (
        served.lost_tokens + served.duplicated_tokens + served.reordered_tokens + served.foreign_tokens == 0
    ).all()


def test_ledger_and_counters_agree_on_migrations(done: Done) -> None:
    assert done.invariant("ledger_agrees")["ok"] is True
    metrics = done.json("metrics.json")["fault:kill"]
    assert metrics["migrations_ledger"] > 0
    assert metrics["migrations_ongoing"] >= metrics["migrations_ledger"]
    assert metrics["in_flight_at_fault"] >= metrics["migrations_ledger"]


def test_the_pause_has_silent_seconds(done: Done) -> None:
    assert done.json("metrics.json")["fault:pause"]["silent_s"] > 0.5


def test_both_faults_are_verified_and_recovered(done: Done) -> None:
    faults = {fault["fault_id"]: fault for fault in done.json("verdict.json")["faults"]}
    assert set(faults) == {"kill", "pause"}
    assert all(fault["verified"] and fault["recovered"] for fault in faults.values())


def test_the_restarted_worker_serves(done: Done) -> None:
    kill = next(line for line in done.journal if line["fault_id"] == "kill" and line["phase"] == "recovered")
    requests = done.requests
    target = kill["target"]
    segments = (done.dir / "logs" / f"{target}.segments.jsonl").read_text().splitlines()
    assert any('"event":"start"' in line.replace(" ", "") for line in segments)
    assert (requests.t_start_ns > kill["t_ns"]).any()
    assert kill["evidence"]["recovered_by"] in ("undo", "restart")


def test_requests_have_exactly_the_columns_of_the_contract(done: Done) -> None:
    names = pq.read_schema(done.dir / "requests.parquet").names
    assert names[:9] == [
        "request_id", "response_id", "worker_index", "user_class", "route", "t_due_ns", "t_start_ns", "t_first_ns", "t_last_ns",
    ]  # fmt: skip
    counts = done.json("manifest.json")["counts"]
    assert counts["lost"] == 0
    assert counts["sent"] == len(done.requests)


def test_cancelled_users_cancel_and_count_as_no_failure(done: Done) -> None:
    cancelled = done.requests[done.requests.user_class == "CancellingUser"]
    assert (cancelled.outcome == "cancelled").any()
    assert (cancelled[cancelled.outcome == "cancelled"].tokens_received >= 20).all()


def test_probes_saw_the_paused_worker_fall_silent(done: Done) -> None:
    probes = pq.read_table(done.dir / "probes.parquet").to_pandas()
    pause = next(line for line in done.journal if line["fault_id"] == "pause" and line["phase"] == "verified")
    own = probes[(probes.process == pause["target"]) & (probes.t_ns > pause["evidence"]["effective_ns"])]
    assert (own.http_status == 0).any()


def test_nothing_is_left(done: Done) -> None:
    assert left_over(done.json("manifest.json")["run_id"]) == []
    assert (done.dir / "restored").exists()


def test_report_can_be_made_again_with_the_same_verdict(done: Done) -> None:
    from pipeline import squall

    before = (done.dir / "verdict.json").read_bytes()
    again = squall("report", str(done.dir), out=done.dir)
    assert again.code == 0, again.out + again.err
    assert (done.dir / "verdict.json").read_bytes() == before
