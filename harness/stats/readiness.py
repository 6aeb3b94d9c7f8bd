"""How right a target's own readiness was about a fault: when it turned, and for how long it was wrong.

Readiness is what the target's health URLs say, liveness (paths ending in /live) left out. Whether it
could serve is told by others: the fault's proof, the frontends' lists, the tokens that clients got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from harness.core.clock import NS
from harness.stats import events, health
from harness.stats.analysis import FaultEvent, Interval, Ints, Readiness
from harness.stats.events import SUDDEN
from harness.stats.health import GREEN, RED, States
from harness.stats.hurt import BIN_NS, bins_of, bins_within
from harness.stats.load import RunData
from harness.stats.segments import OPEN
from harness.stats.streams import ABSENT, Streams

METRICS = ("not_ready_s", "ready_s", "false_green_s", "false_red_s")
LASTING_NS = 5 * NS  # green for so long (or until the next fault on the target): ready
SILENT_BINS = 10  # 1 s without a token, while streams wait for one: it doesn't serve
CANNOT, SERVES = -1, 1  # 0: nobody can tell
GONE = SUDDEN | {"process.terminate", "process.pause"}
"""Faults under which a target serves nobody new from their effect to their end, by their own proof."""


def by_fault(
    data: RunData, found: Sequence[FaultEvent], changes: pd.DataFrame, bins: int, horizon_ns: int
) -> Mapping[str, Readiness]:
    """Of each fault id that took effect; of several targets the worst, None when one is unknown."""
    probes = data.probes[~data.probes["path"].str.endswith("/live").to_numpy(bool)].reset_index(drop=True)
    signals = health.by_process(health.signals(probes, bins), bins)
    result = {}
    for fault_id in events.fault_ids(found):
        seen = []
        for e in events.of_id(found, fault_id):
            mine = probes[(probes["process"] == e.target).to_numpy(bool)]
            later = [x.effective_ns for x in found if x.target == e.target and x.fault_id != fault_id]
            until = min(
                [t for t in later if t is not None and t > (e.end_ns or horizon_ns)], default=horizon_ns
            )
            wrong = _wrong_s(data, e, changes, signals.get(e.target), horizon_ns)
            seen.append((not_ready_s(mine, e, horizon_ns), ready_s(mine, e, until), *wrong))
        result[fault_id] = Readiness(*(_worst(column) for column in zip(*seen, strict=True)))
    return result


def not_ready_s(probes: pd.DataFrame, e: FaultEvent, horizon_ns: int) -> float | None:
    """Effective to the first red probe of the target's readiness, until the fault is over; None: never.

    A probe is red from its sending. 0 when it was under way before we measured the effect.
    """
    start = e.effective_ns or 0
    since = min(t for t in (e.injected_ns, start) if t is not None)
    red = probes[health.is_red(probes)]
    over = red["t_ns"] + red["latency_us"] * 1000
    red = red[((over >= since) & (red["t_ns"] < max(_over(e, horizon_ns), start + 1))).to_numpy(bool)]
    return None if red.empty else max(0, int(red["t_ns"].min()) - start) / NS


def ready_s(probes: pd.DataFrame, e: FaultEvent, until_ns: int) -> float | None:
    """Undo requested to the first green answer after which no probe is red for 5 s (or until `until_ns`).

    0 when it was green at the request and stayed so; None: never, or nobody looked.
    """
    undo = e.undo_requested_ns
    if undo is None or probes.empty:
        return None
    sent = probes["t_ns"].to_numpy(np.int64)
    answered = sent + probes["latency_us"].to_numpy(np.int64) * 1000
    red = health.is_red(probes)
    before = answered <= undo
    green_then = before.any() and not red[before][np.argmax(answered[before])]
    candidates = np.sort(answered[~red & (answered > undo) & (answered <= until_ns)])
    for at in ([undo] if green_then else []) + candidates.tolist():
        if not (red & (answered > at) & (sent < min(at + LASTING_NS, until_ns))).any():
            return float(at - undo) / NS
    return None


def _wrong_s(
    data: RunData, e: FaultEvent, changes: pd.DataFrame, states: States | None, horizon_ns: int
) -> tuple[float | None, float | None]:
    """(false green, false red): 100 ms bins from the effect until the target was recovered."""
    low, high = bins_within((e.effective_ns or 0, _over(e, horizon_ns)))
    truth = could_serve(data, e, changes, low, high, horizon_ns)
    if states is None or not truth.any():
        return None, None
    said = np.zeros(len(truth), np.int8)
    known = states[low : low + len(truth)]
    said[: len(known)] = known
    if not said.any():
        return None, None
    green = int(((truth == CANNOT) & (said == GREEN)).sum())
    red = int(((truth == SERVES) & (said == RED)).sum())
    return green * BIN_NS / NS, red * BIN_NS / NS


def could_serve(
    data: RunData, e: FaultEvent, changes: pd.DataFrame, low: int, high: int, horizon_ns: int
) -> States:
    """CANNOT, SERVES or 0 for each of the bins low..high-1.

    CANNOT: its process is gone or stopped, by the fault's proof; no frontend lists it; or its streams wait
    and none of them got a token for 1 s or more. SERVES: its streams get tokens, and it is listed.
    """
    truth = _by_tokens(data.requests, data.segments, e.target, low, high)
    absent = [_mask(spans, low, high) for spans in _absences(changes, e.target, horizon_ns)]
    if absent:
        truth[np.all(absent, axis=0)] = CANNOT
    if e.fault in GONE:
        end = next((t for t in (e.gone_ns, e.recovered_ns) if t is not None), horizon_ns)
        truth[_mask([(e.effective_ns or 0, end)], low, high)] = CANNOT
    return truth


def _by_tokens(s: Streams, segments: pd.DataFrame | None, target: str, low: int, high: int) -> States:
    """What the streams on a target say, which are known from the engines' segments alone."""
    length = max(0, high - low)
    if segments is None or not length:
        return np.zeros(length, np.int8)
    margin = 2 * SILENT_BINS
    first, bins = low - margin, length + 2 * margin
    ends = _until(segments)
    near = (segments["target"] == target).to_numpy() & (
        segments["start_ns"].to_numpy() < (high + margin) * BIN_NS
    )
    near &= ends > first * BIN_NS
    rows = {
        str(s.request_id[k]): k for k in np.flatnonzero(s.overlaps(first * BIN_NS, (high + margin) * BIN_NS))
    }
    arrivals: list[Ints] = []
    spans: list[Interval] = []
    for name, start, end in zip(
        segments["request_id"][near], segments["start_ns"][near], ends[near], strict=True
    ):
        row = rows.get(str(name))
        if row is None:
            continue
        left = min(int(end), int(s.end[row]))
        spans.append((int(start), left))
        if s.first[row] != ABSENT:
            gaps = np.cumsum(s.gaps_us[s.offsets[row] : s.offsets[row + 1]], dtype=np.int64) * 1000
            times = np.concatenate([[0], gaps]) + s.first[row]
            arrivals.append(times[(times >= start) & (times < left + BIN_NS)])
    at = np.sort(np.concatenate([np.zeros(0, np.int64), *arrivals]))
    close = np.flatnonzero(np.diff(at) < SILENT_BINS * BIN_NS)
    serving = _mask([(int(at[k]), int(at[k + 1]) + 1) for k in close], first, first + bins)
    waiting = _mask(spans, first, first + bins) & ~serving
    truth = np.where(serving, SERVES, 0).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], waiting.astype(np.int8), [0]])))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= SILENT_BINS:
            truth[begin:end] = CANNOT
    return truth[margin : margin + length]


