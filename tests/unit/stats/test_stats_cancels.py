"""Planned cancels against the engines' own account, by hand; and whether an engine gave everything back."""

from __future__ import annotations

import pytest
from make_run import MONO_NS, MS, NS, SCENARIO, fault_lines, plain_parts, record, samples, write_run

from harness.stats import analyse

CANCELLED = {
    "outcome": "cancelled",
    "cancel_mode": "rst",
    "cancel_after_tokens": 5,
    "user_class": "CancellingUser",
}


def left(name, at_s=10.13, **more):
    """A stream that starts at 10 s: tokens at 10.05, .07, .09, .11, .13 s; left at `at_s`."""
    at = round(at_s * NS)
    return record(
        10, request_id=name, t_cancel_ns=at, t_end_ns=more.pop("t_end_ns", at), **{**CANCELLED, **more}
    )


def seg(name, end_s=None, following=5, reason="stopped", let_in_s=10.01, held=(0, 0), **more):
    start = {
        "event": "start",
        "t_mono_ns": MONO_NS + 10 * NS,
        "request_id": name,
        "first": 0,
        "max_tokens": 150,
    }
    if end_s is None:
        return [start]
    end = {"event": "end", "t_mono_ns": MONO_NS + round(end_s * NS), "request_id": name, "next": following,
           "reason": reason, "running": held[0], "used": held[1],
           "let_in_mono_ns": None if let_in_s is None else MONO_NS + round(let_in_s * NS)}  # fmt: skip
    return [start, end | more]


def judge(path, rows, segments, **changes):
    parts = plain_parts([*(record(n) for n in range(5, 65)), *rows])
    parts.segments = {"worker-1": [line for one in segments for line in one]} if segments is not None else {}
    for name, value in changes.items():
        setattr(parts, name, value)
    return analyse.analyse(write_run(path / "run", parts))


def invariant(found):
    return next(one for one in found.invariants if one.name == "engine_resources_freed")


def test_abort_latency_and_tokens_made_for_nobody(tmp_path):
    found = judge(
        tmp_path,
        [left("a"), left("b"), left("c")],
        [seg("a", 10.14, 6), seg("b", 10.15, 7), seg("c", 10.23, 10)],
    )
    values = found.metrics["all"]
    assert values["cancel_abort_p50_ms"] == pytest.approx(20)
    assert values["cancel_abort_max_ms"] == pytest.approx(100)
    assert (values["cancel_wasted_tokens_p50"], values["cancel_wasted_tokens_max"]) == (2, 5)
    assert values["cancel_unaborted"] == 0
    (row,) = found.cancels
    assert (row.mode, row.stage, row.sent, row.aborted, row.unaborted) == ("rst", "later", 3, 3, 0)
    assert row.abort_max_ms == pytest.approx(100) and invariant(found).ok is True


def test_an_engine_that_ignores_the_cancel_is_counted(tmp_path):
    rows = [left("on"), left("near"), left("before"), left("hangs"), left("raised")]
    found = judge(tmp_path, rows, [
        seg("on", 13, 150, "length"), seg("near", 10.2, 7, "length"), seg("before", 10.12, 5, "length"), seg("hangs"),
        seg("raised", 10.5, 7, "raise"),
    ])  # fmt: skip
    assert found.metrics["all"]["cancel_unaborted"] == 2
    assert found.metrics["all"]["cancel_abort_p50_ms"] is None
    assert found.metrics["all"]["cancel_wasted_tokens_max"] == 145
    (row,) = found.cancels
    assert (row.aborted, row.unaborted, row.finished, row.unknown) == (0, 2, 3, 0)


def test_the_tokens_of_a_half_closed_stream_count_up_to_our_leaving(tmp_path):
    one = left("h", 10.08, cancel_mode="half_close", t_end_ns=10_500 * MS)  # two tokens had come by then
    found = judge(tmp_path, [one], [seg("h", 10.1, 4)])
    (row,) = found.cancels
    assert (row.wasted_max, row.abort_max_ms) == (2, pytest.approx(20))


def test_stages(tmp_path):
    none = {"ttft_ms": None, "gaps_us": []}
    rows = [
        left("queued", 10.02, **none), left("seated", 10.02, **none), left("unseen", 10.02, **none),
        left("never-let-in", 10.02, **none), left("first", 10.06, gaps_us=[]), left("later"),
    ]  # fmt: skip
    found = judge(tmp_path, rows, [
        seg("queued", 10.04, 0, let_in_s=10.03), seg("seated", 10.04, 0, let_in_s=10.01),
        seg("never-let-in", 10.04, 0, let_in_s=None), seg("first", 10.07, 1), seg("later", 10.14, 5),
    ])  # fmt: skip
    assert {row.stage: row.sent for row in found.cancels} == {
        "queue": 3, "prefill": 1, "first token": 1, "later": 1,
    }  # fmt: skip
    assert next(row for row in found.cancels if row.stage == "queue").unseen == 1


