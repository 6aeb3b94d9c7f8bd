"""Guard against a night that is noisier than the archive: borrowed variance is too small then.

Tonight's spread of the pairs around their own shift is held against what the same number of archived pairs
shows when drawn again and again. Shifts don't enter: each draw is centred on its own location.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from harness.stats import estimate as estimating
from harness.stats.estimate import Estimate
from harness.stats.pairs import Bools, Floats
from harness.stats.scale import CLIP, COLD, History, Scale

DRAWS = 2000
SEED = 0  # the reference is part of the method: the same archive gives the same verdict
STEPS = 100
DROP_TWO_FROM = 7  # pairs


@dataclass(frozen=True)
class Guard:
    """Tonight's spread `lam` against the archive's median and 99% quantile of it; None: no reference."""

    lam: float
    median: float | None
    limit: float | None

    @property
    def noisier(self) -> bool:
        return self.limit is not None and self.lam > self.limit

    @property
    def inflation(self) -> float:
        """Factor on the archive's scale, at least 1."""
        return float(np.sqrt(max(1.0, self.lam / self.median))) if self.median else 1.0


def of(d: Floats, m: Floats, history: History, scale: Scale) -> Guard:
    """The guard for differences d (pairs, metrics) around their locations m, over metrics with a scale."""
    warm = ~scale.cold
    if not warm.any():
        return Guard(float("nan"), None, None)
    s0 = scale.s0[warm]
    lam = float(spread(d[None, :, warm], m[None, None, warm], s0)[0])
    archived = history.d[:, warm]
    archived = archived[np.isfinite(archived).any(axis=1)]
    n = len(d)
    if len(archived) < max(COLD, n):
        return Guard(lam, None, None)
    median, limit = reference(archived.tobytes(), archived.shape, s0.tobytes(), n)
    return Guard(lam, median, limit)


def spread(d: Floats, m: Floats, s0: Floats) -> Floats:
    """lambda of each draw of d (draws, pairs, metrics): how many times the archive's variance.

    q = mean over metrics of clip((d - m)/s0, -2.5, 2.5)^2 for each pair; the largest (from 7 pairs on two)
    dropped, because single outlier runs are no noisy night; sum of the k kept / (k - .5).
    """
    q = np.nanmean(np.clip((d - m) / s0, -CLIP, CLIP) ** 2, axis=2)
    n = q.shape[1]
    kept = n - (2 if n >= DROP_TWO_FROM else 1)
    found: Floats = np.sort(q, axis=1)[:, :kept].sum(axis=1) / (kept - 0.5)
    return found


@lru_cache(maxsize=64)
def reference(archived: bytes, shape: tuple[int, int], s0: bytes, n: int) -> tuple[float, float]:
    """Median and 99% quantile of lambda over 2000 draws of n archived pair vectors without replacement.

    By value, so that each archive and n is drawn once. Outliers are in it at the archive's own rate.
    """
    vectors = np.frombuffer(archived).reshape(shape)
    scales = np.frombuffer(s0)
    rng = np.random.default_rng(SEED)
    rows = np.stack([rng.choice(len(vectors), n, replace=False) for _ in range(DRAWS)])
    drawn = vectors[rows]
    lam = spread(drawn, _locations(drawn, scales), scales)
    return float(np.median(lam)), float(np.quantile(lam, 0.99))


def _locations(drawn: Floats, s0: Floats) -> Floats:
    """Huber location over the pairs of each draw, shape (draws, 1, metrics); 0 where no pair has the metric.

    The root that estimate.location finds, for many draws at once and without what is missing: Newton's
    steps on Huber's psi, which is linear between its corners, so that a few of them end.
    """
    z = np.moveaxis(drawn / s0, 1, 2).reshape(-1, drawn.shape[1])
    there = np.isfinite(z)
    mu = _medians(z, there)
    z = np.where(there, z, 0.0)
    left = np.arange(len(z))
    for _ in range(STEPS):
        off = np.where(there[left], z[left] - mu[left, None], 0.0)
        pull = np.clip(off, -estimating.HUBER_K, estimating.HUBER_K).sum(axis=1)
        linear = (there[left] & (np.abs(off) < estimating.HUBER_K)).sum(axis=1)
        step = pull / np.maximum(linear, 1)
        mu[left] += step
        left = left[np.abs(step) >= 1e-6]
        if not len(left):
            break
    return mu.reshape(len(drawn), 1, drawn.shape[2]) * s0


def _medians(z: Floats, there: Bools) -> Floats:
    """Median of what is there in each row, 0 where nothing is."""
    if there.all():
        return np.asarray(np.median(z, axis=1), np.float64)
    ordered = np.sort(np.where(there, z, np.inf), axis=1)
    count = there.sum(axis=1)
    rows = np.arange(len(z))
    low, high = ordered[rows, np.maximum(count - 1, 0) // 2], ordered[rows, count // 2]
    return np.where(count == 0, 0.0, np.where(count % 2 == 1, low, (low + high) / 2))


def apply(estimate: Estimate, guard: Guard, d: Floats, scale: Scale) -> Estimate:
    """Standard errors no smaller than tonight's noise allows; in a noisier night no p below the paired t-test's."""
    if guard.limit is None:
        return estimate
    least = np.where(scale.cold, 0.0, scale.s0 * guard.inflation * np.sqrt(estimating.LOSS / estimate.n))
    found = estimating.with_error(estimate, np.maximum(estimate.se, least))
    if not guard.noisier:
        return found
    p_reg, p_imp = estimating.ordinary(d)
    return replace(found, p_reg=np.maximum(found.p_reg, p_reg), p_imp=np.maximum(found.p_imp, p_imp))