def _until(segments: pd.DataFrame) -> Ints:
    """When each segment's stream left its engine: its end, or when the stream went on elsewhere."""
    following = (
        segments.sort_values("part").groupby("request_id")["start_ns"].shift(-1).reindex(segments.index)
    )
    later: Ints = following.fillna(OPEN).to_numpy(np.float64).clip(max=2.0**62).astype(np.int64)
    until: Ints = np.minimum(segments["end_ns"].to_numpy(np.int64), later)
    return until


def _absences(changes: pd.DataFrame, target: str, horizon_ns: int) -> list[tuple[Interval, ...]]:
    """By frontend: when it didn't list the target."""
    mine = changes[changes["worker"] == target]
    return [tuple(health.absent(rows, horizon_ns)) for _, rows in mine.groupby("process", sort=True)]


def _mask(spans: Sequence[Interval], low: int, high: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Bins low..high-1 that any of the intervals touches."""
    change = np.zeros(max(0, high - low) + 1, np.int64)
    for start, end in spans:
        a, b = bins_of((start, end))
        a, b = min(max(a, low), high) - low, min(max(b, low), high) - low
        if b > a:
            change[a] += 1
            change[b] -= 1
    return np.cumsum(change)[:-1] > 0


def _over(e: FaultEvent, horizon_ns: int) -> int:
    """When the target was recovered; the horizon when it never was."""
    return horizon_ns if e.recovered_ns is None else e.recovered_ns


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
