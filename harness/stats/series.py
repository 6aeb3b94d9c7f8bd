"""Curves for plots: what users and health checks saw second by second."""

from __future__ import annotations

import numpy as np

from harness.core.clock import MS, NS
from harness.core.records import OUTCOMES
from harness.stats import health
from harness.stats.analysis import Floats, Ints, Series
from harness.stats.hurt import BIN_NS, Hurt
from harness.stats.streams import ABSENT, Streams

STALL_US = 250_000  # shorter gaps aren't drawn
MAX_STALLS = 2000  # the longest ones


def build(s: Streams, hurt: Hurt, signals: tuple[health.Signal, ...], bins: int) -> Series:
    """All curves from 0 to the run's last event (`bins` of 100 ms)."""
    seconds = max(1, -(-bins // 10))
    tokens = _tokens(s, seconds)
    stall = _stalls(s)
    clients = np.zeros(bins, np.int64)
    clients[: len(hurt.clients)] = hurt.clients[:bins]
    p50, p99 = _ttft(s, seconds)
    return Series(
        t_s=np.arange(seconds, dtype=float),
        tokens_per_s=tokens,
        in_flight=_in_flight(s, seconds),
        ttft_p50_ms=p50,
        ttft_p99_ms=p99,
        outcomes={name: _per_second(s.end[s.outcome == code], seconds) for code, name in enumerate(OUTCOMES)},
        hurt_t_s=np.asarray(np.arange(bins) * (BIN_NS / NS), float),
        hurt_clients=clients,
        stall_start_s=stall[0],
        stall_end_s=stall[1],
        stall_request_ids=stall[2],
        health={name: health.spans(states) for name, states in health.by_process(signals, bins).items()},
    )


def _per_second(t_ns: Ints, seconds: int) -> Ints:
    at = t_ns[(t_ns >= 0)] // NS
    return np.bincount(at[at < seconds], minlength=seconds).astype(np.int64)


def _tokens(s: Streams, seconds: int) -> Floats:
    first = s.first[s.first != ABSENT]
    tokens = _per_second(first, seconds)
    whole = s.whole_tokens(s.first >= 0)
    tokens = tokens + _per_second(np.repeat(s.first, whole), seconds)
    for gaps in s.chunks():
        tokens = tokens + _per_second(gaps.end_ns, seconds)
    return tokens.astype(float)


def _in_flight(s: Streams, seconds: int) -> Floats:
    """Mean number of open streams in each second, exactly: the integral of a step function."""
    edges = np.arange(seconds + 1, dtype=np.int64) * NS
    opened = _area(np.sort(s.start), edges)
    ended = _area(np.sort(s.end), edges)
    return np.asarray(np.diff(opened - ended) / NS, float)


def _area(sorted_ns: Ints, edges: Ints) -> Floats:
    """For each edge: sum over instants before it of (edge - instant)."""
    count = np.searchsorted(sorted_ns, edges, side="left")
    total = np.concatenate([[0.0], np.cumsum(sorted_ns, dtype=float)])
    return np.asarray(count * edges.astype(float) - total[count], float)


def _ttft(s: Streams, seconds: int) -> tuple[Floats, Floats]:
    p50, p99 = np.full(seconds, np.nan), np.full(seconds, np.nan)
    rows = np.flatnonzero(s.has_ttft & (s.first >= 0))
    rows = rows[np.argsort(s.first[rows], kind="stable")]
    second, ttft = s.first[rows] // NS, (s.first - s.start)[rows] / MS
    cuts = np.searchsorted(second, np.arange(seconds + 1))
    for k in np.flatnonzero(np.diff(cuts)):
        p50[k], p99[k] = np.quantile(ttft[cuts[k] : cuts[k + 1]], [0.5, 0.99])
    return p50, p99


def _stalls(s: Streams) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Gaps above 250 ms and silences before a bad end as long: (start_s, end_s, request ids), longest MAX_STALLS."""
    long_row, at = s.long_gaps(STALL_US)
    longest = np.sort(np.argsort(-s.gaps_us[at], kind="stable")[:MAX_STALLS])
    long_row, at = long_row[longest], at[longest]
    gap_end = s.gap_end_ns(long_row, at)
    tail = np.flatnonzero((s.last != ABSENT) & ~s.is_("ok", "cancelled") & (s.end - s.last > STALL_US * 1000))
    row = np.concatenate([long_row, tail])
    start = np.concatenate([gap_end - s.gaps_us[at].astype(np.int64) * 1000, s.last[tail]])
    end = np.concatenate([gap_end, s.end[tail]])
    order = np.lexsort((row, start, start - end))[:MAX_STALLS]
    order = order[np.lexsort((row[order], start[order]))]
    return start[order] / NS, end[order] / NS, tuple(str(s.request_id[k]) for k in row[order])
