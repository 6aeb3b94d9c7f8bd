"""When a target's readiness turned and for how long it lied, by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from make_run import (
    MONO_NS,
    MS,
    NS,
    SCENARIO,
    fault_lines,
    plain_parts,
    probes,
    record,
    samples,
    write_run,
)
from test_stats_service import listed

from harness.core.records import Probe
from harness.stats import analyse, readiness
from harness.stats.analysis import Readiness

PAUSE = SCENARIO["faults"][1]
HANG = {
    "id": "hang",
    "fault": "engine.hang",
    "select": {"role": "worker"},
    "at_s": 35,
    "hold_s": 8,
    "at_token": 3,
}


def probe(t_s: float, ready: bool = True, latency_ms: float = 1, path: str = "/health") -> Probe:
    """One probe of worker-1; above a second it timed out."""
    late = latency_ms > 1000
    return Probe(
        round(t_s * NS), "worker-1", path, 0 if late else 200, None if late else ready,
        round(latency_ms * 1000), "timeout" if late else None,
    )  # fmt: skip


def others(seconds: float = 65) -> list[Probe]:
    return [one for one in probes(seconds) if one.process != "worker-1"]


def every(low_s: float, high_s: float, ready: bool = True) -> list[Probe]:
    """Probes of worker-1 at 10 Hz."""
    return [probe(n / 10, ready) for n in range(round(low_s * 10), round(high_s * 10))]


def paused(
    path: Any, mine: list[Probe], more: Any = (), journal: Any = None, segments: Any = None
) -> Readiness:
    """worker-1 paused at 20 s, continued at 25 s, recovered at 26 s, unless the journal says otherwise."""
    parts = plain_parts([record(n) for n in range(5, 65)], faults=[PAUSE])
    parts.journal = journal or fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
    parts.probes, parts.samples = [*others(), *mine], [*samples(65), *more]
    parts.segments = segments or {}
    return analyse.analyse(write_run(path / "r", parts)).services["pause"].readiness


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-6)


def test_a_pause_that_its_own_health_shows(tmp_path):
    """Probes in flight: one sent at 20.1 times out at 21.1; one sent at 24.6 is answered at 25.05."""
    mine = [*every(1, 20.1), *(probe(20.1 + n, latency_ms=1001) for n in range(4)), probe(24.6, latency_ms=450),
            *every(25.1, 65)]  # fmt: skip
    seen = paused(tmp_path, mine)
    assert seen.not_ready_s == near(0.1)
    assert seen.ready_s == near(0.05)
    # green while it was stopped: the bin before the first red probe, and those in which the last one was on its way
    assert seen.false_green_s == near(0.1 + 0.4)
    assert seen.false_red_s == 0


def test_a_red_probe_that_was_on_its_way_at_the_effect_is_no_delay(tmp_path):
    mine = [*every(1, 19.8), probe(19.8, latency_ms=1001), *every(21, 25, ready=False), *every(25.3, 65)]
    seen = paused(tmp_path, mine)
    assert seen.not_ready_s == 0
    assert seen.ready_s == near(0.301)
    assert seen.false_green_s == 0


def test_green_that_does_not_last_is_not_ready(tmp_path):
    mine = [
        *every(1, 20.2),
        *every(20.2, 25.5, ready=False),
        *every(25.5, 28),
        probe(28, ready=False),
        *every(28.1, 65),
    ]
    assert paused(tmp_path, mine).ready_s == near(28.1 + 0.001 - 25)


def test_a_timeout_on_its_way_spoils_a_green_answer_before_it(tmp_path):
    mine = [
        *every(1, 20.2),
        *every(20.2, 25.5, ready=False),
        probe(25.5),
        probe(25.55, latency_ms=1001),
        *every(26.6, 65),
    ]
    assert paused(tmp_path, mine).ready_s == near(26.6 + 0.001 - 25)


def test_never_red_is_never_not_ready_and_all_of_it_is_false(tmp_path):
    seen = paused(tmp_path, every(1, 65))
    assert seen == Readiness(not_ready_s=None, ready_s=0.0, false_green_s=near(5.0), false_red_s=0.0)


def test_liveness_is_no_readiness(tmp_path):
    live = [probe(n / 10, ready=False, path="/live") for n in range(10, 650)]
    seen = paused(tmp_path, [*every(1, 65), *live])
    assert (seen.not_ready_s, seen.false_green_s, seen.false_red_s) == (None, near(5.0), 0.0)


def test_nobody_looked(tmp_path):
    assert paused(tmp_path, []) == Readiness()


def test_never_ready_again(tmp_path):
    assert paused(tmp_path, [*every(1, 20), *every(20, 65, ready=False)]).ready_s is None


def test_until_the_next_fault_is_long_enough(tmp_path):
    mine = [
        *every(1, 20),
        *every(20, 25.5, ready=False),
        *every(25.5, 29),
        *every(29, 33, ready=False),
        *every(33, 65),
    ]
    second = [changed(one, seq=one.seq + 5, fault_id="pause-2") for one in
              fault_lines(1, "pause", "worker-1", 29, 33, 33, 34)]  # fmt: skip
    journal = [*fault_lines(1, "pause", "worker-1", 20, 25, 25, 26), *second]
    assert paused(tmp_path, mine, journal=journal).ready_s == near(0.501)


def changed(one: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(one, **changes)


def test_a_green_zombie(tmp_path):
    """It runs again and says so, but no frontend lists it until it is started again at 35 s."""
    mine = [*every(1, 20), *every(20, 25, ready=False), *every(25, 65)]
    journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 35)
    gone = [listed(1, 1), listed(22, 0), listed(35, 1, instance="78")]
    seen = paused(tmp_path, mine, gone, journal)
    assert seen.false_green_s == near(10.0)
    assert seen.ready_s == near(0.001) or seen.ready_s == 0.0


def test_listed_by_one_frontend_is_listed(tmp_path):
    mine = [*every(1, 20), *every(20, 25, ready=False), *every(25, 65)]
    journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 35)
    other = changed(listed(1, 1), process="frontend-2")
    seen = paused(tmp_path, mine, [listed(1, 1), listed(22, 0), other], journal)
    assert seen.false_green_s == 0


def segment(n: int, start_s: float, end_s: float | None, first: int = 0) -> list[dict[str, Any]]:
    head = {"event": "start", "t_mono_ns": MONO_NS + round(start_s * NS), "request_id": f"r{n}", "first": first,
            "max_tokens": 5, "prompt_tokens": 50}  # fmt: skip
    tail = {"event": "end", "t_mono_ns": MONO_NS + round((end_s or 0) * NS), "request_id": f"r{n}", "next": 5,
            "reason": "length"}  # fmt: skip
    return [head] if end_s is None else [head, tail]


def hanging(path: Any, mine: list[Probe], gap_s: float = 5, on_other: bool = False) -> Readiness:
    """A stream on worker-1 falls silent at 20 s for gap_s; others run on worker-2. Fault from 20 to 25 s."""
    rows = [record(n) for n in range(5, 65) if n != 19]
    tokens = [100_000] * 9 + [round(gap_s * 1e6)] + [100_000] * 40  # from 19.1 s, silent at 20.0 s
    rows.append(record(19, ttft_ms=100, gaps_us=tokens))
    parts = plain_parts(sorted(rows, key=lambda one: one.t_start_ns), faults=[HANG])
    fault = [changed(one, fault="engine.hang") for one in
             fault_lines(1, "hang", "worker-1", 20, 25, 25, 26)]  # fmt: skip
    parts.journal = fault
    parts.probes, parts.samples = [*others(), *mine], [*samples(65), listed(1, 1)]
    target = "worker-2" if on_other else "worker-1"
    parts.segments = {"worker-1": [], "worker-2": []}
    parts.segments["worker-2"] = [one for n in range(5, 65) if n != 19 for one in segment(n, n, n + 0.2)]
    parts.segments[target] += segment(19, 19, 19.1 + sum(tokens) / 1e6)
    parts.segments[target].sort(key=lambda one: one["t_mono_ns"])
    return analyse.analyse(write_run(path / "r", parts)).services["hang"].readiness


def test_streams_that_wait_say_that_it_cannot_serve(tmp_path):
    """The bin of the last token still serves; silence from the next one to the token at 25.0 s."""
    seen = hanging(tmp_path, every(1, 65))
    assert seen == Readiness(not_ready_s=None, ready_s=0.0, false_green_s=near(4.9), false_red_s=0.0)


def test_red_while_it_is_silent_is_right_and_red_while_it_serves_is_not(tmp_path):
    mine = [*every(1, 22), *every(22, 25.5, ready=False), *every(25.5, 65)]
    seen = hanging(tmp_path, mine)
    assert seen == Readiness(
        not_ready_s=near(2.0), ready_s=near(0.501), false_green_s=near(1.9), false_red_s=near(0.5)
    )


def test_a_silence_of_less_than_a_second_is_none(tmp_path):
    assert hanging(tmp_path, every(1, 65), gap_s=0.9).false_green_s == 0


def test_an_idle_target_can_do_both(tmp_path):
    """None of the fault's proof, the lists and the streams says anything about it."""
    assert hanging(tmp_path, every(1, 65), on_other=True).false_green_s is None


