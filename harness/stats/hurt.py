"""Who was hurt when: clients in 100 ms bins that waited too long, or whose stream ended badly.

A client is a request: records don't say which user sent one, and a user has one stream open at a
time. Bin n is [n, n + 1) x 100 ms on the run axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.core.clock import MS
from harness.stats.analysis import Interval, Ints
from harness.stats.streams import ABSENT, Streams

BIN_NS = 100 * MS
SILENCE_US = 1_000_000  # shorter silences never hurt
MEDIANS = 5  # times the median gap so far


@dataclass(frozen=True)
class Hurt:
    """Stretches in bins [first_bin, end_bin), one request's disjoint; and clients hurt in each bin.

    start_ns, end_ns: the silence or the end itself, before it was cut into bins.
    """

    row: Ints
    first_bin: Ints
    end_bin: Ints
    clients: Ints  # by bin, from bin 0

    def in_bins(self, low: int, high: int) -> Ints:
        """Rows of the requests hurt in bins low..high-1, each once."""
        found: Ints = np.unique(self.row[(self.first_bin < high) & (self.end_bin > low)])
        return found

    def user_bins(self, low: int, high: int) -> int:
        """Sum of hurt clients over bins low..high-1."""
        return int(self.clients[max(0, low) : max(0, high)].sum())


def hurt(streams: Streams, slo_ttft_ms: float, slo_itl_ms: float) -> Hurt:
    """All of it. A request is hurt in a bin if at some instant in it one of these holds:

    - no byte for max(1 s, 5 x the median of its gaps so far): from when the silence is that old until
      the next token or the end (only the first limit holds before it has a gap);
    - no first token for longer than the SLO's ttft, until it came or the request ended; for a whole
      answer, none for longer than the SLO allows its stream;
    - it ended there other than ok or cancelled.

    A user that left (a cancel) waits no more, also where its connection stayed open.
    """
    rows, starts, ends = [], [], []
    for row, start, end in (
        _silences(streams),
        _prefills(streams, slo_ttft_ms, slo_itl_ms),
        _bad_ends(streams),
    ):
        rows.append(row)
        starts.append(start)
        ends.append(end)
    row, start, end = np.concatenate(rows), np.concatenate(starts), np.concatenate(ends)
    order = np.lexsort((end, start, row))
    row, first, stop = row[order], start[order] // BIN_NS, -(-end[order] // BIN_NS)
    # in one request's order of time, later stretches give up the bins that earlier ones have
    same = np.concatenate([[False], row[1:] == row[:-1]]) if len(row) else np.zeros(0, bool)
    before = np.concatenate([[0], stop[:-1]]) if len(row) else np.zeros(0, np.int64)
    first = np.where(same, np.maximum(first, before), first)
    keep = stop > first
    row, first, stop = row[keep], first[keep], stop[keep]
    bins = int(stop.max(initial=0))
    change = np.zeros(bins + 1, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, stop, -1)
    return Hurt(row, first, stop, np.cumsum(change)[:bins])


def open_clients(streams: Streams, bins: int) -> Ints:
    """Requests that are open at some instant of each of the first `bins` bins."""
    change = np.zeros(bins + 1, np.int64)
    np.add.at(change, np.minimum(streams.start // BIN_NS, bins), 1)
    ends = -(-np.maximum(streams.end, streams.start + 1) // BIN_NS)
    np.add.at(change, np.minimum(ends, bins), -1)
    found: Ints = np.cumsum(change)[:bins]
    return found


def bins_of(interval: Interval) -> tuple[int, int]:
    """Bins [low, high) that an interval touches."""
    return interval[0] // BIN_NS, -(-interval[1] // BIN_NS)


def bins_within(interval: Interval) -> tuple[int, int]:
    """Bins [low, high) whose middle an interval holds: those of adjoining windows never overlap."""
    half = BIN_NS // 2
    return -(-(interval[0] - half) // BIN_NS), -(-(interval[1] - half) // BIN_NS)


def _silences(s: Streams) -> tuple[Ints, Ints, Ints]:
    """(row, start, end) of the silences after a first token that were long enough to hurt."""
    rows, starts, ends = [], [], []
    long_row, long_at = s.long_gaps(SILENCE_US)
    for row, at, end in zip(
        long_row.tolist(), long_at.tolist(), s.gap_end_ns(long_row, long_at).tolist(), strict=True
    ):
        base = int(s.offsets[row])
        start = end - int(s.gaps_us[at]) * 1000 + _limit_us(s, base, at - base) * 1000
        stop = min(end, int(s.left[row]))
        if start < stop:
            rows.append(row)
            starts.append(start)
            ends.append(stop)
    tail = (s.first != ABSENT) & (s.last != ABSENT) & (s.left - s.last > SILENCE_US * 1000)
    for row in np.flatnonzero(tail).tolist():
        base, count = int(s.offsets[row]), int(s.offsets[row + 1] - s.offsets[row])
        start = int(s.last[row]) + _limit_us(s, base, count) * 1000
        if start < s.left[row]:
            rows.append(row)
            starts.append(start)
            ends.append(int(s.left[row]))
    return _int(rows), _int(starts), _int(ends)


def _limit_us(s: Streams, base: int, so_far: int) -> int:
    """max(1 s, 5 x the median of the first `so_far` gaps of the request whose gaps start at `base`)."""
    if so_far == 0:
        return SILENCE_US
    return max(SILENCE_US, round(MEDIANS * float(np.median(s.gaps_us[base : base + so_far]))))


def _prefills(s: Streams, slo_ttft_ms: float, slo_itl_ms: float) -> tuple[Ints, Ints, Ints]:
    until = np.where(s.first == ABSENT, s.left, np.minimum(s.first, s.left))
    start = s.start + s.allowed_ns(slo_ttft_ms, slo_itl_ms)
    row = np.flatnonzero(until > start)
    return row, start[row], until[row]


def _bad_ends(s: Streams) -> tuple[Ints, Ints, Ints]:
    """The instant at which a request ended other than ok or cancelled."""
    row = np.flatnonzero(~s.is_("ok", "cancelled"))
    return row, s.end[row], s.end[row] + 1


def _int(values: list[int]) -> Ints:
    return np.asarray(values, np.int64)
