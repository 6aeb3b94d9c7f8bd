"""Planned cancels, held against the engines' own account: did it stop, how soon, what did it make for nobody?

An engine is told by its SUT that a client left; its segment log says when it stopped and at which
token. Without that log nothing here is known. Knows no metric's name and no report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.collect import counters
from harness.core.clock import NS
from harness.stats.analysis import CancelCount, CancelRow, Floats, Interval, Ints, Window
from harness.stats.load import RunData
from harness.stats.segments import OPEN
from harness.stats.streams import ABSENT, Bools, Streams, within

BY_ITSELF_NS = NS
"""An engine that makes its last token sooner after a cancel proves nothing: the news may have been under way."""
STOPPED = ("aborted", "stopped")  # reasons of a segment's end that say: nobody wants the rest
STAGES = ("queue", "prefill", "first token", "later")
COUNTERS: tuple[tuple[str, dict[str, str], str], ...] = (
    ("dynamo_frontend_model_cancellation_total", {}, "frontend"),
    ("dynamo_frontend_requests_total", {"error_type": "cancelled"}, "frontend"),
    ("dynamo_component_cancellation_total", {}, "worker"),
)


@dataclass(frozen=True)
class Cancels:
    """Every request that we cancelled, one entry each, in the order of the requests.

    fate: aborted (the engine stopped), unaborted (it went on to its last token, or for ever), finished (it
    was done, or ended by itself within 1 s), unseen (no engine ever had it), unknown.
    """

    row: Ints  # into Streams
    at_ns: Ints  # when we left
    mode: NDArray[np.object_]
    stage: NDArray[np.object_]  # of STAGES
    fate: NDArray[np.object_]
    abort_ms: Floats  # of the aborted: from our leaving until the engine stopped; else NaN
    wasted: Floats  # tokens that the engine made beyond those that had arrived when we left; NaN: unknown
    next_row: Ints  # the same user's next request, -1: none

    def within(self, intervals: tuple[Interval, ...]) -> Bools:
        return within(self.at_ns, intervals)


def build(data: RunData) -> Cancels:
    """All cancels of a run. One without t_cancel_ns (an old record) counts from its end."""
    s = data.requests
    row = np.flatnonzero(s.is_("cancelled") & s.closed)
    at = s.left[row]
    received = _received(s, row, at)
    last = _last_segments(data, row)
    fate = np.full(len(row), "unknown", object)
    stage = np.where(received == 0, "prefill", np.where(received == 1, "first token", "later")).astype(object)
    abort_ms, wasted = np.full(len(row), np.nan), np.full(len(row), np.nan)
    if last is not None:
        end, reason = last["end_ns"].to_numpy(np.int64), last["reason"].to_numpy(object)
        seen, ended = last["known"].to_numpy(bool), last["end_ns"].to_numpy(np.int64) != OPEN
        fate = _fates(seen, ended, reason, end - at, ~_may_be_dead(data, last))
        aborted = fate == "aborted"
        abort_ms[aborted] = (end - at)[aborted] / 1e6
        made = last["next"].to_numpy(float)
        wasted = np.where(seen & ended & (made >= 0), np.maximum(made - received, 0), np.nan)
        let_in = last["let_in_ns"].to_numpy(np.int64)
        waiting = ~seen | ((received == 0) & last["tells_seat"].to_numpy(bool) & (let_in > at))
        stage[waiting] = "queue"
    return Cancels(
        row, at, data.frame["cancel_mode"].iloc[row].fillna("unknown").to_numpy(object), stage, fate,
        abort_ms, wasted, _next_rows(data, row),
    )  # fmt: skip


def _fates(
    seen: Bools, ended: Bools, reason: NDArray[np.object_], later_ns: Ints, alive: Bools
) -> NDArray[np.object_]:
    """later_ns: the engine's end less our leaving."""
    stopped = np.isin(reason.astype(str), STOPPED)
    return np.select(
        [
            ~seen,
            ended & stopped & (later_ns >= 0),
            ended & ~stopped & (later_ns > BY_ITSELF_NS),
            ended,
            alive,
        ],
        ["unseen", "aborted", "unaborted", "finished", "unaborted"],
        "unknown",
    ).astype(object)


