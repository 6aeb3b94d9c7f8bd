"""The archive's scale and the probe's share, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import archive

from harness.core.errors import InvalidRun
from harness.stats import scale
from harness.stats.plan import GatingMetric, defaults

ONE = (GatingMetric("ttft_p50_ms", "steady", 0.1, 0.03),)


def frame(d, kind="aa", first=0, **columns):
    return pd.DataFrame(
        {
            "pair_id": range(first, first + len(d)),
            "kind": kind,
            "metric": "ttft_p50_ms",
            "window": "steady",
            "d": d,
        }
        | columns
    )


def test_the_fixed_point_by_hand():
    """Eleven of 1 and one of 100: clipped at 2.5 s, 11/12 + 6.25 s^2/12 = .9776 s^2."""
    s = scale.robust(np.array([1.0, -1.0] * 5 + [1.0, 100.0]))
    assert s**2 == pytest.approx((11 / 12) / (0.9776 - 6.25 / 12), rel=1e-9)
    assert scale.robust(np.array([3.0, -3.0, 3.0])) == pytest.approx(3 / 0.9776**0.5)


def test_the_start_where_the_median_is_zero():
    few = np.array([0.0] * 3 + [1.0] * 2)
    assert scale.robust(few) == pytest.approx((2 / 5 / 0.9776) ** 0.5)
    assert scale.robust(np.zeros(5)) == 0.0


@given(
    st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=40), st.floats(0.01, 100)
)
@settings(max_examples=50, deadline=None)
def test_the_fixed_point_is_one_and_scales(values, factor):
    h = np.array(values)
    s = scale.robust(h)
    assert np.mean(np.clip(h / s, -2.5, 2.5) ** 2) == pytest.approx(0.9776, rel=1e-6)
    assert scale.robust(h * factor) == pytest.approx(s * factor, rel=1e-6)
    assert scale.robust(-h) == s


def test_degrees_of_freedom_and_the_floor():
    both = pd.concat([frame([0.0] * 10), frame([0.0] * 20, "residual", first=10)])
    found = scale.of(scale.read(both, ONE))
    assert found.pairs.tolist() == [30]
    assert found.nu0 == pytest.approx([0.7 * 10 + 0.5 * 20])
    assert found.s0.tolist() == [0.001]
    assert not found.cold.any()


def test_fewer_than_twelve_pairs_are_cold():
    assert scale.of(scale.read(frame([0.1] * 11), ONE)).cold.tolist() == [True]
    assert scale.of(scale.read(frame([0.1] * 12), ONE)).cold.tolist() == [False]
    assert scale.of(scale.read(frame([0.1] * 11 + [float("nan")]), ONE)).cold.tolist() == [True]
    for none in (None, pd.DataFrame(), frame([])):
        assert scale.of(scale.read(none, ONE)).cold.tolist() == [True]


def test_only_the_last_120_pairs_count():
    old = frame([1.0] * 100)
    new = frame([0.01] * 120, first=100)
    found = scale.of(scale.read(pd.concat([new, old]), ONE))
    assert found.pairs.tolist() == [120]
    assert found.s0[0] < 0.011


def test_invalid_rows_dont_count():
    assert len(scale.read(frame([0.1] * 20, valid=[True] * 15 + [False] * 5), ONE)) == 15


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (frame([0.1] * 3).drop(columns="d"), "lacks the column d"),
        (frame([0.1] * 3, kind="ab"), "kind 'ab'"),
        (pd.concat([frame([0.1] * 3)] * 2), "ttft_p50_ms in steady of pair 0 twice"),
        (frame([0.1] * 2, scenario=["a", "b"]), "mixes scenario a and b"),
        (frame([0.1] * 2, fingerprint_class=["a", "b"]), "mixes fingerprint_class a and b"),
    ],
)
def test_archives_that_are_none_are_refused(broken, said):
    with pytest.raises(InvalidRun) as error:
        scale.read(broken, ONE)
    assert said in str(error.value)


def test_the_order_of_rows_means_nothing():
    rows = archive(30)
    one = scale.read(rows, defaults())
    other = scale.read(rows.sample(frac=1, random_state=3), defaults())
    assert np.array_equal(one.d, other.d)
    assert np.array_equal(one.aa, other.aa)


def test_the_probes_share_by_hand():
    draw = np.random.default_rng(0)
    c = draw.normal(0, 0.02, 60)
    half = scale.read(frame(0.5 * c, c_probe=c), ONE)
    assert scale.probe_share(half, scale.of(half)) == pytest.approx([0.5], abs=0.02)
    rest = scale.without_probe(half, scale.probe_share(half, scale.of(half)))
    assert scale.of(rest).s0[0] < 0.2 * scale.of(half).s0[0]


@pytest.mark.parametrize(("factor", "theta"), [(-1.0, 0.0), (3.0, 1.0)])
def test_the_probes_share_is_cut(factor, theta):
    c = np.random.default_rng(0).normal(0, 0.02, 60)
    found = scale.read(frame(factor * c, c_probe=c), ONE)
    assert scale.probe_share(found, scale.of(found)).tolist() == [theta]


def test_no_share_without_probes_or_with_few():
    d = np.random.default_rng(0).normal(0, 0.02, 60)
    none = scale.read(frame(d), ONE)
    assert scale.probe_share(none, scale.of(none)).tolist() == [0.0]
    few = scale.read(frame(d, c_probe=[*d[:11], *[float("nan")] * 49]), ONE)
    assert scale.probe_share(few, scale.of(few)).tolist() == [0.0]


def test_ages_are_numbers_whatever_the_index():
    both = pd.concat([frame([0.1] * 12), frame([0.2] * 12, first=12)])
    assert scale.read(both, ONE).d[:, 0].tolist() == [0.1] * 12 + [0.2] * 12
    assert len(scale.read(both.assign(pair_id=both["pair_id"].astype(str)), ONE)) == 24
    with pytest.raises(InvalidRun, match="pair_id x is no number"):
        scale.read(both.assign(pair_id="x"), ONE)
