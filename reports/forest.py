"""Geometry of the comparison's drawings, in SVG units: a forest plot of all metrics, and both arms' values of each.

Right is worse in the forest plot, whichever way a metric counts. Draws nothing; the template does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports import text
from reports.comparison_text import change
from reports.data import ComparedMetric

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 1000, 26, 250, 190, 8, 30
MIN_REACH, MAX_REACH = math.log(1.05), math.log(4)  # of the axis, to both sides
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CELL_WIDTH, CELL_HEIGHT, CELL_PAD = 300, 92, 14


@dataclass(frozen=True)
class Mark:
    """One metric's line. x in SVG units; low and high are the interval's ends, cut at the plot's edge."""

    y: float
    label: str
    window: str
    status: str
    low: float
    high: float
    at: float
    margin: float | None
    says: str
    title: str


@dataclass(frozen=True)
class Forest:
    """The whole plot. ticks: (x, label)."""

    height: int
    zero: float
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Dots:
    """Both arms' values of one metric: pairs as (x of A, x of B, title), medians as x."""

    metric: str
    window: str
    status: str
    pairs: tuple[tuple[float, float, str], ...]
    median_a: float
    median_b: float
    low: str
    high: str


def forest(metrics: Sequence[ComparedMetric]) -> Forest | None:
    """All metrics with an interval; None when there is none."""
    shown = [one for one in metrics if None not in (one.delta_ratio, one.ci_low, one.ci_high)]
    if not shown:
        return None
    reach = min(MAX_REACH, max(MIN_REACH, *(1.08 * _extent(one) for one in shown)))
    marks = tuple(_mark(one, n, reach) for n, one in enumerate(shown))
    ticks = [(0.0, "no change")]
    room = [one for one in TICKS if math.log1p(one) < 0.97 * reach][-3:]
    ticks += [(math.log1p(one), f"{text.percent(one)} worse") for one in room]
    ticks += [(-math.log1p(one), f"{text.percent(one)} better") for one in room]
    return Forest(
        TOP + ROW * len(shown) + BOTTOM, _x(0.0, reach), marks,
        tuple((_x(at, reach), label) for at, label in _apart(sorted(ticks), reach)),
    )  # fmt: skip


def dots(metrics: Sequence[ComparedMetric]) -> list[Dots]:
    """Metrics of which some pair has both values."""
    found = []
    for one in metrics:
        both = [
            (a, b) for a, b in zip(one.a_values, one.b_values, strict=True) if a is not None and b is not None
        ]
        finite = [(a, b) for a, b in both if math.isfinite(a) and math.isfinite(b)]
        if finite:
            found.append(_dots(one, finite))
    return found


def _worse(one: ComparedMetric, ratio: float) -> float:
    """A change as a log ratio, larger = worse."""
    log = math.log(max(1 + ratio, 1e-9))
    return -log if one.higher_is_better else log


def _extent(one: ComparedMetric) -> float:
    ends = [one.ci_low or 0.0, one.ci_high or 0.0, one.delta_ratio or 0.0]
    margin = math.log1p(one.margin_ratio) if one.margin_ratio else 0.0
    return max([margin, *(abs(_worse(one, end)) for end in ends)])


def _x(log: float, reach: float) -> float:
    share = (min(max(log, -reach), reach) + reach) / (2 * reach)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _mark(one: ComparedMetric, n: int, reach: float) -> Mark:
    low, high = sorted(_worse(one, end) for end in (one.ci_low or 0.0, one.ci_high or 0.0))
    margin = math.log1p(one.margin_ratio) if one.margin_ratio else None
    return Mark(
        y=TOP + ROW * n + ROW / 2, label=one.metric, window=one.window, status=one.status,
        low=_x(low, reach), high=_x(high, reach), at=_x(_worse(one, one.delta_ratio or 0.0), reach),
        margin=None if margin is None else _x(margin, reach),
        says=f"{text.signed_percent(one.delta_ratio)} {one.status}",
        title=f"{one.metric} in {one.window}: {change(one)}, {one.status}"
        + (f", margin {text.percent(one.margin_ratio)}" if one.margin_ratio else ""),
    )  # fmt: skip


def _apart(ticks: Sequence[tuple[float, str]], reach: float) -> list[tuple[float, str]]:
    """Ticks whose labels don't touch; no change always stays."""
    kept: list[tuple[float, str]] = [(0.0, "no change")]
    for at, label in sorted(ticks, key=lambda tick: -abs(tick[0])):
        if all(abs(_x(at, reach) - _x(other, reach)) > 95 for other, _ in kept):
            kept.append((at, label))
    return kept


def _dots(one: ComparedMetric, values: Sequence[tuple[float, float]]) -> Dots:
    flat = [value for pair in values for value in pair]
    low, high = min(flat), max(flat)
    span = (high - low) or abs(high) or 1.0
    left = low - (span if high == low else 0) / 2

    def x(value: float) -> float:
        wide = CELL_WIDTH - 2 * CELL_PAD - 20
        return round(CELL_PAD + 20 + (value - left) / span * wide, 1)

    medians = [sorted(arm)[len(arm) // 2] if len(arm) % 2 else sum(sorted(arm)[len(arm) // 2 - 1 :][:2]) / 2
               for arm in zip(*values, strict=True)]  # fmt: skip
    return Dots(
        metric=one.metric, window=one.window, status=one.status,
        pairs=tuple(
            (x(a), x(b), f"A {text.quantity(a, one.unit)}, B {text.quantity(b, one.unit)}") for a, b in values
        ),
        median_a=x(medians[0]), median_b=x(medians[1]),
        low=text.quantity(low, one.unit), high=text.quantity(high, one.unit),
    )  # fmt: skip
