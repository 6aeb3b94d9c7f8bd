"""Run values as pairs: transformed by hand, and every kind of bad data named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sessions import session

from harness.core.errors import InvalidRun
from harness.stats import pairs
from harness.stats.plan import GatingMetric

TTFT = GatingMetric("ttft_p50_ms", "steady", 0.1, 0.03)
TAIL = GatingMetric("ttft_p99_ms", "steady", 0.2, 0.05)
GOOD = GatingMetric("goodput_ratio", "steady", 0.1, 0.03)
SPEED = GatingMetric("output_tokens_per_s", "steady", 0.1, 0.03)
RECOVER = GatingMetric("recover_s", "recovery", 0.5, 0.05)
SILENT = GatingMetric("silent_s", "all", 0.5, 0.05)


def values(tested, a, b, n=2000):
    rows = [
        (pair, arm, tested.metric, tested.window, value, n)
        for pair, both in enumerate(zip(a, b, strict=True))
        for arm, value in zip("AB", both, strict=True)
    ]
    return pd.DataFrame(rows, columns=["pair_id", "arm", "metric", "window", "value", "n"])


def d(tested, a, b, n=2000):
    return pairs.read(values(tested, [a], [b], n), [tested]).d[0, 0]


def test_differences_by_hand():
    assert d(TTFT, 100.0, 110.0) == pytest.approx(np.log(1.1))
    assert d(SPEED, 100.0, 80.0) == pytest.approx(np.log(1.25))
    assert d(GOOD, 0.9, 0.45) == pytest.approx(np.log(2))


def test_a_ratio_of_none_is_half_a_request():
    assert d(GOOD, 0.5, 0.0, 100) == pytest.approx(np.log(0.5 / 0.005))
    assert d(GOOD, 0.0, 0.0, 100) == 0.0


def test_a_value_of_zero_is_the_resolution():
    assert d(SILENT, 0.0, 0.2) == pytest.approx(np.log(2))
    assert d(SILENT, 0.0, 0.05) == 0.0
    assert d(TTFT, 0.0, 1.0) == pytest.approx(np.log(1000))


def test_pairs_come_in_order_of_their_id_whatever_the_rows():
    frame = session(4).assign(pair_id=lambda f: f["pair_id"] * 7 + 3)
    one = pairs.read(frame, [TTFT, SPEED])
    other = pairs.read(frame.sample(frac=1, random_state=1), [TTFT, SPEED])
    assert one.ids == (3, 10, 17, 24)
    assert np.array_equal(one.d, other.d)


def test_who_never_recovered():
    for never in (float("inf"), float("nan")):
        found = pairs.read(values(RECOVER, [1.0, 2.0], [1.0, never]), [RECOVER])
        assert found.censored == ((1, "B"),)
        assert found.problems == ()
        assert np.isnan(found.d[1, 0])


def test_recoveries_within_half_a_second_are_the_same():
    found = pairs.read(values(RECOVER, [0.0, 0.3, 0.2, 0.5], [0.5, 0.1, 1.0, 0.75]), [RECOVER])
    assert found.d[:, 0].tolist() == pytest.approx([0.0, 0.0, np.log(2), np.log(1.5)])
    assert d(SILENT, 0.2, 0.3) == pytest.approx(np.log(1.5))


def test_a_metric_of_neither_arm_is_absent():
    found = pairs.read(values(TTFT, [1.0], [1.0]), [TTFT, RECOVER])
    assert found.absent.tolist() == [False, True]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("frame", "tested", "said"),
    [
        (values(TTFT, [1.0, float("nan")], [1.0, 1.0]), TTFT, "pair 1, arm A: ttft_p50_ms in steady is no number (nan)"),
        (values(TTFT, [1.0], [float("inf")]), TTFT, "pair 0, arm B: ttft_p50_ms in steady is no number (inf)"),
        (values(TTFT, [1.0], [-1.0]), TTFT, "is below 0 (-1)"),
        (values(RECOVER, [-1.0], [1.0]), RECOVER, "pair 0, arm A: recover_s in recovery is below 0"),
        (values(GOOD, [0.5], [1.5]), GOOD, "is above 1 (1.5)"),
        (values(GOOD, [0.5], [0.5], n=0), GOOD, "has no n"),
        (values(TAIL, [0.5], [0.5], n=float("nan")), TAIL, "has no n"),
        (values(TTFT, [1.0, 1.0], [1.0, 1.0]).iloc[:-1].pipe(
            lambda f: pd.concat([f, values(SPEED, [1.0, 1.0], [1.0, 1.0])])), TTFT,
         "pair 1, arm B: ttft_p50_ms in steady is missing"),
    ],
)  # fmt: skip
def test_values_that_cant_be_judged(frame, tested, said):
    (problem,) = pairs.read(frame, [tested]).problems
    assert said in problem


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (values(TTFT, [], []), "no runs to compare"),
        (values(TTFT, [1.0], [1.0]).drop(columns="arm"), "lack the column arm"),
        (values(TTFT, [1.0], [1.0]).replace({"arm": {"B": "C"}}), "arm 'C' is neither A nor B"),
        (values(TTFT, [1.0], [1.0]).replace({"arm": {"B": "b"}}), "arm 'b' is neither A nor B"),
        (values(TTFT, [1.0, 1.0], [1.0, 1.0]).iloc[:-1], "pair 1 has no run of arm B"),
        (values(TTFT, [1.0], [1.0]).iloc[1:], "pair 0 has no run of arm A"),
        (pd.concat([values(TTFT, [1.0], [1.0])] * 2), "pair 0, arm A: ttft_p50_ms in steady is there twice"),
        (values(TTFT, [1.0], [1.0]).assign(pair_id=0.5), "pair_id 0.5 is no whole number"),
        (values(TTFT, [1.0], [1.0]).assign(pair_id=None), "pair_id"),
    ],
)
def test_rows_that_are_no_pairs(frame, said):
    with pytest.raises(InvalidRun) as error:
        pairs.read(frame, [TTFT])
    assert said in str(error.value)


def test_the_probe_comes_as_a_column_or_by_itself():
    frame = values(TTFT, [1.0, 1.0], [1.0, 1.0])
    assert pairs.read(frame, [TTFT]).c is None
    assert pairs.read(frame.assign(c=[0.1, 0.1, 0.2, 0.2]), [TTFT]).c.tolist() == [0.1, 0.2]
    assert pairs.read(frame, [TTFT], pd.Series({1: 0.2, 0: 0.1})).c.tolist() == [0.1, 0.2]
    assert pairs.read(frame, [TTFT], pd.Series({0: 0.1})).c is None
