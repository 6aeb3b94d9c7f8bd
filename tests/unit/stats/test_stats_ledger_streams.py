"""The ledger over several faults and kinds of requests: every stream in exactly one class of each fault."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from make_run import NS, SCENARIO, WALL_NS, fault_lines, plain_parts, record, samples, sut_tree, write_run
from test_stats_ledger import judged, seg, stream

from harness.core.records import Sample
from harness.stats import analyse
from harness.stats.analysis import FATES
from reports import cards, text

KILL, PAUSE = SCENARIO["faults"]
KILLS = ((10, "worker-1"), (25, "worker-2"), (40, "worker-1"))  # effective, s; each back 3 s later


@dataclass
class Told:
    """What a run must be judged to be: by fault, request id to fate; how often each migrated."""

    rows: list = field(default_factory=list)
    segments: dict = field(default_factory=lambda: {"worker-1": [], "worker-2": []})
    fates: dict = field(default_factory=dict)
    migrated: Counter = field(default_factory=Counter)


def tell(plans, limit):
    """Play streams (start_s, length_s, first worker, ends) through KILLS, whole seconds + 0.5."""
    told = Told(fates={f"kill-{n}": {} for n in range(len(KILLS))})
    for n, (start, length, worker, ends, streamed, route) in enumerate(plans):
        name, at, here, hops, hit = f"s{n}", start + 0.5, f"worker-{worker}", 0, []
        end, outcome = start + 0.5 + length, ends
        if any(kill < at < kill + 3 and target == here for kill, target in KILLS):
            here = "worker-2" if here == "worker-1" else "worker-1"  # nobody begins on a dead worker
        for k, (kill, target) in enumerate(KILLS):
            if not at < kill < end or target != here:
                continue
            hit.append(k)
            told.segments[here] += [one for _, one in seg(here, f"{prefix(route)}{name}", at, None, hops * 9)]
            if hops == limit:
                end, outcome, here = kill + 0.1, "stream_error" if streamed else "http_error", None
                break
            hops, at, here = hops + 1, kill + 0.05, "worker-2" if here == "worker-1" else "worker-1"
        if here is not None:
            told.segments[here] += [
                one for _, one in seg(here, f"{prefix(route)}{name}", at, end - 0.01, hops * 9)
            ]
        for k in hit:
            last = k == hit[-1]
            fate = {"ok": "migrated_exact", "cancelled": "cancelled"}.get(
                outcome, "cut" if last else "hit_again"
            )
            told.fates[f"kill-{k}"][name] = fate
        told.migrated[name] = hops
        violations = ["error_event", "short_stream"] if outcome == "stream_error" else []
        told.rows.append(
            stream(
                name,
                outcome,
                start + 0.4,
                end,
                violations=violations,
                stream=streamed,
                route=route,
                migrated=hops,
            )
        )
    return told


def prefix(route):
    return "chatcmpl-" if route == "chat" else "cmpl-"


PLANS = st.lists(
    st.tuples(
        st.integers(5, 50), st.integers(1, 45), st.sampled_from([1, 2]), st.sampled_from(["ok", "cancelled"]),
        st.booleans(), st.sampled_from(["chat", "completions"]),
    ),
    max_size=12,
)  # fmt: skip


def run_of(told, directory, limit):
    steps = [{**KILL, "id": f"kill-{n}", "at_s": at - 5, "select": {"role": "worker", "index": [int(who[-1])]}}
             for n, (at, who) in enumerate(KILLS)]  # fmt: skip
    parts = plain_parts([*[record(n) for n in range(5, 65)], *told.rows], faults=steps)
    parts.scenario["sut"] = {**parts.scenario["sut"], "migration_limit": limit}
    for n, (at, who) in enumerate(KILLS):
        parts.journal += fault_lines(5 * n + 1, f"kill-{n}", who, at, at + 2, at + 3, at + 4)
    for lines in told.segments.values():
        lines.sort(key=lambda one: (one["t_mono_ns"], one["event"] == "start"))
    parts.segments = told.segments
    return analyse.analyse(write_run(directory / "run", parts))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS, st.sampled_from([0, 1, 3]))
@example([(10, 30, 1, "ok", False, "chat")], 0)  # sent while worker-1 is away
def test_every_stream_in_flight_has_exactly_one_fate(plans, limit):
    told = tell(plans, limit)
    with tempfile.TemporaryDirectory() as directory:
        found = run_of(told, Path(directory), limit)
    for entry in found.ledger:
        listed = [name for fate in FATES for name in entry.fates[fate]]
        assert len(listed) == len(set(listed)) == entry.in_flight
        assert {name: fate for fate in FATES for name in entry.fates[fate]} == told.fates[entry.fault_id]
        assert entry.migrated == {name: told.migrated[name] for name in listed}
        assert entry.closes
        assert set(entry.exhausted) == set(entry.fates["cut"])
        window = found.metrics[f"fault:{entry.fault_id}"]
        assert window["in_flight_at_fault"] == len(told.fates[entry.fault_id])
    assert found.metrics["all"]["migrations_ledger"] == sum(
        row.migrated for row in told.rows if row.t_end_ns > 5 * NS
    )


def test_two_kills_of_one_stream_and_what_the_report_says():
    plans = [
        (8, 30, 1, "ok", True, "chat"),
        (8, 30, 2, "ok", False, "completions"),
        (9, 4, 1, "ok", False, "chat"),
    ]
    told = tell(plans, 1)
    with tempfile.TemporaryDirectory() as directory:
        found = run_of(told, Path(directory), 1)
    first, second, third = found.ledger
    assert {k: v for k, v in first.fates.items() if v} == {"hit_again": ("s0",), "migrated_exact": ("s2",)}
    assert {k: v for k, v in second.fates.items() if v} == {"cut": ("s0",), "migrated_exact": ("s1",)}
    assert third.in_flight == 0
    assert (first.exhausted, second.exhausted) == ((), ("s0",))
    (_, card, _) = cards.build(found)
    assert [(f.fate, f.count, f.migrated, f.request_ids) for f in card.fates] == [
        ("migrated_exact", 1, {"1": 1}, ["s1"]), ("cut", 1, {"1": 1}, ["s0"]),
    ]  # fmt: skip
    assert "1 had used up the migrations that the limit allows: s0." in card.ledger_note
    assert text.migrated({"0": 2, "1": 7, "3": 1_000}) == "never: 2, 1 time: 7, 3 times: 1,000"


def test_a_pause_did_not_move_what_a_later_kill_moved(tmp_path):
    rows = [stream("a", end_s=50), stream("b", end_s=50)]
    parts = plain_parts([*[record(n) for n in range(5, 65)], *rows], faults=[PAUSE, KILL])
    parts.journal = fault_lines(1, "pause", "worker-1", 20, 28, 28, 29) + fault_lines(
        6, "kill", "worker-1", 40, 42, 43, 44
    )
    told = [*seg("worker-1", "a", 19.1), *seg("worker-2", "a", 40.1, 49, first=40),
            *seg("worker-1", "b", 19.1, 22.5), *seg("worker-2", "b", 22, 49, first=9)]  # fmt: skip
    parts.segments = {"worker-1": [], "worker-2": []}
    for name, one in told:
        parts.segments[name].append(one)
    kill, pause = sorted(analyse.analyse(write_run(tmp_path / "r", parts)).ledger, key=lambda e: e.fault_id)
    assert (pause.fates["finished_there"], pause.fates["migrated_exact"]) == (("a",), ("b",))
    assert (kill.fates["migrated_exact"], kill.in_flight) == (("a",), 1)


NEW = "{:%Y-%m-%dT%H:%M:%S.%f}Z  WARN http-request: dynamo_llm::migration: Creating new stream, retrying error=x request_id={}\n"


def new_requests(tmp_path, counted, log=(), rows=(), segments=()):
    """A kill at 20 s, in which the frontend's counter of new requests rises by `counted`."""
    lines = "".join(
        NEW.format(datetime.fromtimestamp(WALL_NS / NS + at, UTC), name) for name, at in log
    )  # fmt: skip
    labels = '{"migration_type":"new_request"}'
    rises = [Sample(t * NS, "frontend-1", "dynamo_frontend_model_migration_total", labels, counted if t > 20 else 0.0)
             for t in range(15, 70)]  # fmt: skip
    found = judged(
        tmp_path, [stream("a"), *rows], [*seg("worker-1", "a", 19.1), *seg("worker-2", "a", 20.1, 22, 40), *segments],
        frontend_log=lines, samples=[*samples(70, [(0, 0.0), (21, 1.0)]), *rises],
    )  # fmt: skip
    return found.ledger[0], next(x for x in found.invariants if x.name == "ledger_agrees")