def test_without_a_witness_nothing_is_known(tmp_path):
    found = judge(tmp_path, [left("a")], None)
    values = found.metrics["all"]
    assert values["cancel_unaborted"] is None and values["cancel_abort_p50_ms"] is None
    assert found.cancels[0].unknown == 1 and invariant(found).ok is None


def test_the_next_request_of_the_same_user(tmp_path):
    rows = [
        left("a", user=3), record(11, request_id="slow", user=3, ttft_ms=400), record(12, request_id="not", user=3),
        left("b", user=4), left("c", user=None),
    ]  # fmt: skip
    found = judge(tmp_path, rows, [])
    assert found.metrics["all"]["cancel_next_ttft_p50_ms"] == pytest.approx(400)
    assert found.metrics["all"]["ttft_p50_ms"] == pytest.approx(50)


def test_what_the_system_counted_stands_beside_it(tmp_path):
    found = judge(tmp_path, [left("a")], [seg("a", 10.14)], samples=samples(70, ()))
    told = {one.teller: one.count for one in found.cancel_counts}
    assert told["cancelled by our clients"] == 1
    assert told["dynamo_frontend_model_cancellation_total"] == 0  # scraped, and never there
    assert judge(tmp_path / "none", [], None).cancel_counts == ()


def test_an_engine_that_leaks_breaks_the_invariant(tmp_path):
    for n, held in enumerate([(1, 0), (0, 3), (2, 9)]):
        found = judge(
            tmp_path / str(n),
            [left("a"), left("b")],
            [seg("a", 10.14, held=(1, 4)), seg("b", 10.2, held=held)],
        )
        one = invariant(found)
        assert (one.ok, found.status) == (False, "fail")
        assert f"{held[0]} sequences and {held[1]} blocks" in one.detail
    assert invariant(judge(tmp_path / "ok", [left("a")], [seg("a", 10.14)])).ok is True


def test_a_stream_that_no_engine_ended_breaks_it_and_is_named(tmp_path):
    one = invariant(judge(tmp_path, [left("a"), left("b")], [seg("a", 10.14), seg("b")]))
    assert (one.ok, one.request_ids) == (False, ("b",)) and "never ended 1 streams" in one.detail


def test_streams_left_at_the_very_end_or_on_a_dead_engine_say_nothing(tmp_path):
    last = left("z", 64, t_start_ns=63 * NS)
    assert invariant(judge(tmp_path / "a", [last], [seg("z")])).ok is None
    found = judge(tmp_path / "b", [left("a")], [seg("a")], manifest={"dead": ["worker-1"]})
    assert invariant(found).ok is None and found.cancels[0].unknown == 1


def test_engines_are_judged_from_their_last_recovery_on(tmp_path):
    parts = plain_parts(
        [*(record(n) for n in range(5, 65)), left("a"), left("b", t_start_ns=30 * NS, at_s=31)],
        faults=[SCENARIO["faults"][0]],
    )
    parts.journal = fault_lines(1, "kill", "worker-1", 20, 22, 23, 24)
    after = [line | {"t_mono_ns": line["t_mono_ns"] + 20 * NS} for line in seg("b", 11.1)]
    parts.segments = {"worker-1": [*seg("a"), *after]}  # the killed engine couldn't end a's
    assert invariant(analyse.analyse(write_run(tmp_path / "run", parts))).ok is True
    parts.segments = {"worker-1": [*seg("a"), *after[:1]]}
    assert invariant(analyse.analyse(write_run(tmp_path / "b", parts))).ok is False


def test_streams_from_before_a_pause_may_still_hold_something_after_it(tmp_path):
    """A paused engine goes on with them: what it holds after the last of all counts, not of the new ones."""

    def judged(name, *older, **manifest):
        parts = plain_parts(
            [*(record(n) for n in range(5, 65)), left("a"), left("b", t_start_ns=30 * NS, at_s=31)],
            faults=[SCENARIO["faults"][0]],
        )
        parts.journal = fault_lines(1, "kill", "worker-1", 20, 22, 23, 24)
        parts.manifest.update(manifest)
        newer = [line | {"t_mono_ns": line["t_mono_ns"] + 20 * NS} for line in seg("b", 11.1, held=(1, 4))]
        parts.segments = {"worker-1": [*older, *newer]}
        return invariant(analyse.analyse(write_run(tmp_path / name, parts)))

    assert judged("last", *seg("a", 40)).ok is True
    assert judged("never", *seg("a")).ok is False
    assert judged("cut", *seg("a"), cut_short_ns=32 * NS).ok is None, "its run was over before it was"


def test_old_logs_without_what_is_held(tmp_path):
    lines = [{k: v for k, v in line.items() if k not in ("running", "used")} for line in seg("a", 10.14)]
    assert invariant(judge(tmp_path, [left("a")], [lines])).ok is None
