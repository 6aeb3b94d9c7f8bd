"""The guard: what a noisier session looks like, and that shifts don't move it."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.robust.norms import HuberT, estimate_location

from harness.stats import estimate, guard, scale
from harness.stats.scale import History

MANY = 60


def history(pairs=MANY, metrics=4, sd=0.03, seed=0):
    d = np.random.default_rng(seed).normal(0, sd, (pairs, metrics))
    return History(d, np.ones(pairs, bool), np.full(pairs, np.nan))


def judged(d, past):
    noise = scale.of(past)
    first = estimate.of(d, noise)
    found = guard.of(d, first.m, past, noise)
    return first, found, guard.apply(first, found, d, noise)


def test_lambda_by_hand():
    """One metric, s0 = 1, location 0: squares 1, 4, 6.25 (clipped), 0; the largest dropped; 5 / (3 - .5)."""
    d = np.array([1.0, -2.0, 9.0, 0.0]).reshape(1, 4, 1)
    assert guard.spread(d, np.zeros((1, 1, 1)), np.ones(1)) == pytest.approx([5 / 2.5])
    seven = np.array([1.0, -2.0, 9.0, 9.0, 0.0, 1.0, 1.0]).reshape(1, 7, 1)
    assert guard.spread(seven, np.zeros((1, 1, 1)), np.ones(1)) == pytest.approx([7 / 4.5])
    two = np.stack([d[0, :, 0], np.zeros(4)], axis=1)[None]
    assert guard.spread(two, np.zeros((1, 1, 2)), np.ones(2)) == pytest.approx([2.5 / 2.5])


def test_the_reference_is_the_same_statistic_of_drawn_pairs():
    """Drawn here one by one, with the library's location."""
    past = history(metrics=2)
    s0 = scale.of(past).s0
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        d = past.d[draw.choice(MANY, 5, replace=False)]
        m = [estimate_location(d[:, j], s0[j], HuberT(1.345), maxiter=500) for j in range(2)]
        q = np.sort((np.clip((d - m) / s0, -2.5, 2.5) ** 2).mean(axis=1))
        found.append(q[:4].sum() / 3.5)
    median, limit = guard.reference(past.d.tobytes(), past.d.shape, s0.tobytes(), 5)
    assert median == pytest.approx(np.median(found), rel=1e-5)
    assert limit == pytest.approx(np.quantile(found, 0.99), rel=1e-5)


def test_a_session_as_noisy_as_the_archive_passes_the_guard():
    d = np.random.default_rng(9).normal(0, 0.03, (5, 4))
    _, found, after = judged(d, history())
    assert not found.noisier
    assert found.inflation < 1.5
    s0 = scale.of(history()).s0
    assert (after.se >= s0 * found.inflation * np.sqrt(1.05 / 5) - 1e-12).all()


def test_a_noisier_session_is_named_and_believes_only_itself():
    d = np.random.default_rng(9).normal(0, 0.15, (5, 4))
    first, found, after = judged(d, history())
    assert found.noisier
    assert (after.se > first.se).all()
    assert (after.p_reg >= estimate.ordinary(d)[0]).all()
    assert (after.p_imp >= estimate.ordinary(d)[1]).all()


def test_a_shift_is_no_noise():
    d = np.random.default_rng(9).normal(0, 0.03, (5, 4))
    _, still, _ = judged(d, history())
    _, moved, _ = judged(d + 0.4, history())
    assert moved.lam == pytest.approx(still.lam, rel=1e-3)


def test_one_outlier_run_is_no_noisy_session():
    d = np.random.default_rng(9).normal(0, 0.03, (5, 4))
    d[2] += 0.5
    _, found, _ = judged(d, history())
    assert not found.noisier


@pytest.mark.parametrize(
    ("pairs", "n", "skipped"), [(11, 5, True), (12, 5, False), (12, 12, False), (12, 13, True)]
)
def test_skipped_where_the_archive_is_too_small(pairs, n, skipped):
    past = history(pairs)
    noise = scale.Scale(np.full(4, 0.03), np.full(4, 8.0), np.full(4, 12))
    d = np.random.default_rng(9).normal(0, 0.03, (n, 4))
    m = estimate.of(d, noise).m
    found = guard.of(d, m, past, noise)
    assert (found.limit is None) == skipped
    assert found.inflation >= 1.0
    if skipped:
        first = estimate.of(d, noise)
        assert guard.apply(first, found, d, noise) is first


def test_a_metric_that_an_archived_pair_lacks_is_left_out_of_its_mean():
    past = history()
    holes = past.d.copy()
    holes[::2, 3] = np.nan
    s0 = scale.of(past).s0
    with_holes = guard.reference(holes.tobytes(), holes.shape, s0.tobytes(), 5)
    without = guard.reference(past.d.tobytes(), past.d.shape, s0.tobytes(), 5)
    assert with_holes != without
    assert with_holes[0] == pytest.approx(without[0], rel=0.2)


def test_locations_of_draws_without_holes_and_with():
    draw = np.random.default_rng(4)
    d = draw.normal(0, 1, (50, 6, 2))
    d[:, 3] *= 20
    s0 = np.array([1.0, 0.7])
    wanted = np.stack([estimate.location(one, s0) for one in d])
    assert guard._locations(d, s0)[:, 0] == pytest.approx(wanted, abs=1e-5)
    padded = np.concatenate([d, np.full((50, 1, 2), np.nan)], axis=1)
    assert guard._locations(padded, s0)[:, 0] == pytest.approx(wanted, abs=1e-5)


def test_metrics_without_a_scale_take_no_part():
    past = history()
    holes = past.d.copy()
    holes[8:, 3] = np.nan
    cold = History(holes, past.aa, past.c)
    d = np.random.default_rng(9).normal(0, 0.03, (5, 4))
    wild = d.copy()
    wild[:, 3] *= 100
    _, calm, _ = judged(d, cold)
    _, also, after = judged(wild, cold)
    assert also.lam == calm.lam
    assert after.cold.tolist() == [False, False, False, True]
