"""Run values as pairs: checked, transformed to logs, one row a pair and one column a gating metric.

What is wrong with the data is a line that names pair, arm, metric and what to do. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.core.errors import InvalidRun
from harness.stats.plan import GatingMetric

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ARMS = ("A", "B")
COLUMNS = ("pair_id", "arm", "metric", "window", "value")
TAIL_REQUESTS = 1000  # a p99 of fewer is the figure of some ten requests
# A smaller value, 0 above all, is taken as this one. recover_s is the start of 5 s that are good, found in steps of
# 0.1 s: two values below a tenth of those 5 s differ by where a bin began.
RESOLUTION = {"ms": 0.001, "s": 0.1, "tokens/s": 0.001, "recover_s": 0.5}


@dataclass(frozen=True)
class Pairs:
    """Arrays of shape (pairs, metrics); `a` and `b` raw values of both arms, NaN where `absent` or censored.

    d: log b - log a, signed so that larger is worse. requests: the fewer of both runs. c: log of the
    machine-speed probes B/A, None without. absent: metrics that neither arm has. censored: (pair_id, arm)
    of runs that never recovered. problems: what makes the comparison invalid.
    """

    ids: tuple[int, ...]
    a: Floats
    b: Floats
    d: Floats
    requests: Floats
    c: Floats | None
    absent: Bools
    censored: tuple[tuple[int, str], ...] = ()
    problems: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)


def read(values: pd.DataFrame, metrics: Sequence[GatingMetric], covariate: pd.Series | None = None) -> Pairs:
    """Values [pair_id, arm, metric, window, value, n] as pairs in order of pair_id.

    covariate: c by pair_id; else a column `c` of the values. Raises InvalidRun for what can't be read as
    pairs at all: no rows, absent columns, other arms, runs without a partner, the same row twice.
    """
    frame = _frame(values)
    ids = tuple(sorted(int(one) for one in frame["pair_id"].unique()))
    column = {tested.key: j for j, tested in enumerate(metrics)}
    at = np.array(
        [column.get(key, -1) for key in zip(frame["metric"], frame["window"], strict=True)], np.int64
    )
    pair = np.searchsorted(ids, frame["pair_id"])
    cell = (pair[at >= 0], (frame["arm"] == "B").to_numpy(np.int64)[at >= 0], at[at >= 0])
    shape = (len(ids), len(ARMS), len(metrics))
    times = np.zeros(shape, np.int64)
    np.add.at(times, cell, 1)
    if (times > 1).any():
        i, arm, j = np.argwhere(times > 1)[0]
        raise InvalidRun(
            f"{_place((i, arm), ids, metrics[j])} is there twice; remove the run that was given twice"
        )
    cube = {name: np.full(shape, np.nan) for name in ("value", "n")}
    for name, values_of in cube.items():
        values_of[cell] = frame[name].to_numpy(np.float64)[at >= 0]
    there = times > 0
    absent: Bools = ~np.asarray(there.any(axis=(0, 1)))
    value, censored = _censored(cube["value"], there, metrics)
    problems = _problems(value, cube["n"], there, censored, ids, metrics)
    logs = _logs(value, cube["n"], metrics)
    signs = np.array([t.sign for t in metrics])
    return Pairs(
        ids=ids,
        a=value[:, 0],
        b=value[:, 1],
        d=signs * (logs[:, 1] - logs[:, 0]),
        requests=np.nan_to_num(cube["n"]).min(axis=1),
        c=_covariate(frame, ids, covariate),
        absent=absent,
        censored=tuple(sorted({(ids[i], ARMS[arm]) for i, arm, _ in np.argwhere(censored)})),
        problems=tuple(problems),
    )


def _frame(values: pd.DataFrame) -> pd.DataFrame:
    """The values with plain types, or InvalidRun."""
    missing = [name for name in COLUMNS if name not in values.columns]
    if missing:
        raise InvalidRun(
            f"values lack the column {', '.join(missing)}; they need {', '.join(COLUMNS)} and n (requests)"
        )
    if not len(values):
        raise InvalidRun("no runs to compare; a verdict needs at least 3 pairs")
    given = values if "n" in values.columns else values.assign(n=np.nan)
    pair_id = pd.to_numeric(given["pair_id"], errors="coerce")
    if pair_id.isna().any() or (pair_id % 1 != 0).any():
        wrong = str(given["pair_id"][pair_id.isna() | (pair_id % 1 != 0)].iloc[0])
        raise InvalidRun(f"pair_id {wrong} is no whole number; number the pairs 0, 1, 2, ...")
    wrong_arms = sorted({str(arm) for arm in given["arm"].unique()} - set(ARMS))
    if wrong_arms:
        raise InvalidRun(
            f"arm {wrong_arms[0]!r} is neither A nor B; label baseline runs A and candidate runs B"
        )
    value = pd.to_numeric(given["value"], errors="coerce").astype(np.float64)
    words = given["value"][value.isna() & given["value"].notna()]
    if len(words):
        raise InvalidRun(f"value {words.iloc[0]!r} is no number; give ms, s, tokens/s or a ratio")
    frame = given.assign(
        pair_id=pair_id.astype(np.int64),
        arm=given["arm"].astype(str),
        metric=given["metric"].astype(str),
        window=given["window"].astype(str),
        value=value,
        n=pd.to_numeric(given["n"], errors="coerce").astype(np.float64),
    )
    arms = frame.groupby("pair_id")["arm"].nunique()
    lonely = [int(one) for one in arms.index[arms < len(ARMS)]]
    if lonely:
        has = frame.loc[frame["pair_id"] == lonely[0], "arm"].iloc[0]
        other = "B" if has == "A" else "A"
        raise InvalidRun(
            f"pair {lonely[0]} has no run of arm {other}; run it again or leave the pair out as a whole"
        )
    return frame


def _censored(value: Floats, there: Bools, metrics: Sequence[GatingMetric]) -> tuple[Floats, Bools]:
    """Values without those of runs that never recovered, and where those are."""
    recovery = np.array([t.metric == "recover_s" for t in metrics])
    censored = there & recovery & ~np.isfinite(value)
    return np.where(censored, np.nan, value), censored


def _problems(
    value: Floats,
    n: Floats,
    there: Bools,
    censored: Bools,
    ids: Sequence[int],
    metrics: Sequence[GatingMetric],
) -> list[str]:
    """One line for each metric that can't be judged, naming the first place."""
    found = []
    for j, tested in enumerate(metrics):
        here = there[:, :, j]
        if not here.any():
            continue
        if not here.all():
            place = np.argwhere(~here)[0]
            found.append(
                f"{_place(place, ids, tested)} is missing, while other runs have it; run the pair again"
            )
            continue
        unknown = ~np.isfinite(value[:, :, j]) & ~censored[:, :, j]
        low = value[:, :, j] < 0
        high = (value[:, :, j] > 1) if tested.is_ratio else np.zeros_like(low)
        few = ~(n[:, :, j] >= 1) if tested.is_ratio or tested.is_tail else np.zeros_like(low)
        for wrong, what in ((unknown, "is no number"), (low, "is below 0"), (high, "is above 1")):
            if wrong.any():
                i, arm = np.argwhere(wrong)[0]
                found.append(
                    f"{_place((i, arm), ids, tested)} {what} ({value[i, arm, j]:g}); look at that run, then run the pair again"
                )
                break
        else:
            if few.any():
                found.append(
                    f"{_place(np.argwhere(few)[0], ids, tested)} has no n, the requests behind it; give it"
                )
    return found


