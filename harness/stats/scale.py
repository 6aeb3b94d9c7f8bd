"""What earlier pairs say about noise: the archive as a matrix, each metric's robust scale, the probe's share.

The scale is the archive's answer to "how far apart are two runs of the same system"; shifts never enter it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.core.errors import InvalidRun
from harness.stats.pairs import Bools, Floats
from harness.stats.plan import GatingMetric

CLIP = 2.5
CLIPPED_VARIANCE = 0.9776  # of a standard normal variable clipped at 2.5
MIN_SCALE = 0.001  # 0.1%: no clock and no scheduler is steadier
LAST_PAIRS = 120
COLD = 12  # fewer pairs than this say too little about a scale
WEIGHT = {"aa": 0.7, "residual": 0.5}  # degrees of freedom that a pair of each kind is worth
COLUMNS = ("pair_id", "kind", "metric", "window", "d")


@dataclass(frozen=True)
class History:
    """The archive's last pairs, oldest first. d: (pairs, metrics), NaN where unknown; aa: A/A pairs; c: probes."""

    d: Floats
    aa: Bools
    c: Floats

    def __len__(self) -> int:
        return len(self.aa)


@dataclass(frozen=True)
class Scale:
    """By metric. s0: run-to-run scale of d (NaN when cold); nu0: degrees of freedom behind it; pairs: how many."""

    s0: Floats
    nu0: Floats
    pairs: NDArray[np.int64]

    @property
    def cold(self) -> Bools:
        found: Bools = self.pairs < COLD
        return found


def read(archive: pd.DataFrame | None, metrics: Sequence[GatingMetric]) -> History:
    """Archive [pair_id, kind, metric, window, d, c_probe?, valid?, ...] as a History of its last 120 pairs.

    Raises InvalidRun when columns are missing, a kind is unknown, a row is there twice, or several
    scenarios or fingerprint classes are mixed: their noise has nothing to do with each other.
    """
    if archive is None or not len(archive):
        return History(np.zeros((0, len(metrics))), np.zeros(0, np.bool_), np.zeros(0))
    missing = [name for name in COLUMNS if name not in archive.columns]
    if missing:
        raise InvalidRun(f"archive lacks the column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    for name in ("scenario", "fingerprint_class"):
        if name in archive.columns and archive[name].nunique() > 1:
            both = " and ".join(sorted(map(str, archive[name].dropna().unique()))[:2])
            raise InvalidRun(f"archive mixes {name} {both}; keep one archive for each")
    frame = archive[archive["valid"].astype(bool)] if "valid" in archive.columns else archive
    kinds = sorted(set(map(str, frame["kind"].unique())) - set(WEIGHT))
    if kinds:
        raise InvalidRun(f"archive has rows of kind {kinds[0]!r}; kinds are aa and residual")
    age = pd.to_numeric(frame["pair_id"], errors="coerce")
    if age.isna().any():
        raise InvalidRun(
            f"archive: pair_id {frame['pair_id'][age.isna()].iloc[0]} is no number; it is the order of age"
        )
    column = {tested.key: j for j, tested in enumerate(metrics)}
    at = np.array(
        [column.get(key, -1) for key in zip(frame["metric"], frame["window"], strict=True)], np.int64
    )
    ours, ages, at = frame[at >= 0], age.to_numpy()[at >= 0], at[at >= 0]
    rows = list(zip(ages.tolist(), ours["kind"].tolist(), strict=True))
    keys = sorted(set(rows))
    place = {key: i for i, key in enumerate(keys)}
    cell = (np.array([place[key] for key in rows], np.int64), at)
    times = np.zeros((len(keys), len(metrics)), np.int64)
    np.add.at(times, cell, 1)
    if (times > 1).any():
        i, j = np.argwhere(times > 1)[0]
        raise InvalidRun(f"archive has {metrics[j].name} of pair {keys[i][0]} twice; remove one of the rows")
    d = np.full(times.shape, np.nan)
    d[cell] = _numbers(ours, "d")
    c = np.full(len(keys), np.nan)
    if "c_probe" in ours.columns:
        c[cell[0]] = _numbers(ours, "c_probe")
    aa = np.array([kind == "aa" for _, kind in keys], np.bool_)
    return History(d[-LAST_PAIRS:], aa[-LAST_PAIRS:], c[-LAST_PAIRS:])


def _numbers(rows: pd.DataFrame, name: str) -> Floats:
    """A column as numbers, NaN for what is none (infinite too)."""
    values: Floats = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64, copy=True)
    values[~np.isfinite(values)] = np.nan
    return values


def of(history: History) -> Scale:
    """Scale of each metric: s0 = max(.001, fixed point), nu0 = .7 x A/A pairs + .5 x residuals."""
    known = np.isfinite(history.d)
    pairs = known.sum(axis=0)
    aa = (known & history.aa[:, None]).sum(axis=0)
    s0 = np.array(
        [
            max(MIN_SCALE, robust(column[mask])) if mask.sum() >= COLD else np.nan
            for column, mask in zip(history.d.T, known.T, strict=True)
        ]
    )
    return Scale(s0, WEIGHT["aa"] * aa + WEIGHT["residual"] * (pairs - aa), pairs)


def robust(h: Floats) -> float:
    """Scale of values around 0: the fixed point of s^2 = mean(clip(h/s, -2.5, 2.5)^2) s^2 / .9776.

    Huber's proposal 2 with location fixed at 0 (Huber, Robust Statistics, 1981, ch. 5). Starts at
    1.4826 median|h|, or at mean|h| where that is 0.
    """
    size = np.abs(h)
    s = float(1.4826 * np.median(size)) or float(size.mean())
    if s == 0:
        return 0.0
    squares = size**2
    for _ in range(1000):
        after = float(np.sqrt(np.minimum(squares, CLIP**2 * s**2).mean() / CLIPPED_VARIANCE))
        if abs(after - s) <= 1e-12 * s:
            return after
        s = after
    return s


def probe_share(history: History, scale: Scale) -> Floats:
    """theta by metric: how much of the log probe difference c shows in d, least squares through 0, in [0, 1].

    Both are clipped at 2.5 robust scales first, so that one bad run doesn't set it. 0 where fewer than 12
    pairs have both, or the archive is cold (CUPED, Deng et al. 2013, with theta from earlier data).
    """
    theta = np.zeros(history.d.shape[1])
    for j, column in enumerate(history.d.T):
        both = np.isfinite(column) & np.isfinite(history.c)
        if both.sum() < COLD or scale.cold[j]:
            continue
        c = _clipped(history.c[both], robust(history.c[both]))
        d = _clipped(column[both], float(scale.s0[j]))
        square = float(c @ c)
        theta[j] = min(1.0, max(0.0, float(c @ d) / square)) if square > 0 else 0.0
    return theta


def _clipped(values: Floats, s: float) -> Floats:
    found: Floats = np.clip(values, -CLIP * s, CLIP * s)
    return found


def without_probe(history: History, theta: Floats) -> History:
    """The archive with what the probe explains taken out: pairs without a probe keep their d only where
    theta is 0."""
    explained = np.where(theta > 0, theta * history.c[:, None], 0.0)
    return History(history.d - explained, history.aa, history.c)
