"""Plans: the twelve metrics, how levels are spent, what a scenario may override."""

from __future__ import annotations

import pytest

from harness.core.errors import UsageError
from harness.stats.plan import GatingMetric, Plan, defaults, fixed, of_scenario, spend


def test_the_twelve_metrics_with_margins_and_floors():
    found = {(t.metric, t.window): (t.margin, t.floor) for t in Plan().metrics}
    assert len(found) == 12
    for metric in ("ttft_p50_ms", "itl_p50_ms", "e2e_p50_ms", "goodput_ratio", "output_tokens_per_s"):
        assert found[metric, "steady"] == (0.10, 0.03)
    for metric in ("ttft_p99_ms", "itl_p99_ms", "e2e_p99_ms"):
        assert found[metric, "steady"] == (0.20, 0.05)
    assert found["ttft_p50_ms", "fault"] == (0.40, 0.05)
    for key in (("stall_p50_ms", "fault"), ("stall_max_ms", "fault"), ("recover_s", "recovery")):
        assert found[key] == (0.50, 0.05)


def test_only_goodput_and_throughput_are_better_when_larger():
    assert {t.metric for t in defaults() if t.sign == -1} == {"goodput_ratio", "output_tokens_per_s"}
    assert GatingMetric("of_somebody_else", "steady", 0.1, 0.03).sign == 1


def test_how_the_levels_are_spent():
    four = spend((3, 5, 7, 10))
    assert [(k.n, k.alpha, k.beta) for k in four] == [
        (3, 0.0005, 0.01), (5, 0.0005, 0.01), (7, 0.0005, 0.015), (10, pytest.approx(0.0085), 0.015),
    ]  # fmt: skip
    (one,) = spend((5,))
    assert (one.alpha, one.beta) == (0.01, 0.05)
    for looks in ((3, 5), (3, 4, 5, 6, 7, 8), tuple(range(3, 60))):
        assert sum(k.alpha for k in spend(looks)) == pytest.approx(0.01)
        assert sum(k.beta for k in spend(looks)) == pytest.approx(0.05)
        assert all(k.alpha > 0 for k in spend(looks))


def test_a_fixed_number_of_pairs_is_one_look():
    assert fixed(5) == Plan(looks=(5,))


@pytest.mark.parametrize("looks", [(), (2,), (3, 3), (5, 3), (0, 5)])
def test_looks_that_are_none_are_refused(looks):
    with pytest.raises(UsageError, match=r"compare\.looks"):
        Plan(looks=looks)


def test_metrics_that_cant_gate_are_refused():
    with pytest.raises(UsageError, match="no metric gates"):
        Plan(metrics=())
    with pytest.raises(UsageError, match="margin 0 and floor"):
        Plan(metrics=(GatingMetric("ttft_p50_ms", "steady", 0.0, 0.03),))
    with pytest.raises(UsageError, match="named twice"):
        Plan(metrics=(GatingMetric("x", "steady", 0.1, 0.03), GatingMetric("x", "steady", 0.2, 0.03)))


def test_a_scenario_names_its_first_fault_and_overrides():
    plan = of_scenario(
        [3, 5], None, {"ttft_p50_ms": 0.05, "stall_max_ms": 0.3}, {"ttft_p50_ms@fault:kill": 0.01}, "kill"
    )
    found = {t.key: t for t in plan.metrics}
    assert plan.looks == (3, 5)
    assert found["ttft_p50_ms", "steady"].margin == 0.05
    assert found["ttft_p50_ms", "fault:kill"].margin == 0.40
    assert found["ttft_p50_ms", "fault:kill"].floor == 0.01
    assert found["stall_max_ms", "fault:kill"].margin == 0.30
    assert ("recover_s", "recovery:kill") in found


def test_a_scenario_chooses_metrics():
    plan = of_scenario(None, ["ttft_p50_ms", "recover_s", "ttft_p90_ms@all"], {}, {}, "kill")
    assert [t.key for t in plan.metrics] == [
        ("ttft_p50_ms", "steady"), ("recover_s", "recovery:kill"), ("ttft_p90_ms", "all"),
    ]  # fmt: skip
    assert plan.metrics[1].margin == 0.50
    assert (plan.metrics[2].margin, plan.metrics[2].floor) == (0.10, 0.03)


@pytest.mark.parametrize(
    ("metrics", "margins", "floors", "said"),
    [
        (["ttft_p50"], {}, {}, "compare.metrics: 'ttft_p50' is no metric; did you mean `ttft_p50_ms`"),
        (None, {"ttft_p90_ms": 0.1}, {}, "compare.margins: 'ttft_p90_ms' doesn't gate"),
        (None, {}, {"xyz": 0.1}, "compare.floors: 'xyz' is no metric"),
        (None, {"ttft_p50_ms": -0.1}, {}, "margin -0.1"),
        (["ttft_p50_ms"], {"itl_p50_ms": 0.1}, {}, "gating are ttft_p50_ms@steady"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(metrics, margins, floors, said):
    with pytest.raises(UsageError) as error:
        of_scenario(None, metrics, margins, floors, None)
    assert said in str(error.value)