def test_a_migrated_stream_left_when_it_went_on_elsewhere(tmp_path):
    rows = [record(n) for n in range(5, 65)]
    parts = plain_parts(rows, faults=[HANG])
    parts.segments = {"worker-1": segment(20, 20.0, None), "worker-2": segment(20, 20.06, 20.2, first=1)}
    data = analyse.load.read(write_run(tmp_path / "r", parts))
    assert data.segments is not None
    assert (readiness._until(data.segments) / MS).tolist() == [20_060, 20_200]


def test_several_targets_are_as_bad_as_the_worst(tmp_path):
    both = [
        *fault_lines(1, "pause", "worker-1", 20, 25, 25, 26),
        *fault_lines(6, "pause", "worker-2", 20, 25, 25, 26),
    ]
    mine = [*every(1, 20.2), *every(20.2, 25.5, ready=False), *every(25.5, 65)]
    seen = paused(tmp_path, mine, journal=both)
    assert seen.not_ready_s is None, "worker-2 was never red"
    assert (seen.ready_s, seen.false_green_s) == (near(0.501), near(5.0))


def test_a_fault_that_was_never_undone(tmp_path):
    journal = [
        one for one in fault_lines(1, "pause", "worker-1", 20, 25, 25, 26) if one.phase != "recovering"
    ][:3]
    seen = paused(tmp_path, [*every(1, 20), *every(20, 65, ready=False)], journal=journal)
    assert (seen.not_ready_s, seen.ready_s, seen.false_green_s) == (0, None, 0)


