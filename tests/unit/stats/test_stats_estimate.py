"""Shift, standard error and p, by hand and against the ordinary t-test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats import estimate
from harness.stats.scale import Scale


def noise(s0, nu0, pairs=60):
    return Scale(np.array([s0]), np.array([nu0]), np.array([pairs]))


COLD = noise(np.nan, 0.0, 3)


def test_without_clipping_all_is_arithmetic():
    """d = .01, .02, .03 with s0 = .02: nothing is clipped, m = .02, s_n^2 = .0001, nu0 = 42."""
    found = estimate.of(np.array([[0.01], [0.02], [0.03]]), noise(0.02, 42.0))
    s2 = (42 * 0.02**2 + 2 * 0.0001) / 44
    assert found.m == pytest.approx([0.02])
    assert found.s == pytest.approx([s2**0.5])
    assert found.se == pytest.approx([(s2 * 1.05 / 3) ** 0.5])
    assert found.df == pytest.approx([44.0])
    assert found.p_reg == pytest.approx([stats.t.sf(0.02 / (s2 * 1.05 / 3) ** 0.5, 44)])
    assert found.p_reg + found.p_imp == pytest.approx([1.0])


def test_an_outlier_is_bounded():
    """Nine of 0 and one of 1: the outlier pulls by 1.345 s0, m = 1.345 s0/9, its square is clipped at 2.5 s0."""
    d = np.zeros((10, 1))
    d[9] = 1.0
    found = estimate.of(d, noise(0.02, 42.0))
    m = 1.345 * 0.02 / 9
    assert found.m == pytest.approx([m], rel=1e-4)
    s_n2 = (9 * m**2 + (2.5 * 0.02) ** 2) / 9
    assert found.s == pytest.approx([((42 * 0.02**2 + 9 * s_n2) / 51) ** 0.5], rel=1e-4)
    plain = estimate.of(d, COLD)
    assert plain.m == pytest.approx([0.1])


def test_a_cold_start_is_the_paired_t_test():
    d = np.random.default_rng(1).normal(0.01, 0.03, (7, 1))
    found = estimate.of(d, COLD)
    test = stats.ttest_1samp(d[:, 0], 0, alternative="greater")
    assert found.p_reg[0] == pytest.approx(test.pvalue)
    assert found.df[0] == 6
    assert estimate.ordinary(d)[0][0] == pytest.approx(test.pvalue)
    assert estimate.ordinary(d)[1][0] == pytest.approx(1 - test.pvalue)


def test_no_spread_at_all():
    """Equal differences: sure of a shift, undecided without one; never NaN."""
    same = estimate.of(np.zeros((3, 1)), COLD)
    assert (same.p_reg[0], same.p_imp[0]) == (0.5, 0.5)
    moved = estimate.of(np.full((3, 1), 0.5), COLD)
    assert (moved.p_reg[0], moved.p_imp[0]) == (0.0, 1.0)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=10), st.sampled_from([0.001, 0.03, 0.5]))
@settings(max_examples=50, deadline=None)
def test_turning_the_sign_turns_the_estimate(values, s0):
    d = np.array(values)[:, None]
    one, other = estimate.of(d, noise(s0, 42.0)), estimate.of(-d, noise(s0, 42.0))
    assert one.m[0] == -other.m[0]
    assert one.se[0] == other.se[0]
    assert one.p_reg[0] == other.p_imp[0]


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=10))
@settings(max_examples=50, deadline=None)
def test_locations_settle_or_fall_back_to_the_median(values):
    d = np.array(values)[:, None]
    found = estimate.location(d, np.array([0.001]))
    assert min(values) - 1e-9 <= found[0] <= max(values) + 1e-9
    psi = np.clip((d[:, 0] - found[0]) / 0.001, -1.345, 1.345).sum()
    assert abs(psi) < 2.7  # one value's pull at most


def test_columns_are_alone(monkeypatch):
    """A column that doesn't settle (as the library says) gets its median, the others their own location."""
    import statsmodels.robust.norms as norms

    real = norms.estimate_location

    def stubborn(a, *args, **kwargs):
        if np.ndim(a) == 2 or np.max(a) > 50:
            raise ValueError("no")
        return real(a, *args, **kwargs)

    monkeypatch.setattr(norms, "estimate_location", stubborn)
    d = np.array([[0.1, 10.0], [0.2, 20.0], [0.3, 99.0]])
    assert estimate.location(d, np.array([1.0, 1.0])) == pytest.approx([0.2, 20.0])


@given(st.floats(-50, 50), st.floats(1, 200), st.floats(1e-9, 1 - 1e-9))
@settings(max_examples=50, deadline=None)
def test_tails_and_points_are_scipys(x, df, p):
    assert estimate.upper_tail(np.array([x]), df)[0] == pytest.approx(stats.t.sf(x, df), rel=1e-12)
    assert float(estimate.upper_point(p, df)) == pytest.approx(stats.t.isf(p, df), rel=1e-9, abs=1e-12)
