"""The requests of a run as arrays: what every other module of stats computes on.

Rows are sorted by (t_start_ns, request_id), so no result depends on the order of files. Gaps stay
one flat array; they are never a Python list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.core.records import FAILED, OUTCOMES
from harness.stats.analysis import Interval, Ints

ABSENT = np.iinfo(np.int64).min  # a time that doesn't apply; below every window
LATE = np.iinfo(np.int64).max
CODE: dict[str, int] = {name: n for n, name in enumerate(OUTCOMES)}
CHUNK = 4_000_000  # gaps handled at a time: bounds the memory of their int64 end times
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Gaps:
    """One run of a request's gaps: row of each, its length in us, and when it ended in ns."""

    row: NDArray[np.int32]
    us: NDArray[np.int32]
    end_ns: Ints


@dataclass(frozen=True)
class Streams:
    """All requests. Times int64 ns, ABSENT where they don't apply; `frame` has the other columns.

    outcome: index into OUTCOMES, -1 = none of them. closed: the record has an end and an outcome
    (a row that has none gets the run's last instant as its end).
    violations: columns row, violation; one line for each violation of each request.
    """

    frame: pd.DataFrame
    request_id: NDArray[Any]
    due: Ints
    start: Ints
    first: Ints
    last: Ints
    end: Ints
    outcome: NDArray[np.int8]
    closed: Bools
    gaps_us: NDArray[np.int32]
    offsets: Ints  # gaps of row k: gaps_us[offsets[k]:offsets[k + 1]]
    violations: pd.DataFrame
    streamed: Bools  # False: asked for one whole answer

    def __len__(self) -> int:
        return len(self.start)

    def is_(self, *names: str) -> Bools:
        """Rows with one of these outcomes."""
        return np.isin(self.outcome, [CODE[name] for name in names])

    @cached_property
    def left(self) -> Ints:
        """When each request's user stopped waiting for it: when we cancelled it, else at its end."""
        if "t_cancel_ns" not in self.frame:
            return self.end
        told = self.frame["t_cancel_ns"]
        return np.where(told.isna(), self.end, told.fillna(0).to_numpy(np.int64)).astype(np.int64)

    @cached_property
    def retried(self) -> Bools:
        """Rows that repeat an earlier attempt."""
        return np.asarray(self.frame["attempt"].fillna(0).to_numpy(np.int64) > 0, bool)

    @cached_property
    def answered(self) -> Bools:
        """Rows whose client got an answer (ok) in the end, be it by a later attempt."""
        ok = self.is_("ok")
        later = self.frame["retry_of"][ok & self.retried].dropna()
        return ok | pd.Series(self.request_id).isin(set(later)).to_numpy(bool) if len(later) else ok

    @property
    def failed(self) -> Bools:
        return self.is_(*sorted(FAILED))

    @property
    def has_ttft(self) -> Bools:
        """Rows whose t_first is a time to first token: streamed ones.

        In a run without any, those with an answer: its arrival is all that there is to compare.
        """
        whole_only = not self.streamed.any()
        return np.asarray((self.first != ABSENT) & (self.streamed | whole_only), bool)

    def allowed_ns(self, ttft_ms: float, itl_ms: float) -> Ints:
        """Within the SLO, by row: until t_first. A whole answer may take as long as its stream might."""
        tokens = self.frame["tokens_expected"].fillna(1).to_numpy(np.int64)
        rest_ns = np.maximum(tokens - 1, 0) * round(itl_ms * 1e6)
        return np.asarray(round(ttft_ms * 1e6) + np.where(self.streamed, 0, rest_ns), np.int64)

    def whole_tokens(self, rows: Bools) -> Ints:
        """By row: tokens beyond the first that arrived with t_first, because the answer is a whole one."""
        received = self.frame["tokens_received"].fillna(0).to_numpy(np.int64)
        return np.where(rows & ~self.streamed & (self.first != ABSENT), np.maximum(received - 1, 0), 0)

    def ids(self, rows: Bools | Ints, limit: int | None = None) -> tuple[str, ...]:
        """Request ids of some rows, in order."""
        found = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.sort(rows)
        return tuple(str(self.request_id[k]) for k in found[:limit])

    def overlaps(self, start_ns: int, end_ns: int) -> Bools:
        """Rows whose [t_start, t_end) meets [start_ns, end_ns); an empty one counts as its instant."""
        mask: Bools = (self.start < end_ns) & (np.maximum(self.end, self.start + 1) > start_ns)
        return mask if end_ns > start_ns else np.zeros(len(self), bool)

    def in_window(self, intervals: tuple[Interval, ...]) -> Bools:
        """Rows that overlap any of the intervals."""
        mask = np.zeros(len(self), bool)
        for start, end in intervals:
            mask |= self.overlaps(start, end)
        return mask

    def chunks(self, start_ns: int = ABSENT, end_ns: int = LATE) -> Iterator[Gaps]:
        """The gaps of the requests that may overlap [start_ns, end_ns), about CHUNK of them at once."""
        for low, high in self.blocks(start_ns, end_ns):
            yield self.gaps_of(low, high)

    def blocks(self, start_ns: int = ABSENT, end_ns: int = LATE) -> Iterator[tuple[int, int]]:
        """Rows [low, high) of the requests that may overlap [start_ns, end_ns), about CHUNK gaps at once."""
        low, stop = self._rows_near(start_ns, end_ns)
        while low < stop:
            high = int(np.searchsorted(self.offsets, self.offsets[low] + CHUNK, side="right")) - 1
            high = min(max(high, low + 1), stop)
            yield low, high
            low = high

    def gaps_within(self, low: int, high: int, intervals: tuple[Interval, ...]) -> bool:
        """Do all gaps of rows [low, high) surely end in one and the same of the intervals?"""
        some = np.flatnonzero(np.diff(self.offsets[low : high + 1]) > 0) + low
        if not len(some):
            return True
        first = int(self.first[some].min())
        last = int((self.first[some] + self.gap_sum_us[some] * 1000).max())
        return any(start <= first and last < end for start, end in intervals)

    def _rows_near(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Rows are sorted by start: those that began before the end, and not too long before the start."""
        if not len(self):
            return 0, 0
        longest = int((self.end - self.start).max())
        low = 0 if start_ns == ABSENT else int(np.searchsorted(self.start, start_ns - longest))
        return low, int(np.searchsorted(self.start, end_ns))

    def gaps_of(self, low: int, high: int) -> Gaps:
        """The gaps of rows [low, high)."""
        base = self.offsets[low]
        us = self.gaps_us[base : self.offsets[high]]
        row = np.repeat(np.arange(low, high, dtype=np.int32), np.diff(self.offsets[low : high + 1]))
        total = np.cumsum(us, dtype=np.int64)
        total *= 1000
        at = self.offsets[low:high] - base
        before = np.where(at > 0, total[at - 1], 0) if len(total) else at
        total += (self.first[low:high] - before)[row - low]
        return Gaps(row, us, total)

    def long_gaps(self, above_us: int) -> tuple[Ints, Ints]:
        """(row, index into gaps_us) of the gaps above `above_us`."""
        at = np.flatnonzero(self.gaps_us > above_us)
        return np.searchsorted(self.offsets, at, side="right") - 1, at

    def gap_end_ns(self, row: Ints, at: Ints) -> Ints:
        """When single gaps ended."""
        before = [
            int(self.gaps_us[self.offsets[r] : k + 1].sum(dtype=np.int64))
            for r, k in zip(row, at, strict=True)
        ]
        return self.first[row] + np.asarray(before, np.int64) * 1000

    def longest_gap_us(self) -> Ints:
        """Longest gap of each request, -1 where it has none."""
        longest = np.full(len(self), -1, np.int64)
        some = np.flatnonzero(np.diff(self.offsets) > 0)
        if len(some):
            longest[some] = np.maximum.reduceat(self.gaps_us, self.offsets[some])
        return longest

    @cached_property
    def gap_sum_us(self) -> Ints:
        """Sum of each request's gaps, 0 where it has none."""
        total = np.zeros(len(self), np.int64)
        some = np.flatnonzero(np.diff(self.offsets) > 0)
        if len(some):
            total[some] = np.add.reduceat(self.gaps_us, self.offsets[some], dtype=np.int64)
        return total


def within(t: Ints, intervals: tuple[Interval, ...]) -> Bools:
    """Which instants lie in any of the half-open intervals."""
    mask = np.zeros(len(t), bool)
    for start, end in intervals:
        mask |= (t >= start) & (t < end)
    return mask
