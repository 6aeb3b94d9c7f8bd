"""One look at the first n pairs: what each metric says at this look's levels, and what the run says.

Also what it would take to be sure: the smallest change that this look finds, and how many more pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats import estimate as estimating
from harness.stats import guard as guarding
from harness.stats.estimate import Estimate
from harness.stats.guard import Guard
from harness.stats.pairs import Bools, Floats
from harness.stats.plan import GatingMetric, Look
from harness.stats.scale import History, Scale

POWER = 0.9  # of the smallest change found
BELOW_FLOOR = "real, below practical floor"


@dataclass(frozen=True)
class Result:
    """One look. tested: which of all metrics took part; everything else is about those, in their order."""

    look: Look
    tested: Bools
    status: str  # regression | improvement | pass | inconclusive
    statuses: tuple[str, ...]
    notes: tuple[str, ...]
    estimate: Estimate
    guard: Guard
    mde: Floats  # ratio
    more_pairs: tuple[int | None, ...]


def at(
    look: Look, last: Look, d: Floats, metrics: Sequence[GatingMetric], tested: Bools, history: History,
    scale: Scale,
) -> Result:  # fmt: skip
    """The look at d, shape (pairs, metrics), of which the first look.n pairs count.

    tested: metrics that take part. The others keep their place in Holm's correction, with p = 1. last: the
    plan's last look, which more pairs would lead to.
    """
    d = d[: look.n]
    part = [j for j, one in enumerate(tested) if one]
    ours = Scale(scale.s0[part], scale.nu0[part], scale.pairs[part])
    estimate = estimating.of(d[:, part], ours)
    guard = guarding.of(d[:, part], estimate.m, History(history.d[:, part], history.aa, history.c), ours)
    estimate = guarding.apply(estimate, guard, d[:, part], ours)
    chosen = [metrics[j] for j in part]
    statuses, notes = verdicts(estimate, chosen, look, len(metrics))
    return Result(
        look, tested, overall(statuses), statuses, notes, estimate, guard,
        smallest_found(estimate, look, len(metrics)), more_pairs(estimate, chosen, statuses, last, len(metrics)),
    )  # fmt: skip


def until_decided(
    looks: Sequence[Look],
    d: Floats,
    metrics: Sequence[GatingMetric],
    tested: Callable[[int], Bools],
    history: History,
    scale: Scale,
) -> Result | None:
    """The first look that decides, else the last one that there are pairs for; None: nothing could be tested.

    tested(n): metrics that take part when n pairs are looked at.
    """
    result = None
    for look in looks:
        part = tested(look.n) if look.n <= len(d) else np.zeros(len(metrics), np.bool_)
        if part.any():
            result = at(look, looks[-1], d, metrics, part, history, scale)
            if result.status != "inconclusive":
                break
    return result


def verdicts(
    estimate: Estimate, metrics: Sequence[GatingMetric], look: Look, size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Status and note of each metric.

    regression: p, Holm-adjusted over `size` pre-registered metrics, below alpha and the shift at least the
    floor; improvement: the same the other way; pass: the upper bound at level beta below the margin.
    """
    worse = holm(estimate.p_reg, size) < look.alpha
    better = holm(estimate.p_imp, size) < look.alpha
    floor = np.log1p([one.floor for one in metrics])
    margin = np.log1p([one.margin for one in metrics])
    passes = estimate.m + estimating.upper_point(look.beta, estimate.df) * estimate.se < margin
    regression = worse & (estimate.m >= floor)
    improvement = better & (-estimate.m >= floor)
    statuses = np.select(
        [regression, improvement, passes], ["regression", "improvement", "pass"], "inconclusive"
    )
    small = (worse | better) & (statuses == "pass")
    return tuple(map(str, statuses)), tuple(BELOW_FLOOR if one else "" for one in small)


def holm(p: Floats, size: int) -> Floats:
    """Holm-adjusted p of the tests that were made, of `size` planned ones (Holm 1979).

    statsmodels' multipletests gives the same and collects garbage at every call, which costs more time
    than all the rest of a verdict.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (size - np.arange(len(p))))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def overall(statuses: Sequence[str]) -> str:
    """Regression if any; else pass if all pass (each at its own level: all must); else inconclusive."""
    if "regression" in statuses:
        return "regression"
    if "inconclusive" in statuses:
        return "inconclusive"
    return "improvement" if "improvement" in statuses else "pass"


def _reach(df: Floats, look: Look, size: int) -> Floats:
    """Standard errors between no change and one that is named with 90% power."""
    return estimating.upper_point(look.alpha / size, df) + estimating.upper_point(1 - POWER, df)


def smallest_found(estimate: Estimate, look: Look, size: int) -> Floats:
    """Ratio of the smallest change for the worse that this look names with 90% power."""
    return np.asarray(np.expm1(np.minimum(_reach(estimate.df, look, size) * estimate.se, 50.0)))


def more_pairs(
    estimate: Estimate, metrics: Sequence[GatingMetric], statuses: Sequence[str], last: Look, size: int
) -> tuple[int | None, ...]:
    """Pairs beyond these that an open metric needs to name a change of its margin at the last look's level;
    None where decided."""
    margin = np.log1p([one.margin for one in metrics])
    variance = np.maximum(estimating.LOSS * estimate.s**2, estimate.se**2 * estimate.n)
    needed = np.ceil(_reach(estimate.df, last, size) ** 2 * variance / margin**2) - estimate.n
    return tuple(
        max(1, int(more)) if status == "inconclusive" else None
        for more, status in zip(needed, statuses, strict=True)
    )
