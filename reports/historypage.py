"""The history page: a small chart for each metric, candidate/pinned by night, with the points of change.

Self-contained like the report: styles and SVG inline, nothing loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reports import html, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 130, 46, 10, 12, 26
MIN_SPAN = 0.05  # of a chart's axis: 1% of noise must not look like a cliff


class NightLike(Protocol):
    """What a night must tell."""

    @property
    def at(self) -> str: ...
    @property
    def candidate(self) -> str: ...
    @property
    def status(self) -> str: ...


class PointLike(Protocol):
    """What a point of change must tell; index counts the nights that have a value."""

    @property
    def index(self) -> int: ...
    @property
    def before(self) -> float: ...
    @property
    def after(self) -> float: ...


@dataclass(frozen=True)
class Chart:
    """One metric in SVG units. dots: (x, y, status, title); changes: (x, label); steps: (x1, x2, y) of means."""

    metric: str
    window: str
    dots: tuple[tuple[float, float, str, str], ...]
    line: str
    one: float | None
    changes: tuple[tuple[float, str], ...]
    steps: tuple[tuple[float, float, float], ...]
    low: str
    high: str
    newest: str


def render(
    nights: Sequence[NightLike], series: Mapping[tuple[str, str], Sequence[float | None]],
    points: Mapping[str, Sequence[PointLike]], scenario: str, pinned: str,
) -> str:  # fmt: skip
    """The page; series that changed come first."""
    charts = [
        chart(name, values, points.get(" @ ".join(name), ()), nights) for name, values in series.items()
    ]
    charts.sort(key=lambda one: not one.changes)
    context: dict[str, Any] = {
        "charts": charts, "scenario": scenario, "pinned": pinned, "nights": nights, "changed": sum(bool(one.changes) for one in charts),
        "looked": bool(points), "tones": html.COMPARED_TONES | {"fail": "bad"}, "css": html.styles(),
        "width": WIDTH, "height": HEIGHT,
    }  # fmt: skip
    return html.templates().get_template("history.html.jinja").render(context)


def chart(
    name: tuple[str, str], values: Sequence[float | None], points: Sequence[PointLike],
    nights: Sequence[NightLike],
) -> Chart:  # fmt: skip
    """Geometry of one series; nights without a value leave a gap."""
    there = [(n, value) for n, value in enumerate(values) if value is not None]
    low, high = min(v for _, v in there), max(v for _, v in there)
    pad = max(0.0, MIN_SPAN - (high - low)) / 2 + 0.04 * (high - low)
    low, high = low - pad, high + pad

    def x(n: float) -> float:
        return round(LEFT + n / max(1, len(values) - 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    dots = tuple(
        (x(n), y(value), nights[n].status,
         f"{nights[n].at[:10]}: {text.signed_percent(value - 1)} with {nights[n].candidate}, {nights[n].status}")
        for n, value in there
    )  # fmt: skip
    edges = [0, *(point.index for point in points), len(there)]
    steps = tuple(
        (x(there[a][0]), x(there[b - 1][0]), y(sum(v for _, v in there[a:b]) / (b - a)))
        for a, b in itertools.pairwise(edges)
        if points and b > a
    )
    changes = tuple(
        (x(there[point.index][0] - 0.5), text.signed_percent(point.after / point.before - 1))
        for point in points
    )
    return Chart(
        metric=name[0], window=name[1], dots=dots, line=" ".join(f"{a},{b}" for a, b, _, _ in dots),
        one=y(1.0) if low <= 1.0 <= high else None, changes=changes, steps=steps,
        low=text.signed_percent(low - 1), high=text.signed_percent(high - 1),
        newest=text.signed_percent(there[-1][1] - 1),
    )  # fmt: skip
