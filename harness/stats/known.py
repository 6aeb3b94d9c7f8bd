"""Violations of the closed list, less what the scenario's `known` entries accept.

Counts are tokens for the five token classes, requests for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from harness.core.config import Known
from harness.core.records import VIOLATIONS
from harness.stats.analysis import Ints, KnownUse, Window
from harness.stats.load import RunData
from harness.stats.streams import Bools

TOKEN_CLASSES = ("lost_tokens", "duplicated_tokens", "reordered_tokens", "foreign_tokens", "extra_tokens")

UNFINISHED = ("short_stream", "missing_finish", "missing_done")


def abandoned(data: RunData) -> Bools:
    """Streams that we gave up because the run itself was cut short; that they are unfinished is our doing.

    The manifest says when (`cut_short_ns`, run axis); a run that went to its end has none.
    """
    cut_ns = data.manifest.get("cut_short_ns")
    if not isinstance(cut_ns, int):
        return np.zeros(len(data.requests), bool)
    return np.asarray(data.requests.is_("timed_out") & (data.requests.end >= cut_ns), bool)


@dataclass(frozen=True)
class Found:
    """One kind of violation in a run. amount: by row, what it counts; excused: by row, what `known` accepts."""

    violation: str
    amount: Ints
    excused: Ints

    @property
    def beyond(self) -> Ints:
        return self.amount - self.excused


def violations(data: RunData, windows: Mapping[str, Window]) -> tuple[dict[str, Found], tuple[KnownUse, ...]]:
    """Every kind of violation, and what became of every `known` entry.

    A row has a token violation if it lists it or counts such tokens. An entry excuses, in order of
    t_start, at most max_count in the requests that overlap its window (`all`: the whole run, warm-up
    too). One whose last day is before the day the run started excuses nothing.
    """
    excused = {name: np.zeros(len(data.requests), np.int64) for name in VIOLATIONS}
    amounts = {name: _amount(data, name) for name in VIOLATIONS}
    today = started_on(data)
    uses = []
    for known in data.scenario.known:
        left = amounts[known.violation] - excused[known.violation]
        rows = _rows(data, known, windows)
        expired = today is not None and known.expires < today
        take = np.where(rows & (not expired), left, 0)
        if known.max_count is not None:
            before = np.cumsum(take) - take
            take = np.clip(known.max_count - before, 0, take)
        excused[known.violation] = excused[known.violation] + take
        uses.append(_use(known, int(left[rows].sum()), int(take.sum()), expired))
    found = {name: Found(name, amounts[name], excused[name]) for name in VIOLATIONS}
    return found, tuple(uses)


def started_on(data: RunData) -> date | None:
    """The UTC day on which the run started; None when the manifest doesn't tell."""
    value: Any = data.manifest.get("started_at")
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).date()


def _amount(data: RunData, name: str) -> Ints:
    listed = np.zeros(len(data.requests), np.int64)
    lines = data.requests.violations
    listed[lines["row"][lines["violation"] == name].to_numpy(np.int64)] = 1
    if name in UNFINISHED:
        listed[abandoned(data)] = 0
    if name not in TOKEN_CLASSES:
        return listed
    counted = data.frame[name].fillna(0).to_numpy(np.int64)
    amount: Ints = np.maximum(counted, listed)
    return amount


def _rows(data: RunData, known: Known, windows: Mapping[str, Window]) -> Bools:
    if known.window == "all":
        return np.ones(len(data.requests), bool)
    window = windows.get(known.window)
    return data.requests.in_window(window.intervals if window else ())


def _use(known: Known, matched: int, count: int, expired: bool) -> KnownUse:
    if expired:
        note = f"expired on {known.expires}: it excuses nothing any more"
    elif not matched:
        note = "matched nothing: remove it if the cause is fixed"
    elif count < matched:
        note = f"{matched - count} beyond its max_count"
    else:
        note = ""
    return KnownUse(
        known.violation, known.window, known.max_count, known.reason, str(known.expires), count, expired, note
    )
