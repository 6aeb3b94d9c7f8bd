"""Tokens by three accounts, side by side: what the server says, how many chunks came, what the witness read.

Over the complete answers (ok, corrupted) of the whole run, by route and class of users. Knows no metric
and no report.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.stats.analysis import AccountRow
from harness.stats.load import RunData

MAX_IDS = 20
COLUMNS = (
    "usage_completion_tokens", "token_events", "witness_tokens", "hidden_tokens", "tokens_received",
    "reasoning_tokens", "tool_tokens", "usage_reasoning_tokens",
)  # fmt: skip


def build(data: RunData) -> tuple[AccountRow, ...]:
    """A row for each route, class and way of answering; none for runs that didn't count chunks yet."""
    s = data.requests
    rows = np.flatnonzero(s.is_("ok", "corrupted"))
    frame = data.frame[["route", "user_class", *COLUMNS]].iloc[rows].copy()
    frame["streamed"] = s.streamed[rows]
    frame["row"] = rows
    frame = frame[frame["token_events"].notna()]
    groups = frame.groupby(["route", "user_class", "streamed"], sort=True, dropna=False)
    return tuple(_row(data, group) for _, group in groups)


def _row(data: RunData, of: pd.DataFrame) -> AccountRow:
    told, read = of["usage_completion_tokens"], of["witness_tokens"]
    made = read + of["hidden_tokens"]
    differ = (told != made).fillna(False).to_numpy(bool)
    known = (told.notna() & made.notna()).to_numpy(bool)
    tokens = (made if read.notna().all() else told).fillna(0)
    several = (of["tokens_received"] > of["token_events"]) | (tokens > of["token_events"])
    ids = data.requests.ids(of["row"].to_numpy(np.int64)[differ], MAX_IDS)
    return AccountRow(
        route=str(of["route"].iloc[0]), user_class=str(of["user_class"].iloc[0]), streamed=bool(of["streamed"].iloc[0]),
        requests=len(of),
        usage=_sum(told), chunks=int(of["token_events"].sum()), witness=_sum(read), hidden=_sum(of["hidden_tokens"]),
        thoughts=int(of["reasoning_tokens"].fillna(0).sum()), calls=int(of["tool_tokens"].fillna(0).sum()),
        usage_thoughts=_sum(of["usage_reasoning_tokens"]),
        differ=int(differ.sum()) if known.any() else None, several=int(several.fillna(False).sum()), request_ids=ids,
    )  # fmt: skip


def _sum(column: pd.Series) -> int | None:
    """Of a column that every request has; else nobody knows it."""
    return int(column.sum()) if column.notna().all() else None
