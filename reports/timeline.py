"""Analysis to Timeline: bins, shaded bands and health strips, bounded in size however long the run.

Knows the analysis' series and windows; draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core import phases
from harness.core.clock import NS
from harness.core.records import OUTCOMES
from harness.stats import health
from harness.stats.analysis import Analysis, Series
from reports.data import Band, Span, Strip, Timeline

MAX_BINS = 1200  # beyond, bins get longer
MAX_SPANS = 4000  # over all strips; beyond, each is sampled and keeps the worst state
HURT_BIN_S = 0.1
_WORST = {"green": 0, "unknown": 1, "hurt": 2, "silent": 2, "red": 2}

Floats = NDArray[np.float64]


def build(analysis: Analysis) -> Timeline | None:
    """The timeline; None when neither a request nor a fault is there to show."""
    series = analysis.series
    bins = len(series.t_s)
    ended = sum(int(np.sum(counts)) for counts in series.outcomes.values())
    if not bins or not (ended or analysis.events):
        return None
    step = math.ceil(bins / MAX_BINS)
    hurt = _per_second(series.hurt_t_s, np.asarray(series.hurt_clients, float), bins)
    return Timeline(
        bin_s=float(step),
        start_s=float(series.t_s[0]),
        tokens_per_s=_binned(series.tokens_per_s, step, np.nanmean),
        ttft_p50_ms=_binned(series.ttft_p50_ms, step, np.nanmedian),
        ttft_p99_ms=_binned(series.ttft_p99_ms, step, np.nanmax),
        stall_max_ms=_binned(_stalls_ms(series, bins), step, np.nanmax),
        in_flight=_binned(series.in_flight, step, np.nanmean),
        hurt=_binned(hurt, step, np.nanmax),
        outcomes=_outcomes(series, step),
        bands=_bands(analysis),
        strips=_strips(analysis),
        slo_ttft_ms=analysis.data.scenario.slo.ttft_ms,
    )


def _binned(values: Floats, step: int, merge: Callable[[Any], Any]) -> list[float | None]:
    """`step` values made one by `merge`; None where all of them are NaN."""
    values = np.asarray(values, float)
    found: list[float | None] = []
    for start in range(0, len(values), step):
        chunk = values[start : start + step]
        seen = chunk[np.isfinite(chunk)]
        found.append(round(float(merge(seen)), 3) if len(seen) else None)
    return found


def _outcomes(series: Series, step: int) -> dict[str, list[int]]:
    """Counts by bin of the kinds that occurred, in the order of OUTCOMES."""
    kinds = [kind for kind in OUTCOMES if kind in series.outcomes and np.sum(series.outcomes[kind])]
    starts = np.arange(0, len(series.t_s), step)
    return {kind: np.add.reduceat(series.outcomes[kind], starts).astype(int).tolist() for kind in kinds}


def _per_second(t_s: Floats, values: Floats, bins: int) -> Floats:
    """The largest value in each 1 s bin; 0 where there is none."""
    out = np.zeros(bins)
    at = np.clip(np.floor(np.asarray(t_s) + 1e-9).astype(int), 0, max(0, bins - 1))
    if bins:
        np.maximum.at(out, at, values)
    return out


def _stalls_ms(series: Series, bins: int) -> Floats:
    """The longest silence, ms, that overlaps each 1 s bin; NaN where there is none."""
    out = np.full(bins, np.nan)
    start, end = np.asarray(series.stall_start_s, float), np.asarray(series.stall_end_s, float)
    if not bins or not len(start):
        return out
    first = np.clip(np.floor(start + HURT_BIN_S).astype(int), 0, bins - 1)  # a sliver of a bin doesn't count
    last = np.clip(np.ceil(end - HURT_BIN_S).astype(int) - 1, first, bins - 1)
    length = last - first + 1
    at = np.repeat(first, length) + (np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length))
    np.fmax.at(out, at, np.repeat((end - start) * 1e3, length))
    return out


def _bands(analysis: Analysis) -> list[Band]:
    """Warm-up, the load's phases, then each fault's windows in order of time."""
    load = analysis.data.scenario.load
    bands = [Band(kind="warmup", fault_id="", label="warm-up", start_s=0.0, end_s=load.warmup_s)]
    levels = {f"phase:{phase.name}": phases.label(phase) for phase in load.phases}
    names: dict[str, str] = {}
    for event in analysis.events:
        target = f", {event.target}" if event.fault_id in names else f"{event.fault} on {event.target}"
        names[event.fault_id] = names.get(event.fault_id, "") + target
    for window in analysis.windows.values():
        if window.kind == "phase":
            bands += [
                Band(
                    kind="phase",
                    fault_id="",
                    label=levels.get(window.name, window.name),
                    start_s=a / NS,
                    end_s=b / NS,
                )
                for a, b in window.intervals
            ]
        if window.kind not in ("fault", "recovery") or window.fault_id is None:
            continue
        bands += [
            Band(
                kind="fault" if window.kind == "fault" else "recovery", fault_id=window.fault_id,
                label=names.get(window.fault_id, window.fault_id), start_s=start / NS, end_s=end / NS,
            )
            for start, end in window.intervals
        ]  # fmt: skip
    return [band for band in bands if band.end_s > band.start_s]


def _strips(analysis: Analysis) -> list[Strip]:
    """Clients hurt, hurt while readiness is green (silent_s), then each probed URL."""
    t_s = analysis.series.hurt_t_s
    hurt = np.asarray(analysis.series.hurt_clients) > 0
    signals = health.signals(analysis.data.probes, len(t_s))
    ready = health.combine(health.readiness(signals, analysis.data.sut), len(t_s))
    strips = [Strip(label="clients hurt", spans=_runs(t_s, hurt, "hurt"))]
    if signals:
        strips.append(Strip(label="silent", spans=_runs(t_s, hurt & (ready == health.GREEN), "silent")))
    processes = [one.process for one in signals]
    for one in signals:
        alone = processes.count(one.process) == 1
        spans = [Span(start, end, state) for start, end, state in health.spans(one.states)]
        strips.append(Strip(label=one.process if alone else f"{one.process} {one.path}", spans=spans))
    if sum(len(one.spans) for one in strips) <= MAX_SPANS:
        return strips
    limit = MAX_SPANS // len(strips)
    return [Strip(label=one.label, spans=thin(one.spans, limit)) for one in strips]


def _runs(t_s: Floats, on: NDArray[np.bool_], state: str) -> list[Span]:
    """Consecutive bins that are on, as spans."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    return [
        Span(round(float(t_s[first]), 3), round(float(t_s[stop - 1]) + HURT_BIN_S, 3), state)
        for first, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def thin(spans: Sequence[Span], limit: int) -> list[Span]:
    """At most `limit` spans: beyond, equal cells that keep the worst state they overlap."""
    if len(spans) <= limit:
        return list(spans)
    low, high = spans[0].start_s, max(span.end_s for span in spans)
    width = (high - low) / limit
    cells: list[str | None] = [None] * limit
    for span in spans:
        first = min(limit - 1, int((span.start_s - low) / width))
        last = min(limit - 1, max(first, math.ceil((span.end_s - low) / width) - 1))
        for n in range(first, last + 1):
            if cells[n] is None or _WORST[span.state] > _WORST[cells[n] or "green"]:
                cells[n] = span.state
    merged: list[Span] = []
    for n, state in enumerate(cells):
        if state is None:
            continue
        if merged and merged[-1].state == state and math.isclose(merged[-1].end_s, low + n * width):
            merged[-1] = Span(merged[-1].start_s, low + (n + 1) * width, state)
        else:
            merged.append(Span(low + n * width, low + (n + 1) * width, state))
    return merged
