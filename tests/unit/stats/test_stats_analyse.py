"""The whole way on a quickstart-like run with known truth, and what `write` leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from make_run import make_run, plain_parts, record, write_run

from harness.core import manifest
from harness.stats import analyse


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    run, truth = make_run(tmp_path_factory.mktemp("good") / "run")
    return run, truth, analyse.analyse(run)


def test_it_passes(good):
    _, _, found = good
    assert (found.status, found.exit_code, found.verdict["reasons"]) == ("pass", 0, [])


def test_counts(good):
    _, truth, found = good
    assert found.counts == {
        "sent": truth.sent, "ok": truth.ok, "shed": 0, "cancelled": truth.cancelled, "failed": 0, "lost": 0,
    }  # fmt: skip


def test_the_ledger_names_exactly_the_streams_in_flight(good):
    _, truth, found = good
    kill, pause = found.ledger
    told = {i for ids in kill.fates.values() for i in ids}
    assert told == truth.in_flight_at_kill
    assert set(kill.fates["migrated_exact"]) | set(kill.fates["cancelled"]) == truth.migrated
    assert {i for ids in pause.fates.values() for i in ids} == truth.in_flight_at_pause
    assert kill.closes and pause.closes and kill.agrees and pause.agrees
    assert kill.migrations == kill.counter_ongoing == len(truth.migrated)
    assert found.metrics["fault:kill"]["in_flight_at_fault"] == len(truth.in_flight_at_kill)
    assert found.metrics["all"]["migrations_ledger"] == len(truth.migrated)


def test_the_pause_is_silent_and_the_kill_is_not(good):
    _, truth, found = good
    assert found.services["kill"].silent_s == 0
    assert truth.silent_s <= found.services["pause"].silent_s <= truth.silent_s + 0.7  # some were in prefill
    assert found.services["pause"].silent_all_s == 0  # the stopped worker's own health was red
    assert found.metrics["fault:pause"]["stall_max_ms"] == pytest.approx(truth.stall_max_ms)


def test_losses(good):
    _, truth, found = good
    kill, pause = found.losses
    assert kill.requests_hurt == 0
    assert kill.text == "nobody was hurt"
    assert pause.requests_hurt >= len(truth.stalled)
    assert 0 < pause.outage_s < 9


def test_series_fit_the_run(good):
    _, truth, found = good
    series = found.series
    assert series.tokens_per_s.sum() == found.data.frame["tokens_received"].sum()
    assert sum(int(v.sum()) for v in series.outcomes.values()) == truth.sent
    assert len(series.t_s) == len(series.in_flight) == len(series.ttft_p50_ms)
    assert float(np.max(series.in_flight)) <= 24
    assert series.health["worker-1"][0][2] == "green"
    assert any(state == "red" and 20 <= a < 23 for a, _, state in series.health["worker-1"])
    assert max(series.stall_end_s - series.stall_start_s) * 1000 == pytest.approx(truth.stall_max_ms)


def test_migration_limit_0_fails_and_names_the_cut_requests(tmp_path):
    run, truth = make_run(tmp_path / "run", migration_limit=0)
    found = analyse.analyse(run)
    assert found.exit_code == 1
    assert set(found.ledger[0].fates["cut"]) == truth.in_flight_at_kill
    (held,) = [one for one in found.invariants if one.name == "streams_complete"]
    assert set(held.request_ids) == truth.in_flight_at_kill
    assert held.detail == f"{truth.failed} stream_error"


def test_naive_usage_is_named_on_migrated_requests_only(tmp_path):
    run, truth = make_run(tmp_path / "run", usage_lie=True)
    found = analyse.analyse(run)
    assert found.exit_code == 1
    (held,) = [one for one in found.invariants if one.name == "usage_prompt_mismatch"]
    assert set(held.request_ids) <= truth.migrated
    broken = {one.name for one in found.invariants if one.ok is False}
    assert broken == {"usage_prompt_mismatch", "streams_complete"}


def test_write_and_judge_again(tmp_path):
    run, truth = make_run(tmp_path / "run")
    manifest.update(run, generator={"hub_lag_p99_ms": 99.0}, invalid_reasons=["the disk was full"])
    first = analyse.analyse(run)
    analyse.write(run, first)
    left = json.loads(run.manifest.read_bytes())
    assert left["valid"] is False
    assert left["counts"]["sent"] == truth.sent
    assert left["generator"]["send_lag_p99_ms"] == pytest.approx(0.1)
    assert left["invalid_reasons"][0] == "the disk was full"
    assert analyse.analyse(run).verdict == first.verdict
    manifest.update(run, generator={"hub_lag_p99_ms": 9.0}, invalid_reasons=left["invalid_reasons"][1:])
    again = analyse.analyse(run)  # what judging had added before isn't a reason by itself
    assert again.exit_code == 0
    analyse.write(run, again)
    assert json.loads(run.manifest.read_bytes())["valid"] is True


@pytest.mark.parametrize(("restored", "code"), [(True, 130), (None, 130), (False, 5)])
def test_an_interrupted_run_is_invalid(tmp_path, restored, code):
    run, _ = make_run(tmp_path / "run")
    manifest.update(run, interrupted=True, restored=restored, duration_s=10)
    found = analyse.analyse(run)
    assert (found.status, found.exit_code) == ("invalid", code)
    assert found.verdict["reasons"][0] == "interrupted"
    assert found.windows["all"].intervals == ((5_000_000_000, 15_000_000_000),)


def test_a_host_that_is_not_restored(tmp_path):
    run, _ = make_run(tmp_path / "run")
    manifest.update(run, restored=False)
    found = analyse.analyse(run)
    assert found.exit_code == 5
    assert found.status == "invalid"


def test_a_process_that_died_on_its_own_is_a_warning(tmp_path):
    parts = plain_parts([record(n) for n in range(5, 65)])
    parts.manifest = {**parts.manifest, "dead": ["frontend-1"]}
    found = analyse.analyse(write_run(tmp_path / "dead", parts))
    assert any("frontend-1 was gone or stopped" in text for text in found.warnings)
    parts.manifest = {**parts.manifest, "dead": []}
    assert not analyse.analyse(write_run(tmp_path / "alive", parts)).warnings
