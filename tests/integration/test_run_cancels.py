"""Every way to leave a stream, at every stage of its life, on real Dynamo."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import NO_FAULTS, SHORT, Done, run

from harness.core.rundir import RunDir
from harness.stats import analyse
from harness.stats.analysis import Analysis

pytestmark = [pytest.mark.sut, pytest.mark.load, pytest.mark.timeout(240)]

CHAT = "{class: ChatUser, count: 4, prompt_tokens: 50, output_tokens: 100}"
MODES = ("fin", "rst", "half_close", "stall", "timeout")
WHEN = {"prefill": "after_ms: 100", "first token": "after_tokens: 1", "later": "after_tokens: 20"}


def user(mode: str, when: str) -> str:
    if mode == "timeout" and when.startswith("after_tokens"):  # it waits for a time, whatever came by then
        when = {"after_tokens: 1": "after_ms: 310", "after_tokens: 20": "after_ms: 900"}[when]
    return f"{{class: CancellingUser, count: 1, output_tokens: 300, cancel: {{mode: {mode}, {when}, stall_s: 3}}}}"


def cancelling(out: Path, users: list[str], *overrides: str) -> tuple[Done, Analysis]:
    done = run(out, *SHORT, *NO_FAULTS, "gates=[]", f"load.users=[{', '.join([CHAT, *users])}]", *overrides)
    assert done.code == 0, done.out + done.err
    return done, analyse.analyse(RunDir(done.dir))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Analysis]:
    users = [user(mode, when) for mode in MODES for when in WHEN.values()]
    out = tmp_path_factory.mktemp("cancels") / "run"
    return cancelling(out, users, "load.duration_s=12", "sut.engine_options={ttft_ms: 300}")


def test_each_mode_is_aborted_at_each_stage(mixed: tuple[Done, Analysis]) -> None:
    _, found = mixed
    rows = {(row.mode, row.stage): row for row in found.cancels}
    expected = {(mode, stage) for mode in MODES for stage in WHEN} - {
        ("timeout", "first token")
    }  # a narrow target
    assert expected <= set(rows)
    assert sum(row.unaborted + row.unknown for row in rows.values()) == 0
    for (mode, stage), row in rows.items():
        if stage != "queue" and mode != "stall":
            assert row.aborted == row.sent - row.finished and (row.abort_p50_ms or 0) < 1000, (mode, stage)


def test_nobody_else_is_hurt_and_everything_is_given_back(mixed: tuple[Done, Analysis]) -> None:
    done, found = mixed
    chat = done.requests[done.requests.user_class == "ChatUser"]
    assert set(chat.outcome) == {"ok"}
    assert done.invariant("engine_resources_freed")["ok"] is True
    assert found.metrics["all"]["cancel_next_ttft_p50_ms"] is not None


def test_a_half_close_is_taken_for_a_client_that_left(mixed: tuple[Done, Analysis]) -> None:
    rows = mixed[0].requests
    half = rows[(rows.cancel_mode == "half_close") & (rows.cancel_after_tokens == 20)]
    assert len(half) and (half.tokens_received < half.tokens_expected).all()
    assert ((half.t_end_ns - half.t_cancel_ns) < 3_000_000_000).mean() > 0.9, (
        "the server closes, before stall_s"
    )


def test_a_stalled_reader_is_noticed_only_when_it_closes(mixed: tuple[Done, Analysis]) -> None:
    stalled = [row for row in mixed[1].cancels if row.mode == "stall" and row.stage == "later"]
    assert stalled and all((row.abort_p50_ms or 0) >= 3000 and (row.wasted_p50 or 0) > 50 for row in stalled)


def test_the_counters_agree_with_us(mixed: tuple[Done, Analysis]) -> None:
    ours, *theirs = [one.count for one in mixed[1].cancel_counts]
    assert ours and len(theirs) == 3
    for count in theirs:
        assert count is not None and abs(count - ours) <= max(10, ours / 5)


def test_cancels_in_the_engines_queue_never_get_a_seat(tmp_path: Path) -> None:
    users = [user(mode, "after_ms: 150") for mode in ("fin", "rst", "half_close", "timeout")]
    _, found = cancelling(
        tmp_path / "run", users, "load.duration_s=8", "sut.workers=1", "sut.engine_options.max_num_seqs=2"
    )
    queued = {row.mode: row for row in found.cancels if row.stage == "queue"}
    assert set(queued) == {"fin", "rst", "half_close", "timeout"}
    assert sum(row.sent for row in queued.values()) > 10
    assert all(row.unaborted == 0 and not row.wasted_max for row in queued.values())