def _place(at: Sequence[int] | NDArray[np.int64], ids: Sequence[int], tested: GatingMetric) -> str:
    return f"pair {ids[int(at[0])]}, arm {ARMS[int(at[1])]}: {tested.name}"


def _logs(value: Floats, n: Floats, metrics: Sequence[GatingMetric]) -> Floats:
    """log of positive metrics; of ratios log(max(ratio, 1/(2n))): half a request is the least that n can tell."""
    least = np.empty_like(value)
    for j, tested in enumerate(metrics):
        unit = tested.metric if tested.metric in RESOLUTION else tested.unit
        resolution = RESOLUTION.get(unit, np.finfo(float).tiny)
        least[:, :, j] = 1 / (2 * np.maximum(n[:, :, j], 1)) if tested.is_ratio else resolution
    logs: Floats = np.log(np.maximum(value, least))
    return logs


def _covariate(frame: pd.DataFrame, ids: Sequence[int], given: pd.Series | None) -> Floats | None:
    """c of each pair; None unless every pair has one number."""
    if given is None:
        if "c" not in frame.columns:
            return None
        given = pd.to_numeric(frame["c"], errors="coerce").groupby(frame["pair_id"]).first()
    c = given.reindex(list(ids)).to_numpy(np.float64)
    return c if bool(np.isfinite(c).all()) else None