def _received(s: Streams, row: Ints, at: Ints) -> Ints:
    """Tokens that had arrived when we left."""
    found = np.zeros(len(row), np.int64)
    for k, r in enumerate(row):
        if s.first[r] == ABSENT or s.first[r] > at[k]:
            continue
        gaps = s.gaps_us[s.offsets[r] : s.offsets[r + 1]]
        found[k] = 1 + int((s.first[r] + np.cumsum(gaps, dtype=np.int64) * 1000 <= at[k]).sum())
    return found


def _last_segments(data: RunData, row: Ints) -> pd.DataFrame | None:
    """The last segment of each cancelled stream, in the order of `row`; None without segments."""
    if data.segments is None:
        return None
    last = data.segments.drop_duplicates("request_id", keep="last").set_index("request_id")
    last = last.astype(dict.fromkeys(("end_ns", "let_in_ns", "next", "running"), "Int64"))  # OPEN is no float
    last = last.reindex(data.requests.request_id[row])
    last["known"] = last["end_ns"].notna()
    last["tells_seat"] = last["running"].fillna(-1) >= 0
    for name in ("end_ns", "let_in_ns"):
        last[name] = last[name].fillna(OPEN).astype("int64")
    last["next"] = last["next"].fillna(-1)
    return last


def _may_be_dead(data: RunData, last: pd.DataFrame) -> Bools:
    """Was the segment's engine a target of a fault, or gone at the end? Then a missing end says nothing."""
    dead = data.manifest.get("dead")
    gone = {line.target for line in data.journal} | set(map(str, dead if isinstance(dead, list) else []))
    return last["target"].isin(gone).to_numpy(bool)


def _next_rows(data: RunData, row: Ints) -> Ints:
    """Rows are sorted by start: of each user, the one that follows."""
    user = data.frame["user"].fillna(-1).to_numpy(np.int64)
    order = np.argsort(user, kind="stable")
    follower = np.full(len(user), -1, np.int64)
    same = (user[order][:-1] == user[order][1:]) & (user[order][:-1] >= 0)
    follower[order[:-1][same]] = order[1:][same]
    return follower[row]


def rows(found: Cancels) -> tuple[CancelRow, ...]:
    """The cancels by mode and stage."""
    made = []
    for mode in sorted(set(found.mode)):
        for stage in STAGES:
            mask = (found.mode == mode) & (found.stage == stage)
            if not mask.any():
                continue
            fates = {name: int((found.fate[mask] == name).sum()) for name in
                     ("aborted", "unaborted", "finished", "unseen", "unknown")}  # fmt: skip
            abort, wasted = _known(found.abort_ms[mask]), _known(found.wasted[mask])
            made.append(CancelRow(
                mode=str(mode), stage=stage, sent=int(mask.sum()), **fates,
                abort_p50_ms=quantile(abort, 0.5), abort_p99_ms=quantile(abort, 0.99), abort_max_ms=quantile(abort, 1),
                wasted_p50=quantile(wasted, 0.5), wasted_max=quantile(wasted, 1),
            ))  # fmt: skip
    return tuple(made)


def counted(data: RunData, found: Cancels, window: Window) -> tuple[CancelCount, ...]:
    """What the SUT's counters rose by in `window`, beside the cancels that we made in it."""
    if not len(found.row):
        return ()
    ours = int(found.within(window.intervals).sum())
    made = [CancelCount("cancelled by our clients", float(ours))]
    for metric, labels, role in COUNTERS:
        names = data.sut.of_role(role) or tuple(
            p for p in counters.processes(data.samples) if p.startswith(role)
        )
        rises = [
            counters.counter_delta(data.samples, name, metric, labels, start, end)
            for name in names
            for start, end in window.intervals
        ]
        known = [rise for rise in rises if rise is not None]
        shown = metric + "".join(f'{{{key}="{value}"}}' for key, value in labels.items())
        made.append(CancelCount(shown, sum(known) if known and len(known) == len(rises) else None))
    return tuple(made)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def quantile(values: Sequence[float] | Floats, q: float) -> float | None:
    """numpy's `linear`; None of nothing."""
    return float(np.quantile(values, q)) if len(values) else None
