"""Each fate of a stream in flight, and the counters held against the segments."""

from __future__ import annotations

import pytest
from make_run import MONO_NS, NS, SCENARIO, fault_lines, plain_parts, record, samples, sut_tree, write_run
from test_stats_service import listed

from harness.stats import analyse

KILL = SCENARIO["faults"][0]


def seg(target, name, start_s, end_s=None, first=0, **more):
    found = [{"event": "start", "t_mono_ns": MONO_NS + round(start_s * NS), "request_id": name, "a": 1, "b": 2,
              "first": first, "max_tokens": 150, "prompt_tokens": 9, **more}]  # fmt: skip
    if end_s is not None:
        found.append(
            {
                "event": "end",
                "t_mono_ns": MONO_NS + round(end_s * NS),
                "request_id": name,
                "next": 1,
                "reason": "stop",
            }
        )
    return [(target, one) for one in found]


def stream(name, outcome="ok", start_s=19.0, end_s=23.0, **more):
    return record(
        0,
        request_id=name,
        t_start_ns=round(start_s * NS),
        t_end_ns=round(end_s * NS),
        outcome=outcome,
        **more,
    )


def judged(tmp_path, rows, segments, migrations=(), fault="kill", target="worker-1", **changes):
    background = [record(n) for n in range(5, 65)]
    parts = plain_parts([*background, *rows], faults=[KILL if fault == "kill" else SCENARIO["faults"][1]])
    parts.journal = fault_lines(1, fault, target, 20, 22, 23, 24)
    parts.samples = samples(70, migrations)
    if segments:
        parts.segments = {"worker-1": [], "worker-2": []}
    for name, one in segments:
        parts.segments[name].append(one)
    for key, value in changes.items():
        setattr(parts, key, value)
    return analyse.analyse(write_run(tmp_path / "run", parts))


def entry(*args, **kwargs):
    (found,) = judged(*args, **kwargs).ledger
    return found


def test_every_fate_is_seen(tmp_path):
    rows = [
        stream("migrated"), stream("there"), stream("cut", "stream_error", violations=["error_event"]),
        stream("gone", "truncated", violations=["short_stream"]),
        stream("bad", "corrupted", violations=["lost_tokens"]), stream("late", "timed_out", violations=["short_stream"]),
        stream("ours", "cancelled"), stream("full", "shed", status=529), stream("before", end_s=19.5), stream("elsewhere"),
    ]  # fmt: skip
    names = [row.request_id for row in rows if row.request_id not in ("elsewhere", "before")]
    segments = [s for name in names for s in seg("worker-1", name, 19.1)] + seg("worker-1", "lost", 19.1)
    segments += seg("worker-2", "migrated", 20.01, 22, first=40) + seg("worker-2", "elsewhere", 19.1, 22)
    segments += seg("worker-1", "canary", 19.9, None, max_tokens=1)
    segments += seg("worker-1", "before", 19.1, 19.4)
    found = entry(tmp_path, rows, segments)
    assert found.fates == {
        "hit_again": (), "migrated_exact": ("migrated",), "finished_there": ("there",), "cut": ("cut", "gone"),
        "corrupted": ("bad",), "timed_out": ("late",), "cancelled": ("ours",), "shed": ("full",), "lost": ("lost",),
    }  # fmt: skip
    assert found.in_flight == 9
    assert found.closes is False
    assert found.source == "segments"


def test_a_lost_stream_breaks_the_ledger_and_is_named(tmp_path):
    found = judged(tmp_path, [stream("a")], [*seg("worker-1", "a", 19.1), *seg("worker-1", "lost", 19.1)])
    (broken,) = [one for one in found.invariants if one.name == "ledger_closes"]
    assert broken.ok is False
    assert broken.request_ids == ("lost",)
    assert found.exit_code == 1


def test_streams_that_moved_before_the_kill_was_seen_still_count(tmp_path):
    # effective (20.0) is when we saw it; the continuation began before
    rows = [stream("a")]
    found = entry(tmp_path, rows, [*seg("worker-1", "a", 19.1), *seg("worker-2", "a", 19.995, 22, first=40)])
    assert found.fates["migrated_exact"] == ("a",)


def test_a_pause_counts_what_ran_at_its_instant(tmp_path):
    rows = [stream("a"), stream("b", end_s=19.9), stream("c", start_s=20.5)]
    segments = [
        *seg("worker-1", "a", 19.1, 22.9),
        *seg("worker-1", "b", 19.1, 19.8),
        *seg("worker-1", "c", 20.6, 22.9),
    ]
    found = entry(tmp_path, rows, segments, fault="pause")
    assert found.fates["finished_there"] == ("a",)
    assert found.in_flight == 1
    assert found.closes is True


