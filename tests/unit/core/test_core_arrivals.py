"""The open loop's schedule: its laws by Kolmogorov-Smirnov (a wrong law fails), its rate by hand, purity."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import arrivals, config
from harness.core.arrivals import Arrival
from harness.core.config import Load
from harness.core.errors import ScenarioError

N = 4000
KS_LIMIT = 1.95 / math.sqrt(N)  # exceeded by the right law once in 1,000 seeds


def load(duration_s: float = 100, warmup_s: float = 0, phases: Any = None, **given: Any) -> Load:
    tree = {
        "schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
        "load": {
            "duration_s": duration_s, "warmup_s": warmup_s, "arrivals": given,
            "users": [{"class": "ChatUser", "weight": 1}], **({"phases": phases} if phases else {}),
        },
    }  # fmt: skip
    return config.build(tree, "t.yaml").load


def due(spec: Load, n: int = N, seed: int = 7) -> list[float]:
    return [one.due_s for one in islice(arrivals.schedule(spec, seed), n)]


def gaps(spec: Load, seed: int = 7) -> np.ndarray[Any, Any]:
    return np.diff([0.0, *due(spec, seed=seed)])


def ks(values: np.ndarray[Any, Any], cdf: Callable[[Any], Any]) -> float:
    """The largest distance between the values' distribution and `cdf`."""
    at = cdf(np.sort(values))
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.max(steps[1:] - at), np.max(at - steps[:-1])))


def exponential(rate: float) -> Callable[[Any], Any]:
    return lambda x: 1 - np.exp(-rate * np.asarray(x))


