"""Windows by hand, and their membership against brute force."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from make_run import NS, SCENARIO, fault_lines, line, plain_parts, record, streams_of, write_run

from harness.collect import counters
from harness.core import config
from harness.stats import analyse, events, load, windows

scenario = config.build(SCENARIO, "s")


def built(journal, duration_s=60.0, horizon_s=70.0):
    return windows.build(scenario, duration_s, events.events(journal), round(horizon_s * NS))


def s(window):
    return [(a / NS, b / NS) for a, b in window.intervals]


def test_a_kill_lasts_to_the_end_of_its_restart_and_a_pause_to_its_undo():
    journal = fault_lines(1, "kill", "worker-1", 20, 22, 23, 24) + fault_lines(
        6, "pause", "worker-2", 40, 48, 48.5, 49
    )
    found = built(journal)
    assert s(found["all"]) == [(5, 65)]
    assert s(found["fault:kill"]) == [(20, 23)]
    assert s(found["recovery:kill"]) == [(23, 24)]
    assert s(found["fault:pause"]) == [(40, 48)]
    assert s(found["recovery:pause"]) == [(48.5, 49)]
    assert s(found["steady"]) == [(5, 20), (24, 40), (48, 48.5), (49, 65)]


def test_recovery_is_at_most_recover_timeout_s():
    found = built(fault_lines(1, "kill", "worker-1", 20, 22, 23, 50))
    assert s(found["recovery:kill"]) == [(23, 38)]


def test_the_window_of_several_targets_is_their_hull():
    journal = fault_lines(1, "pause", "worker-1", 20, 25, 25.1, 26) + fault_lines(
        6, "pause", "worker-2", 21, 27, 27.1, 30
    )
    found = built(journal)
    assert s(found["fault:pause"]) == [(20, 27)]
    assert s(found["recovery:pause"]) == [(25.1, 30)]


def test_what_nobody_ended_lasts_to_the_horizon_and_has_no_recovery():
    found = built(fault_lines(1, "pause", "worker-1", 20, 25, 25.1, 26)[:3])
    assert s(found["fault:pause"]) == [(20, 70)]
    assert s(found["recovery:pause"]) == []
    assert s(found["steady"]) == [(5, 20)]


def test_a_fault_that_was_never_injected_has_no_window():
    journal = [line(1, 20, "intent"), line(2, 20, "failed", error="target gone")]
    assert set(built(journal)) == {"all", "steady"}


def test_without_evidence_the_lines_own_times_are_taken():
    journal = [line(n, t, phase) for n, (t, phase) in enumerate(
        [(20, "intent"), (20.1, "injected"), (20.2, "verified"), (22, "recovering"), (25, "recovered")])]  # fmt: skip
    found = built(journal)
    assert s(found["fault:kill"]) == [(20.1, 25)]
    pause = [line(one.seq, one.t_ns / NS, one.phase, "pause") for one in journal]
    assert s(built(pause)["fault:pause"]) == [(20.1, 22)]
    assert s(built(pause)["recovery:pause"]) == [(22, 25)]


def test_a_shorter_measured_duration_shortens_all():
    assert s(built([], duration_s=10)["all"]) == [(5, 15)]


def test_names_and_repeats():
    tree = {**SCENARIO, "faults": [{**SCENARIO["faults"][0], "every_s": 10}]}
    repeated = config.build(tree, "s")
    assert windows.exists(repeated, "fault:kill-2")
    assert not windows.exists(repeated, "fault:kill-1")
    assert not windows.exists(scenario, "fault:kill-2")
    assert not windows.exists(scenario, "fault:nope")
    assert windows.exists(scenario, "recovery:pause")


intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6)


@given(intervals)
def test_subtract_is_what_no_hole_covers(holes):
    left = windows.subtract((5, 30), holes)
    covered = {t for a, b in left for t in range(a, b)}
    assert covered == {t for t in range(5, 30) if not any(a <= t < b for a, b in holes)}
    assert list(left) == sorted(left)
    assert all(b1 < a2 for (_, b1), (a2, _) in pairwise(left))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), min_size=1, max_size=8),
    st.integers(0, 30),
    st.integers(0, 10),
)
def test_overlap_is_brute_force(requests, start, length):
    rows = [
        record(n, t_start_ns=a, t_end_ns=a + d, ttft_ms=None, gaps_us=[]) for n, (a, d) in enumerate(requests)
    ]
    streams = streams_of(rows)
    got = dict(zip(streams.request_id, streams.overlaps(start, start + length), strict=True))
    for n, (a, d) in enumerate(requests):
        instants = range(a, a + max(d, 1))
        assert got[f"r{n}"] == any(start <= t < start + length for t in instants)


def test_steady_leaves_no_sliver_that_breaks_reading(tmp_path):
    run = write_run(tmp_path / "r", plain_parts([record(6)]))
    assert load.read(run).reasons == ()


def waited(held):
    """A fault announced at 5 s that struck at 20.4 s, `held` as the journal's evidence."""
    strike, asked = fault_lines(1, "kill", "worker-1", 20.4, 22, 23, 24), round(5 * NS)
    return [
        line(1, 5, "intent", "kill", "worker-1", undo={"ops": []}, evidence={"requested_ns": asked}),
        line(2, 20.395, "injected", "kill", "worker-1", evidence=held), *strike[2:],
    ]  # fmt: skip