def test_a_request_sent_to_the_dead_moves_as_a_new_request(tmp_path):
    one, held = new_requests(
        tmp_path, 1, [("n", 20.5)], [stream("n", start_s=20.49)], seg("worker-2", "n", 20.51, 22)
    )
    assert (one.moved, one.refused, one.counter_new, one.agrees_new) == (("n",), (), 1, True)
    assert held.ok is True


def test_with_limit_0_the_counter_rises_and_nothing_moved(tmp_path):
    rows = [stream(n, "http_error", 20.4, 20.5, status=503, migrated=None) for n in ("x", "y")]
    one, held = new_requests(tmp_path, 2, (), rows)
    assert (one.moved, one.refused, one.counter_new) == ((), ("x", "y"), 2)
    assert (one.agrees_new, held.ok) == (True, True)
    one, _ = new_requests(tmp_path / "more", 3, (), rows)
    assert one.agrees_new is None  # a third that no log tells of: it may have moved


def test_a_retry_at_the_edge_of_a_scrape_may_count_or_not(tmp_path):
    """The last scrape of the span is at 24 s."""
    for n, counted in enumerate((0, 1)):
        one, _ = new_requests(
            tmp_path / str(n), counted, [("n", 23.9)], [stream("n", start_s=23.8, end_s=26)],
            seg("worker-2", "n", 23.95, 25.9),
        )  # fmt: skip
        assert (one.moved, one.agrees_new) == (("n",), True)


@pytest.mark.parametrize(("counted", "agrees"), [(0, False), (1, True), (2, False)])
def test_a_counter_that_tells_another_story_is_named(tmp_path, counted, agrees):
    one, held = new_requests(
        tmp_path, counted, [("n", 20.5)], [stream("n", start_s=20.49)], seg("worker-2", "n", 20.51, 22)
    )
    assert one.agrees_new is agrees
    assert held.ok is agrees
    assert agrees or "1 moved and 0 were refused" in held.detail


def test_prompts_on_a_prefill_worker_are_nobodys_to_tell(tmp_path):
    sut = sut_tree()
    sut["processes"][1] |= {"name": "prefill-1", "role": "prefill"}
    (one,) = judged(tmp_path, [stream("a")], [], target="prefill-1", sut=sut).ledger
    assert not one.applicable
    assert "first tokens only" in one.why