def erlang4(rate: float) -> Callable[[Any], Any]:
    """Gamma of shape 4 and mean 1/rate, by its closed form."""
    return lambda x: (
        1 - np.exp(-4 * rate * x) * sum((4 * rate * x) ** k / math.factorial(k) for k in range(4))
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_poisson_gaps_are_exponential_and_nothing_else(seed: int) -> None:
    found = gaps(load(process="poisson", rate_per_s=20), seed)
    assert ks(found, exponential(20)) < KS_LIMIT
    assert ks(found, exponential(22)) > KS_LIMIT  # a tenth faster is noticed
    assert ks(found, erlang4(20)) > KS_LIMIT
    assert ks(gaps(load(process="constant", rate_per_s=20), seed), exponential(20)) > KS_LIMIT


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gamma_gaps_have_the_burstiness(seed: int) -> None:
    regular = gaps(load(process="gamma", rate_per_s=20, burstiness=4), seed)
    assert ks(regular, erlang4(20)) < KS_LIMIT < ks(regular, exponential(20))
    bursty = gaps(load(process="gamma", rate_per_s=20, burstiness=0.25), seed)
    assert ks(bursty, exponential(20)) > KS_LIMIT
    for values, burstiness in ((regular, 4), (bursty, 0.25)):
        assert abs(values.mean() * 20 - 1) < 0.1
        assert abs(values.var() / values.mean() ** 2 * burstiness - 1) < 0.2


def test_constant_arrivals_are_equally_far_apart() -> None:
    assert due(load(process="constant", rate_per_s=4), 5) == [0.125, 0.375, 0.625, 0.875, 1.125]


STAGES = [{"duration_s": 10, "rate_per_s": 2}, {"duration_s": 20, "rate_per_s": 2, "to_per_s": 12},
          {"duration_s": 10, "rate_per_s": 0}, {"duration_s": 10, "rate_per_s": 5}]  # fmt: skip


def test_stages_ramp_and_rest_as_they_say() -> None:
    rate = arrivals.Rate(load(50, 5, process="constant", stages=STAGES))
    assert [rate.at(t) for t in (0, 5, 14.9, 25, 35.1, 45.1, 99)] == [2, 2, 2, pytest.approx(7), 0, 5, 5]
    assert [rate.count(t) for t in (5, 15, 25, 35, 45, 55)] == pytest.approx([10, 30, 75, 170, 170, 220])
    times = due(load(50, 5, process="constant", stages=STAGES), 220)
    for a, b, expected in ((0, 5, 10), (5, 15, 20), (15, 25, 45), (25, 35, 95), (35, 45, 0), (45, 55, 50)):
        assert sum(a <= t < b for t in times) == expected


@pytest.mark.parametrize("process", ["poisson", "gamma"])
def test_stretched_to_its_rate_a_ramp_keeps_its_law(process: str) -> None:
    """The time-change theorem: the expected counts at the arrivals are the unit process again."""
    spec = load(1000, process=process, stages=[{"duration_s": 1000, "rate_per_s": 1, "to_per_s": 19}],
                **({"burstiness": 4} if process == "gamma" else {}))  # fmt: skip
    rate = arrivals.Rate(spec)
    unit = np.diff([0.0, *(rate.count(t) for t in due(spec))])
    law = exponential(1) if process == "poisson" else erlang4(1)
    assert ks(unit, law) < KS_LIMIT
    assert ks(np.diff([0.0, *due(spec)]) * 10, law) > KS_LIMIT  # without the stretching it isn't


def test_phases_multiply_the_rate() -> None:
    phases = [{"name": "a", "duration_s": 10}, {"name": "b", "duration_s": 10, "rate_ratio": 3},
              {"name": "c", "duration_s": 10, "rate_ratio": 0}]  # fmt: skip
    times = due(load(30, 5, phases, process="constant", rate_per_s=2), 200)
    assert [sum(a <= t < b for t in times) for a, b in ((0, 5), (5, 15), (15, 25), (25, 35), (35, 999))] == [
        10, 20, 60, 0, 0,
    ]  # fmt: skip
    ramp = [{"duration_s": 30, "rate_per_s": 0, "to_per_s": 30}]
    rate = arrivals.Rate(load(30, 0, phases, process="constant", stages=ramp))
    assert [rate.count(t) for t in (10, 20, 30)] == pytest.approx([50, 50 + 3 * 150, 500])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 20), st.floats(0, 50), st.none() | st.floats(0, 50)), min_size=1, max_size=5),
    st.floats(0, 10), st.floats(0.01, 2000),
)  # fmt: skip
def test_when_is_the_inverse_of_count(parts: list[Any], warmup_s: float, count: float) -> None:
    stages = [
        {"duration_s": d, "rate_per_s": r, **({} if to is None else {"to_per_s": to})} for d, r, to in parts
    ]
    rate = arrivals.Rate(load(math.fsum(d for d, _, _ in parts), warmup_s, process="poisson", stages=stages))
    at_s = rate.when(count)
    assert math.isinf(at_s) or rate.count(at_s) == pytest.approx(count, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma"])
def test_it_is_a_pure_function_in_order_of_time(process: str) -> None:
    spec = load(50, process=process, stages=STAGES)
    one, again = due(spec, 500), due(spec, 500)
    assert one == again and all(a <= b for a, b in pairwise(one))
    assert process == "constant" or due(spec, 500, seed=8) != one


def test_a_rate_that_falls_to_nothing_ends() -> None:
    spec = load(10, process="poisson", stages=[{"duration_s": 10, "rate_per_s": 5, "to_per_s": 0}])
    found = list(arrivals.schedule(spec, 1))
    assert found[0] == Arrival(0, found[0].due_s) and found[-1].due_s <= 10 and 10 < len(found) < 45


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "load.arrivals: has 0 of rate_per_s and stages, process poisson needs exactly one"),
        ({"rate_per_s": 1, "stages": STAGES}, "has 2 of rate_per_s and stages"),
        ({"rate_per_s": 0}, "load.arrivals.rate_per_s: is 0"),
        ({"rate_per_s": -1}, "load.arrivals.rate_per_s: got -1"),
        ({"rate_per_s": 1, "burstiness": 2}, "load.arrivals.burstiness: 2 does not fit process poisson"),
        ({"rate_per_s": 1, "process": "gamma", "burstiness": 0}, "load.arrivals.burstiness: got 0"),
        ({"rate_per_s": 1, "max_in_flight": 0}, "load.arrivals.max_in_flight: got 0"),
        ({"process": "trace"}, "load.arrivals.file: is missing for process trace"),
        ({"rate_per_s": 1, "file": "x"}, "load.arrivals.file: does not fit process poisson"),
        ({"rate_per_s": 1, "speed_ratio": 2}, "load.arrivals.speed_ratio: 2 does not fit process poisson"),
        ({"process": "trace", "file": "x", "speed_ratio": 0}, "load.arrivals.speed_ratio: must be above 0"),
        (
            {"stages": [{"duration_s": 10, "rate_per_s": 1}]},
            "load.arrivals.stages: last 10 s, the load 100 s",
        ),
        ({"rate_per_s": 1, "rate": 2}, "load.arrivals.rate"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(**given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("user", "arrive", "text"),
    [
        ({"weight": 1}, None, "load.users[0].weight: 1 of no load.arrivals"),
        ({"count": 1}, {"rate_per_s": 1}, "load.arrivals: are nobody's"),
        ({"weight": 1, "count": 1}, {"rate_per_s": 1}, "load.users[0].count: 1 beside weight 1"),
        ({"weight": 0}, {"rate_per_s": 1}, "load.users[0].weight: must be above 0"),
        ({}, {"rate_per_s": 1}, "load.users[0].count: must be 1 or more, got 0"),
        (
            {"weight": 1, "tool_call": True},
            {"process": "trace", "file": "t"},
            "load.users[0]: asks for thoughts",
        ),
        (
            {"count": 1, "conversation": {"turns": 2}, "tool_call": True},
            None,
            "conversation: doesn't go with reason",
        ),
        ({"count": 1, "conversation": {"turns": 2000}}, None, "conversation.turns: 2000 is above 1024"),
        ({"count": 1, "prefix": {"tokens": 0}}, None, "prefix.tokens: must be 1 or more"),
        ({"count": 1, "retry": {"max_attempts": 1}}, None, "retry.max_attempts: got 1"),
        ({"count": 1, "retry": {"base_s": 9}}, None, "retry.cap_s: 8 is below base_s 9"),
    ],
)
def test_an_entry_has_users_by_count_or_by_weight(user: dict[str, Any], arrive: Any, text: str) -> None:
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
            "load": {"duration_s": 1, "users": [{"class": "ChatUser", **user}], "arrivals": arrive}}  # fmt: skip
    with pytest.raises(ScenarioError) as caught:
        config.build(tree, "t.yaml")
    assert text in str(caught.value)