def test_the_metrics_are_those_of_the_fault(tmp_path):
    parts = plain_parts([record(n) for n in range(5, 65)], faults=[PAUSE])
    parts.journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
    found = analyse.analyse(write_run(tmp_path / "r", parts))
    window = found.metrics["fault:pause"]
    fields = [field.name for field in dataclasses.fields(Readiness)]
    assert {name: window[name] for name in fields} == dataclasses.asdict(found.services["pause"].readiness)
    assert all(found.metrics["all"][name] is None for name in fields)


@pytest.mark.parametrize("canary", [False, True])
def test_with_canaries_the_workers_health_is_acted_on(tmp_path, canary):
    """silent_s: a client waits, the frontend is green, the worker is red."""
    rows = [record(n) for n in range(5, 65) if n != 20]
    rows.append(record(20, gaps_us=[20_000, 5_000_000, 20_000]))
    sut = {**SCENARIO["sut"], "canary": {"enabled": canary}}
    parts = plain_parts(sorted(rows, key=lambda one: one.t_start_ns), sut=sut)
    parts.probes = [*others(), *every(1, 20), *every(20, 27, ready=False), *every(27, 65)]
    silent = analyse.analyse(write_run(tmp_path / "r", parts)).metrics["all"]["silent_s"]
    assert silent == (0 if canary else pytest.approx(4.1, abs=0.11))


def test_masks_are_clipped():
    assert readiness._mask([(-NS, NS), (3 * NS, 9 * NS)], 5, 32).tolist() == [
        *[True] * 5,
        *[False] * 20,
        True,
        True,
    ]
    assert readiness._mask([], 5, 5).tolist() == []
    assert not np.any(readiness._mask([(0, NS)], 20, 30))
