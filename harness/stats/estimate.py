"""Shift and its uncertainty, from few pairs and an archive's scale: the moderated t-test on a Huber location.

Works on arrays of shape (pairs, metrics), all metrics at once. The model is normal with a scaled inverse
chi-squared prior on the variance, so the one-sided p is P(shift <= 0 | data) under a flat prior on the shift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.stats.pairs import Bools, Floats
from harness.stats.scale import CLIP, Scale

HUBER_K = 1.345
ITERATIONS = 500  # at the library's 30 one sample in thousands doesn't settle
LOSS = 1.05  # variance of the Huber location relative to the mean's, under normal noise


@dataclass(frozen=True)
class Estimate:
    """By metric. m: shift of d (log, larger is worse); s: scale; se: standard error of m; df; one-sided p of
    a shift for the worse and for the better; cold: no archive to lean on."""

    n: int
    m: Floats
    s: Floats
    se: Floats
    df: Floats
    p_reg: Floats
    p_imp: Floats
    cold: Bools


def of(d: Floats, scale: Scale) -> Estimate:
    """Estimate from differences d of shape (pairs, metrics); at least two pairs."""
    n = len(d)
    cold = scale.cold
    s0 = np.where(cold, 1.0, scale.s0)
    m = np.where(cold, d.mean(axis=0), location(d, s0))
    off = d - m
    inside = np.clip(off, -CLIP * s0, CLIP * s0)
    own = np.where(cold, off**2, inside**2).sum(axis=0) / (n - 1)
    nu0 = np.where(cold, 0.0, scale.nu0)
    df = nu0 + n - 1
    s = np.sqrt(np.where(cold, own, (nu0 * s0**2 + (n - 1) * own) / df))
    se = s * np.sqrt(np.where(cold, 1.0, LOSS) / n)
    p_reg, p_imp = tails(m, se, df)
    return Estimate(n, m, s, se, df, p_reg, p_imp, cold)


def location(d: Floats, s0: Floats) -> Floats:
    """Huber location of each column with its fixed scale, k = 1.345; the median where it doesn't settle."""
    from statsmodels.robust.norms import HuberT, estimate_location

    norm = HuberT(HUBER_K)
    try:
        return np.asarray(estimate_location(d, s0, norm, maxiter=ITERATIONS), np.float64)
    except ValueError:
        pass
    found = np.median(d, axis=0)
    for j, column in enumerate(d.T):
        try:
            found[j] = estimate_location(column, s0[j], norm, maxiter=ITERATIONS)
        except ValueError:
            continue
    return found


def tails(m: Floats, se: Floats, df: Floats | float) -> tuple[Floats, Floats]:
    """One-sided p of m/se under Student's t: upper tail, lower tail. Without any spread: 0, 1 or a half."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((se == 0) & (m == 0), 0.0, m / se)
    return upper_tail(ratio, df), upper_tail(-ratio, df)


def upper_tail(x: Floats, df: Floats | float) -> Floats:
    """P(T > x) of Student's t: what scipy.stats.t.sf computes, without its hundredfold checks of arguments."""
    from scipy.special import stdtr

    return np.asarray(stdtr(df, -x), np.float64)


def upper_point(p: float, df: Floats | float) -> Floats:
    """x with P(T > x) = p, as scipy.stats.t.isf."""
    from scipy.special import stdtrit

    return np.asarray(-stdtrit(df, p), np.float64)


def with_error(estimate: Estimate, se: Floats) -> Estimate:
    """The same with other standard errors."""
    p_reg, p_imp = tails(estimate.m, se, estimate.df)
    return replace(estimate, se=se, p_reg=p_reg, p_imp=p_imp)


def ordinary(d: Floats) -> tuple[Floats, Floats]:
    """One-sided p of the ordinary paired t-test for each column: for the worse, for the better."""
    n = len(d)
    return tails(d.mean(axis=0), d.std(axis=0, ddof=1) / np.sqrt(n), float(n - 1))
