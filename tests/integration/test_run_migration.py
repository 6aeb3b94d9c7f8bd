"""Migrations on real Dynamo, stream by stream: k kills of one stream against the limit, streamed or whole,
chat or completions, and requests that were sent to a dead worker. The engines' segments are the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import Done, run

from harness.core.rundir import RunDir
from harness.stats import analyse
from harness.stats.analysis import Analysis

pytestmark = [pytest.mark.sut, pytest.mark.load, pytest.mark.timeout(240)]
APART_S = 12  # longer than the lease of a killed worker, so that nothing is sent to a dead one
KINDS = [("ChatUser", "true"), ("CompletionUser", "true"), ("ChatUser", "false"), ("CompletionUser", "false")]


def killed(out: Path, limit: int, kills: int, *more: str) -> tuple[Done, Analysis]:
    """Two streams of each kind, longer than all kills; worker-1, worker-2, worker-1, ... are killed."""
    lasts_s = 4 + APART_S * (kills - 1)
    tokens = (lasts_s + 3) * 50
    users = ", ".join(
        f"{{class: {name}, stream: {stream}, count: 2, prompt_tokens: 60, output_tokens: {tokens}}}"
        for name, stream in KINDS
    )
    faults = ", ".join(
        f"{{id: kill-{k}, fault: process.kill, select: {{role: worker, index: [{1 + k % 2}]}}, "
        f"at_s: {1 + APART_S * k}, restart_after_s: 0.5}}"
        for k in range(kills)
    )
    done = run(
        out, f"load.users=[{users}]", f"faults=[{faults}]", "gates=[]", f"sut.migration_limit={limit}",
        "load.warmup_s=1", f"load.duration_s={lasts_s}", "load.drain_s=1", "load.timeout_s=120",
        "sut.engine_options.itl_ms=20", "overload_codes=[529]", "recover_timeout_s=8",
        "generator.send_lag_p99_ms=5000", "generator.hub_lag_p99_ms=5000", "generator.coalesced_max_ratio=1", "generator.delivered_min_ratio=0", *more,
    )  # fmt: skip
    return done, analyse.analyse(RunDir(done.dir))


def check(done: Done, found: Analysis, limit: int, kills: int) -> None:
    rows = done.requests
    first = rows[rows.t_start_ns < 1_000_000_000].set_index("request_id")
    segments = found.data.segments
    assert segments is not None
    began = segments[segments.part == 0].set_index("request_id").target
    assert len(first) == 8
    assert found.ledger[0].in_flight in range(1, 8)
    for name, row in first.iterrows():
        meant = kills if began[name] == "worker-1" else kills - 1
        assert row.migrated == min(meant, limit), (name, began[name])
        if meant > limit:  # the next one was one too many
            assert row.outcome == ("stream_error" if row.stream else "http_error")
            assert "Service temporarily unavailable" in row.error
        else:
            assert row.outcome in ("ok", "timed_out")  # timed_out: we left at the end of the run
            assert not {"lost_tokens", "duplicated_tokens", "foreign_tokens"} & set(row.violations)
    used_up = {name for entry in found.ledger for name in entry.exhausted}
    assert used_up == {n for n, target in began.items() if n in first.index
                       and (kills if target == "worker-1" else kills - 1) > limit}  # fmt: skip
    for entry in found.ledger:
        assert sum(len(ids) for ids in entry.fates.values()) == entry.in_flight
        assert not entry.fates["lost"]
        assert set(entry.exhausted) == set(entry.fates["cut"])
        assert entry.agrees is True
        assert entry.agrees_new is not False
    assert done.invariant("ledger_agrees")["ok"] is True


def test_limit_0_moves_nothing_while_the_counter_rises(tmp_path: Path) -> None:
    done, found = killed(tmp_path / "run", 0, 1)
    check(done, found, 0, 1)
    (entry,) = found.ledger
    assert entry.counter_ongoing == entry.in_flight == len(entry.fates["cut"])
    assert found.metrics["fault:kill-0"]["migrations_ledger"] == 0
    assert done.code == 1


def test_limit_1_survives_one_kill_of_a_stream_and_not_two(tmp_path: Path) -> None:
    done, found = killed(tmp_path / "run", 1, 2)
    check(done, found, 1, 2)
    assert len(found.ledger[1].fates["cut"]) == len(found.ledger[0].fates["hit_again"]) > 0


@pytest.mark.slow
def test_limit_3_survives_three_kills_of_a_stream_and_not_four(tmp_path: Path) -> None:
    done, found = killed(tmp_path / "run", 3, 4)
    check(done, found, 3, 4)


def test_streams_longer_than_the_maximum_length_are_cut(tmp_path: Path) -> None:
    """All are longer than 100 tokens by the kill; with the limit out of the way they would survive."""
    _, found = killed(tmp_path / "run", 3, 1, "sut.migration_max_seq_len=100", "faults.0.at_s=3")
    (entry,) = found.ledger
    assert entry.in_flight and len(entry.fates["cut"]) == entry.in_flight
    samples = found.data.samples
    counted = samples[samples.metric == "dynamo_frontend_model_migration_max_seq_len_exceeded_total"]
    assert counted.value.max() >= entry.in_flight
    assert found.metrics["fault:kill-0"]["migrations_ledger"] == 0


@pytest.mark.parametrize("limit", [3, 0])
def test_requests_sent_to_a_dead_worker(tmp_path: Path, limit: int) -> None:
    """Short requests while a dead worker is still listed: new_request, moved or refused by the limit."""
    done, found = killed(
        tmp_path / "run", limit, 1, "load.duration_s=14", "load.users.0.output_tokens=20",
        "load.users.1.output_tokens=20", "load.users.2.output_tokens=20", "load.users.3.output_tokens=20",
        "faults.0.restart_after_s=8", "recover_timeout_s=15",
    )  # fmt: skip
    (entry,) = found.ledger
    assert entry.counter_new
    assert (entry.agrees, entry.agrees_new) == (True, True)
    if limit:
        assert (len(entry.moved), entry.refused) == (entry.counter_new, ())
        assert set(done.requests.outcome) == {"ok"}
    else:
        assert (entry.moved, len(entry.refused)) == ((), entry.counter_new)
        refused = done.requests[done.requests.request_id.isin(list(entry.refused))]
        assert set(refused.outcome) == {"http_error"}
        assert refused.migrated.isna().all()
        assert found.metrics["all"]["migrations_ledger"] in (0, None)