def test_segments_of_an_earlier_incarnation_are_not_in_flight_again(tmp_path):
    rows = [stream("old", start_s=19, end_s=29), stream("new", start_s=26, end_s=33)]
    segments = [*seg("worker-1", "old", 19.1), *seg("worker-2", "old", 20.1, 28, first=9), *seg("worker-1", "new", 26.1),
                *seg("worker-2", "new", 28.1, 32, first=9)]  # fmt: skip
    background = [record(n) for n in range(5, 65)]
    parts = plain_parts([*background, *rows], faults=[{**KILL, "every_s": 8}])
    parts.journal = fault_lines(1, "kill", "worker-1", 20, 22, 23, 24) + fault_lines(
        6, "kill-2", "worker-1", 28, 30, 31, 32
    )
    parts.segments = {"worker-1": [], "worker-2": []}
    for name, one in segments:
        parts.segments[name].append(one)
    first, second = analyse.analyse(write_run(tmp_path / "r", parts)).ledger
    assert first.fates["migrated_exact"] == ("old",)
    assert second.fates["migrated_exact"] == ("new",)
    assert second.in_flight == 1


@pytest.mark.parametrize(("counted", "agrees"), [(1.0, True), (0.0, False), (2.0, True), (3.0, False)])
def test_the_counter_must_lie_between_what_segments_prove_and_allow(tmp_path, counted, agrees):
    rows = [stream("a"), stream("b", "cancelled", end_s=20.5)]  # b may have been counted before we left
    segments = [
        *seg("worker-1", "a", 19.1),
        *seg("worker-1", "b", 19.1),
        *seg("worker-2", "a", 20.1, 22, first=40),
    ]
    found = judged(tmp_path, rows, segments, [(20, 0.0), (21, counted)])
    (one,) = found.ledger
    assert (one.attempts_low, one.attempts_high, one.counter_ongoing) == (1, 2, counted)
    assert one.agrees is agrees
    (held,) = [x for x in found.invariants if x.name == "ledger_agrees"]
    assert held.ok is agrees
    assert found.exit_code == (0 if agrees else 1)


def test_a_counter_alone_proves_nothing(tmp_path):
    """Migration limit 0: the counter counts attempts, nothing migrated, streams are cut."""
    rows = [stream(n, "stream_error", violations=["error_event", "short_stream"], end_s=20.1) for n in "abc"]
    found = judged(
        tmp_path, rows, [s for n in "abc" for s in seg("worker-1", n, 19.1)], [(20, 0.0), (21, 3.0)]
    )
    (one,) = found.ledger
    assert one.migrations == 0
    assert one.counter_ongoing == 3
    assert one.agrees is True
    assert len(one.fates["cut"]) == 3
    assert found.metrics["fault:kill"]["migrations_ledger"] == 0
    assert found.exit_code == 1


def test_without_segments_the_instance_id_tells(tmp_path):
    rows = [stream("a", engine_worker_id="77", migrated=1), stream("b", engine_worker_id="88", migrated=0)]
    more = [*samples(70), listed(1, 1, "worker-1", "77"), listed(1, 1, "worker-2", "88")]
    found = entry(tmp_path, rows, [], samples=more)
    assert found.source == "engine_worker_id"
    assert found.fates["migrated_exact"] == ("a",)
    assert found.agrees is None


def test_without_either_it_is_not_applicable_and_says_so(tmp_path):
    found = judged(tmp_path, [stream("a")], [])
    (one,) = found.ledger
    assert not one.applicable
    assert "instance id" in one.why
    held = {x.name: x.ok for x in found.invariants}
    assert held["ledger_agrees"] is None
    assert held["ledger_closes"] is True  # every request has an end
    assert found.metrics["fault:kill"]["in_flight_at_fault"] is None


def test_a_fault_on_a_frontend_has_no_ledger(tmp_path):
    found = entry(
        tmp_path, [stream("a")], seg("worker-1", "a", 19.1, 22), target="frontend-1", sut=sut_tree()
    )
    assert not found.applicable
    assert "no worker" in found.why


def test_engine_ids_may_carry_the_frontends_prefix(tmp_path):
    found = entry(
        tmp_path,
        [stream("a")],
        [*seg("worker-1", "chatcmpl-a", 19.1), *seg("worker-2", "chatcmpl-a", 20.1, 22)],
    )
    assert found.fates["migrated_exact"] == ("a",)


def test_a_torn_segment_line_is_left_out(tmp_path):
    rows = [stream("a")]
    background = [record(n) for n in range(5, 65)]
    parts = plain_parts([*background, *rows], faults=[KILL])
    parts.journal = fault_lines(1, "kill", "worker-1", 20, 22, 23, 24)
    run = write_run(tmp_path / "r", parts)
    import json

    whole = json.dumps(seg("worker-1", "a", 19.1)[0][1])
    run.segments("worker-1").write_text(whole + "\n" + whole[:40])
    (found,) = analyse.analyse(run).ledger
    assert found.in_flight == 1
