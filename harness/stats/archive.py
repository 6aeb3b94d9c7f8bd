"""The archive of noise: differences between equal systems, from A/A pairs and from past nights' residuals.

One file for each scenario and fingerprint class, append-only. A new version of the system doesn't reset it;
another scenario or another kind of machine has another file (core/rundir.archive).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core import rundir
from harness.core.errors import InvalidRun, UsageError
from harness.stats import pairs as pairing
from harness.stats.counts import NAMES
from harness.stats.pairs import TAIL_REQUESTS, Pairs
from harness.stats.plan import GatingMetric

SCHEMA = pa.schema(
    [
        ("pair_id", pa.int64()), ("experiment_id", pa.string()), ("scenario", pa.string()),
        ("config_sha256", pa.string()), ("fingerprint_class", pa.string()), ("metric", pa.string()),
        ("window", pa.string()), ("d", pa.float64()), ("c_probe", pa.float64()), ("x", pa.float64()),
        ("n", pa.float64()), ("kind", pa.string()), ("valid", pa.bool_()), ("arm", pa.string()),
    ]
)  # fmt: skip
SORTED_BY = ["pair_id", "kind", "metric", "window", "arm"]


@dataclass(frozen=True)
class Origin:
    """Where rows come from; the same in every row of one experiment."""

    experiment_id: str
    scenario: str
    config_sha256: str
    fingerprint_class: str


def empty() -> pd.DataFrame:
    """An archive without rows, with its columns."""
    found: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return found


def rows(
    values: pd.DataFrame,
    metrics: Sequence[GatingMetric],
    origin: Origin,
    *,
    same: bool,
    counts: pd.DataFrame | None = None,
    covariate: pd.Series | None = None,
) -> pd.DataFrame:
    """What one experiment adds. same: both arms ran the same system (A/A).

    A/A pairs give their differences d (log B/A, larger is worse), kind aa. Other experiments give
    h = (d_{i+1} - d_i)/sqrt 2 for each two consecutive pairs, kind residual: whatever shift there is
    cancels, so nights that failed count as well. Runs without recovery and p99s of too few requests give
    nothing. counts as for judge_counts: x and n, one row a run, arm A only unless `same`.
    Raises InvalidRun for values that aren't pairs.
    """
    found = pairing.read(values, metrics, covariate)
    if found.problems:
        raise InvalidRun(f"not archived: {found.problems[0]}")
    d = np.where(_countable(found, metrics), found.d, np.nan)
    c = np.full(len(found), np.nan) if found.c is None else found.c
    ids = np.array(found.ids)
    kind = "aa" if same else "residual"
    if not same:
        d, c, ids = np.diff(d, axis=0) / np.sqrt(2), np.diff(c) / np.sqrt(2), ids[1:]
    at, of = np.nonzero(np.isfinite(d))
    shifts = pd.DataFrame(
        {
            "pair_id": ids[at],
            "metric": [metrics[j].metric for j in of.tolist()],
            "window": [metrics[j].window for j in of.tolist()],
            "d": d[at, of],
            "c_probe": c[at],
        }
    )
    parts = [shifts] if counts is None else [shifts, _counted(counts, same)]
    return _frame(
        pd.concat(parts, ignore_index=True).assign(
            kind=kind,
            valid=True,
            experiment_id=origin.experiment_id,
            scenario=origin.scenario,
            config_sha256=origin.config_sha256,
            fingerprint_class=origin.fingerprint_class,
        )
    )


def _countable(found: Pairs, metrics: Sequence[GatingMetric]) -> pairing.Bools:
    tail = np.array([one.is_tail for one in metrics])
    countable: pairing.Bools = np.isfinite(found.d) & ~(tail & (found.requests < TAIL_REQUESTS))
    return countable


def _counted(counts: pd.DataFrame, same: bool) -> pd.DataFrame:
    kept = counts if same else counts[counts["arm"] == "A"]
    return pd.DataFrame(
        {
            "pair_id": kept["pair_id"],
            "metric": kept["kind"].map(NAMES),
            "window": kept["kind"].map({"shed": "all", "migrated": "fault"}),
            "x": kept["x"],
            "n": kept["n"],
            "arm": kept["arm"],
        }
    )


def append(archive: pd.DataFrame, added: pd.DataFrame) -> pd.DataFrame:
    """Archive with an experiment's rows after all others: pair_id goes on counting, so its order is age.

    An experiment that is there already isn't added again. Raises InvalidRun for rows of another scenario or
    fingerprint class: their noise has nothing to do with the archive's.
    """
    both = _frame(archive), _frame(added)
    for name in ("scenario", "fingerprint_class"):
        there = {*both[0][name].dropna(), *both[1][name].dropna()}
        if len(there) > 1:
            raise InvalidRun(
                f"archive: {name} {' and '.join(sorted(there))} don't belong together; keep one archive for each"
            )
    new = both[1][~both[1]["experiment_id"].isin(set(both[0]["experiment_id"]))]
    if not len(new):
        return both[0]
    first = int(both[0]["pair_id"].max()) + 1 if len(both[0]) else 0
    nth = {old: first + n for n, old in enumerate(sorted(new["pair_id"].unique()))}
    return _frame(pd.concat([both[0], new.assign(pair_id=new["pair_id"].map(nth))], ignore_index=True))


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The archive's columns, types and order."""
    whole = frame.reindex(columns=SCHEMA.names)
    table = pa.Table.from_pandas(whole, schema=SCHEMA, preserve_index=False)
    typed: pd.DataFrame = table.to_pandas()
    return typed.sort_values(SORTED_BY, kind="stable", na_position="first", ignore_index=True)


def read(path: Path) -> pd.DataFrame:
    """archive.parquet as a frame. Raises UsageError when absent, InvalidRun when it can't be read whole."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such archive; run an A/A experiment, or leave --archive out") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidRun(
            f"{path}: truncated or no Parquet ({type(error).__name__}); restore it from a copy, or move it away "
            "to begin a new archive"
        ) from None
    missing = [
        name for name in ("pair_id", "kind", "metric", "window", "d") if name not in table.column_names
    ]
    if missing:
        raise InvalidRun(f"{path}: column {', '.join(missing)} is missing; is this an archive of squall?")
    try:
        frame: pd.DataFrame = table.to_pandas()
        return _frame(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InvalidRun(
            f"{path}: a column has another type than an archive's ({' '.join(str(error).split())}); move it away"
        ) from None


def write(path: Path, archive: pd.DataFrame) -> None:
    """Replace archive.parquet as a whole: a crash leaves the old one."""
    out = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pandas(_frame(archive), schema=SCHEMA, preserve_index=False), out, compression="zstd"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(path, out.getvalue().to_pybytes())


def extend(path: Path, added: pd.DataFrame) -> pd.DataFrame:
    """Append rows to the file, made when absent; one process at a time. Returns the archive as it is now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        grown = append(read(path) if path.exists() else empty(), added)
        write(path, grown)
    finally:
        os.close(fd)
    return grown
