"""The open loop's schedule: when requests are due, whatever became of those before.

A pure function of (scenario, seed). A renewal process of unit rate (constant, Poisson or gamma gaps) is
laid over the integral of the wanted rate, so that stages and phases only stretch it: with Poisson gaps
that is the inhomogeneous Poisson process of that rate exactly. Of n processes that share the load, number
i takes arrivals i, i + n, i + 2n, ...: what is sent is the same for any n. Seconds count from the start of
the load (warm-up included).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import msgspec

from harness.core import ids, phases
from harness.core.trace import Row

if TYPE_CHECKING:
    from harness.core.config import Load


USERS_FROM = 1 << 40  # numbers of the open loop's users, one for each arrival, are above all others


class Stage(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A stretch at one rate, or (to_per_s) from one rate to another in a straight line."""

    duration_s: float
    rate_per_s: float
    to_per_s: float | None = None


class Arrivals(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests come by a clock of their own. Of `rate_per_s` and `stages` exactly one; a trace has neither.

    burstiness: of gamma gaps, 1 / their squared coefficient of variation: 1 is Poisson, 0.25 comes in
    bursts, 4 is nearly regular. Stages count from the end of warm-up; before and after, the first and last
    rate hold. trace: rows of `file` (JSON lines with timestamp in ms, input_length, output_length,
    hash_ids), from offset_s of the trace on, speed_ratio times as fast, lengths times length_ratio.
    """

    process: Literal["constant", "poisson", "gamma", "trace"] = "poisson"
    rate_per_s: float | None = None
    stages: list[Stage] = []
    burstiness: float = 1
    max_in_flight: int | None = None  # requests over it wait for their turn, on record
    file: str | None = None
    sha256: str | None = None  # of the file, when the scenario was loaded
    speed_ratio: float = 1
    offset_s: float = 0
    length_ratio: float = 1


@dataclass(frozen=True, slots=True)
class Arrival:
    """Request `index` of the whole load. `row`: what a trace says about it."""

    index: int
    due_s: float
    row: Row | None = None


class Rate:
    """The wanted rate over time: pieces of a straight line each, integrated and inverted exactly."""

    def __init__(self, load: Load) -> None:
        arrivals = load.arrivals
        assert arrivals is not None
        pieces = _pieces(arrivals, load)
        self._starts = [start for start, _, _, _ in pieces]
        self._pieces = pieces
        self._sums = [0.0]
        for start, end, low, high in pieces[:-1]:
            self._sums.append(self._sums[-1] + (end - start) * (low + high) / 2)

    def at(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        start, end, low, high = self._pieces[max(0, bisect_right(self._starts, t_s) - 1)]
        share = 0.0 if math.isinf(end) else (t_s - start) / (end - start)
        return low + (high - low) * share

    def count(self, t_s: float) -> float:
        """How many are expected from 0 to `t_s`."""
        n = max(0, bisect_right(self._starts, t_s) - 1)
        start = self._pieces[n][0]
        return self._sums[n] + (t_s - start) * (self._pieces[n][2] + self.at(t_s)) / 2

    def when(self, count: float) -> float:
        """The time by which `count` are expected; infinite when that never comes."""
        n = max(0, bisect_right(self._sums, count) - 1)
        start, end, low, high = self._pieces[n]
        rest = count - self._sums[n]
        if rest <= 0:
            return start
        slope = 0.0 if math.isinf(end) else (high - low) / (end - start)
        if slope:  # rest = low t + slope t^2 / 2, in the form that doesn't cancel
            return start + 2 * rest / (low + math.sqrt(max(0.0, low * low + 2 * slope * rest)))
        return start + rest / low if low else math.inf


def _pieces(arrivals: Arrivals, load: Load) -> list[tuple[float, float, float, float]]:
    """(start, end, rate at the start, rate at the end) from 0 on, without holes; the last one is endless."""
    stages = arrivals.stages or [Stage(load.duration_s, arrivals.rate_per_s or 0)]
    corners: list[tuple[float, float, float, float]] = []
    at_s = load.warmup_s
    for stage in stages:
        to = stage.rate_per_s if stage.to_per_s is None else stage.to_per_s
        corners.append((at_s, at_s + stage.duration_s, stage.rate_per_s, to))
        at_s += stage.duration_s
    first, last = corners[0][2], corners[-1][3]
    if load.warmup_s:
        corners.insert(0, (0.0, load.warmup_s, first, first))
    corners.append((at_s, math.inf, last, last))
    return _in_phases(corners, load)


def _in_phases(
    pieces: list[tuple[float, float, float, float]], load: Load
) -> list[tuple[float, float, float, float]]:
    """Cut at the edges of phases, each part times its phase's rate_ratio."""
    edges = [load.warmup_s + span.start_s for span in phases.spans(load)[1:]]
    found = []
    for start, end, low, high in pieces:
        marks = [start, *(edge for edge in edges if start < edge < end), end]
        for a, b in pairwise(marks):
            span = phases.at(load, a - load.warmup_s)
            ratio = 1.0 if span is None else span.phase.rate_ratio
            slope = 0.0 if math.isinf(end) else (high - low) / (end - start)
            found.append((a, b, ratio * (low + slope * (a - start)),
                          ratio * (high if math.isinf(b) else low + slope * (b - start))))  # fmt: skip
    return found


def gaps(arrivals: Arrivals, r: random.Random) -> Iterator[float]:
    """Endless gaps of mean 1 between arrivals, the first one before the first arrival."""
    if arrivals.process == "constant":
        yield 0.5  # never in step with the second, nor with the start
        while True:
            yield 1.0
    shape = arrivals.burstiness
    while True:
        yield r.expovariate(1) if arrivals.process == "poisson" else r.gammavariate(shape, 1 / shape)


def schedule(load: Load, seed: int, rows: list[Row] | None = None) -> Iterator[Arrival]:
    """Every arrival in order of time: endless, or as long as the trace (`rows`)."""
    arrivals = load.arrivals
    assert arrivals is not None
    if arrivals.process == "trace":
        for index, row in enumerate(rows or []):
            yield Arrival(index, row.timestamp_ms / 1000 / arrivals.speed_ratio, row)
        return
    rate, total = Rate(load), 0.0
    for index, gap in enumerate(gaps(arrivals, ids.rng(seed, "arrivals"))):
        total += gap
        due_s = rate.when(total)
        if math.isinf(due_s):
            return
        yield Arrival(index, due_s)


def shown(arrivals: Arrivals) -> str:
    """For people."""
    cap = "" if arrivals.max_in_flight is None else f", at most {arrivals.max_in_flight} in flight"
    if arrivals.process == "trace":
        return (
            f"trace {arrivals.file}, speed x {arrivals.speed_ratio:g}, from {arrivals.offset_s:g} s on{cap}"
        )
    gamma = f" (burstiness {arrivals.burstiness:g})" if arrivals.process == "gamma" else ""
    if not arrivals.stages:
        return f"{arrivals.process}{gamma}, {arrivals.rate_per_s:g}/s{cap}"
    parts = [
        f"{s.rate_per_s:g}/s"
        + ("" if s.to_per_s is None else f" to {s.to_per_s:g}/s")
        + f" for {s.duration_s:g} s"
        for s in arrivals.stages
    ]
    return f"{arrivals.process}{gamma}, {', '.join(parts)}{cap}"