def test_what_was_counted_while_a_fault_waited_is_not_the_faults():
    journal = waited({"held_ns": round(20.39 * NS), "when": "streams >= 3"})
    [event] = events.events(journal)
    assert event.requested_ns == round(20.39 * NS)
    [(start, end)] = built(journal)["fault:kill"].intervals
    assert start == round(20.4 * NS)
    pages = pd.DataFrame(
        [(round(t * NS), "frontend-1", "x_total", "{}", float(t)) for t in range(4, 30)],
        columns=["t_ns", "process", "metric", "labels", "value"],
    )
    assert counters.counter_delta(pages, "frontend-1", "x_total", {}, start, end) == 23 - 20  # not from 5 on


def test_without_a_condition_a_fault_was_asked_for_at_its_time():
    assert events.events(waited({}))[0].requested_ns == 5 * NS


PHASES = [{"name": "standard", "duration_s": 40}, {"name": "overflow", "duration_s": 20}]
PHASED_TREE = {
    **SCENARIO,
    "faults": [],
    "load": {"users": SCENARIO["load"]["users"], "warmup_s": 5, "phases": PHASES},
}
PHASED = config.build(PHASED_TREE, "s")


def test_phases_are_windows_as_far_as_the_load_got():
    found = windows.build(PHASED, 60, [], 70 * NS)
    assert s(found["phase:standard"]) == [(5, 45)] and s(found["phase:overflow"]) == [(45, 65)]
    assert s(found["steady"]) == [(5, 65)]
    cut = windows.build(PHASED, 30, [], 70 * NS)
    assert s(cut["phase:standard"]) == [(5, 35)] and s(cut["phase:overflow"]) == []


def test_phases_can_be_named_by_gates_and_others_can_not():
    assert windows.exists(PHASED, "phase:overflow") and not windows.exists(PHASED, "phase:recovery")
    assert not windows.exists(scenario, "phase:overflow")


def test_recovery_is_held_against_the_phase_in_which_the_fault_struck(tmp_path):
    """200 ms to the first token in the second phase, 50 ms in the first: a fault in the second phase is
    over when it is as good as that."""
    slow = [
        record(100 + n, t_start_ns=round((5 + n / 4) * NS), ttft_ms=50 if n < 160 else 200)
        for n in range(240)
    ]
    journal = fault_lines(1, "kill", "worker-1", 50, 51, 51, 52)
    parts = plain_parts(slow)
    parts.journal = journal
    parts.scenario = {**PHASED_TREE, "faults": SCENARIO["faults"][:1]}
    found = analyse.analyse(write_run(tmp_path / "r", parts))
    assert found.services["kill"].recover_s is not None and found.services["kill"].recover_s < 5
    parts.scenario = {**SCENARIO, "faults": SCENARIO["faults"][:1]}  # the control: without phases it never is
    assert analyse.analyse(write_run(tmp_path / "s", parts)).services["kill"].recover_s is None
