"""detect, mitigate, recover, silent seconds and the losses, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from make_run import (
    MS,
    NS,
    SCENARIO,
    fault_lines,
    plain_parts,
    probes,
    record,
    samples,
    streams_of,
    write_run,
)

from harness.core.config import Slo
from harness.core.records import Probe, Sample
from harness.stats import analyse, health, service
from harness.stats.hurt import Hurt
from harness.stats.service import Steady

SLO = Slo()
PAUSE = SCENARIO["faults"][1]


def hurt_in(bins, length=400):
    clients = np.zeros(length, np.int64)
    clients[list(bins)] = 1
    empty = np.zeros(0, np.int64)
    return Hurt(empty, empty, empty, clients)


def mitigate(bins, effective_s=10.0, until_s=20.0, horizon_s=40.0, length=400):
    return service.mitigate_s(
        hurt_in(bins, length), round(effective_s * NS), round(until_s * NS), round(horizon_s * NS)
    )


def test_mitigate_is_zero_if_nobody_was_hurt_during_the_fault():
    assert mitigate([]) == 0
    assert mitigate([20, 300]) == 0  # long before, long after


def test_mitigate_ends_with_the_last_hurt_bin_before_a_second_without():
    assert mitigate([103, 104, 113, 114]) == pytest.approx(1.5)  # 0.8 s free between: goes on
    assert mitigate([103, 104, 115]) == pytest.approx(0.5)  # 1.0 s free: over
    assert mitigate([103, 104, 114]) == pytest.approx(1.5)  # 0.9 s free only


def test_mitigate_counts_from_the_effect_inside_its_bin():
    assert mitigate([100], effective_s=10.05) == pytest.approx(0.05)


def test_hurt_that_outlasts_the_run_is_unknown():
    assert mitigate(range(105, 400)) is None
    assert mitigate([105], horizon_s=11.0) is None
    assert mitigate([105], horizon_s=11.6) == pytest.approx(0.6)


def test_detect_is_the_first_red_probe_of_the_target(tmp_path):
    assert detected(tmp_path, [("worker-1", 20.3, 25)]) == pytest.approx(0.3)
    assert detected(tmp_path / "b", [("worker-2", 20.3, 25)]) is None  # another's
    assert detected(tmp_path / "c", [("worker-1", 27, 28)]) is None  # after it was over


def detected(path, red, extra=(), more=()):
    parts = plain_parts([record(n) for n in range(5, 65)], faults=[PAUSE])
    parts.journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
    parts.probes = [*probes(65, red), *extra]
    parts.samples = [*samples(65), *more]
    return analyse.analyse(write_run(path / "r", parts)).metrics["fault:pause"]["detect_s"]


def test_a_probe_in_flight_for_over_a_second_is_red_from_its_start(tmp_path):
    slow = Probe(round(19.95 * NS), "worker-1", "/health", 0, None, 1_001_000, "timeout")
    assert detected(tmp_path, [], [slow]) == 0
    late = Probe(round(21.5 * NS), "worker-1", "/health", 200, True, 1_200_000, None)
    assert detected(tmp_path / "b", [], [late]) == pytest.approx(1.5)


def test_leaving_the_frontends_list_is_a_detection(tmp_path):
    gone = listed(20.2, 0)
    assert detected(tmp_path, [("worker-1", 21, 25)], more=[listed(1, 1), gone]) == pytest.approx(0.2)


def test_probes_may_see_a_fault_before_we_measured_its_effect(tmp_path):
    """A drain took effect when we found the worker unlisted; the probes had seen it red and gone by then."""

    def drained(name, red, *more):
        parts = plain_parts([record(n) for n in range(5, 65)], faults=[PAUSE])
        parts.journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
        parts.journal[1].t_ns = round(19.85 * NS)  # injected
        parts.probes, parts.samples = probes(65, red), [*samples(65), listed(1, 1), *more]
        return analyse.analyse(write_run(tmp_path / name, parts)).metrics["fault:pause"]["detect_s"]

    assert drained("left", [], listed(19.95, 0)) == 0
    assert drained("red", [("worker-1", 19.9, 25)]) == 0
    assert drained("earlier", [("worker-1", 19.5, 19.75)], listed(19.8, 0)) is None  # none of this fault's


def listed(t_s, value, worker="worker-1", instance="77"):
    labels = f'{{"endpoint":"generate","instance_id":"{instance}","worker":"{worker}"}}'
    return Sample(round(t_s * NS), "frontend-1", health.LISTED, labels, float(value))


STEADY = Steady(1.0, 50.0)


def recovered(rows, steady=STEADY, undo_s=10.0, end_s=40.0, unlisted=()):
    streams = streams_of(rows)
    good = service.good(streams, SLO)
    return service.recover_s(
        streams, good, steady, round(undo_s * NS), round(end_s * NS),
        [(round(a * NS), round(b * NS)) for a, b in unlisted],
    )  # fmt: skip


def every(start_s, end_s, step_s=0.5, **changes):
    times = np.arange(start_s, end_s, step_s)
    return [record(0, request_id=f"{t:.2f}", t_start_ns=round(t * NS), **changes) for t in times]


def test_recovered_at_once_when_all_is_as_steady():
    assert recovered(every(5, 40)) == (0.0, True, "")


def test_recovery_waits_for_goodput():
    rows = every(5, 12, ttft_ms=600) + every(12, 40)
    # TTFT p50 and 90% good: the last bad one starts at 11.5 and ends at 12.18; at most 1 of 10 may be bad
    value, known, _ = recovered(rows)
    assert known
    assert value == pytest.approx(2.2) or value == pytest.approx(1.7)
    assert value == pytest.approx(slow_recover(rows))


def slow_recover(rows):
    """Brute force over every 5 s window."""
    for k in range(300):
        a = 10 * NS + k * 100 * MS
        b = a + 5 * NS
        over = [r for r in rows if r.t_start_ns < b and max(r.t_end_ns, r.t_start_ns + 1) > a]
        good = [r for r in over if r.outcome == "ok" and r.t_first_ns - r.t_start_ns <= 500 * MS]
        ttft = sorted(
            (r.t_first_ns - r.t_start_ns) / MS for r in rows if r.t_first_ns and a <= r.t_first_ns < b
        )
        if over and len(good) / len(over) >= 0.9 and ttft and np.median(ttft) <= 55:
            return k / 10
    return None


def test_recovery_waits_for_ttft():
    rows = every(5, 20, ttft_ms=60) + every(20, 40, ttft_ms=50)
    assert recovered(rows)[0] == pytest.approx(slow_recover(rows))
    assert recovered(rows)[0] > 5


def test_better_than_steady_is_recovered():
    assert recovered(every(5, 40, ttft_ms=20))[0] == 0


def test_recovery_waits_until_all_are_listed():
    assert recovered(every(5, 40), unlisted=[(9, 13.05)])[0] == pytest.approx(3.1)


def test_never_is_none_and_proven():
    assert recovered(every(5, 40, ttft_ms=600))[:2] == (None, True)


def test_too_little_load_or_no_steady_state_proves_nothing():
    assert recovered(every(5, 14), end_s=14.9)[:2] == (None, False)
    assert recovered(every(5, 40), Steady(None, 50.0))[:2] == (None, False)
    assert recovered(every(5, 40), Steady(1.0, None))[:2] == (None, False)


def test_silent_needs_hurt_and_green():
    hurt = hurt_in([100, 101, 102, 150])
    states = np.full(400, health.GREEN, np.int8)
    window = ((10 * NS, 12 * NS),)
    assert service.silent_s(hurt, states, window, True) == pytest.approx(0.3)
    states[101] = health.RED
    assert service.silent_s(hurt, states, window, True) == pytest.approx(0.2)
    states[102] = health.UNKNOWN
    assert service.silent_s(hurt, states, window, True) is None
    assert service.silent_s(hurt, states, window, False) is None


def stalled_run(path, red=(), sut_env=None):
    rows = [record(n) for n in range(5, 65)]
    rows.append(
        record(0, request_id="stalled", t_start_ns=19 * NS, ttft_ms=950, gaps_us=[20_000, 6_000_000, 20_000])
    )
    parts = plain_parts(rows, faults=[PAUSE])
    if sut_env:
        parts.scenario["sut"] = {**parts.scenario["sut"], "env": sut_env}
    parts.journal = fault_lines(1, "pause", "worker-1", 20, 26, 26.01, 27)
    parts.probes = probes(66, red)
    return analyse.analyse(write_run(path, parts))


def test_a_stall_behind_green_health_is_silent(tmp_path):
    found = stalled_run(tmp_path / "r", red=[("worker-1", 20, 26)])
    # last byte 19.97, a second old at 20.97, next byte 25.97: bins 209 to 259
    assert found.metrics["fault:pause"]["silent_s"] == pytest.approx(5.1)
    assert found.metrics["fault:pause"]["silent_all_s"] == 0  # the worker's own health was red
    assert found.metrics["fault:pause"]["mitigate_s"] == pytest.approx(6.0)


def test_with_canaries_on_a_workers_health_is_a_readiness_signal(tmp_path):
    found = stalled_run(tmp_path / "r", [("worker-1", 20, 26)], {"DYN_HEALTH_CHECK_ENABLED": "true"})
    assert found.metrics["fault:pause"]["silent_s"] == 0


def test_a_frontend_that_is_red_makes_no_silence(tmp_path):
    found = stalled_run(tmp_path / "r", [("frontend-1", 21, 25)])
    assert found.metrics["fault:pause"]["silent_s"] == pytest.approx(5.1 - 4.0)


def test_losses_add_up(tmp_path):
    found = stalled_run(tmp_path / "r")
    (loss,) = found.losses
    assert loss.requests_hurt == 1
    assert loss.request_ids == ("stalled",)
    assert loss.hurt_user_s == pytest.approx(5.1)
    # alone but for requests of 130 ms each second (2 bins of 10): 1 of 2 clients hurt in those
    assert loss.outage_s == pytest.approx(sum(0.1 / (2 if k % 10 in (0, 1) else 1) for k in range(209, 260)))
    assert loss.budget_ratio == pytest.approx(loss.outage_s / 2592)
    assert "1 requests hurt" in loss.text


def test_a_restarted_worker_counts_as_unlisted_until_it_is_back():
    from harness.stats.events import events
    from harness.stats.load import SutView

    found = events(fault_lines(1, "kill", "worker-1", 20, 22, 23, 24))
    sut = SutView({"worker-1": "worker", "worker-2": "worker"}, {}, "witness", None, False)
    import pandas as pd

    changes = health.listed(pd.DataFrame([vars_of(listed(1, 1))]))
    assert health.unlisted(changes, sut, found, 60 * NS) == ((20 * NS, 23 * NS),)
    gone = pd.DataFrame([vars_of(x) for x in (listed(1, 1), listed(21, 0), listed(30, 1, instance="78"))])
    assert (21 * NS, 30 * NS) in health.unlisted(health.listed(gone), sut, found, 60 * NS)
    none = health.listed(pd.DataFrame([vars_of(listed(1, 1))]).head(0))
    assert health.unlisted(none, sut, found, 60 * NS) == ((20 * NS, 24 * NS),)


def vars_of(sample):
    return {name: getattr(sample, name) for name in ("t_ns", "process", "metric", "labels", "value")}
