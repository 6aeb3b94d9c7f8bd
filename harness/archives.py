"""Where archives of noise are, which one an experiment is held against, and how they grow.

An experiment keeps a copy of the archive as it was before its first run, so that its verdict can be had
again from its own directory, whatever the archive learned since.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from harness.core.errors import InvalidRun
from harness.core.rundir import archive as path_of
from harness.stats import archive, experiment, paired
from harness.stats.archive import Origin
from harness.stats.experiment import Experiment

COPY = "archive.parquet"


def standing(runs: Path, scenario: str, fingerprint_class: str) -> Path:
    """The archive of a scenario on a class of machines, which may not be there yet."""
    return path_of(runs, scenario, fingerprint_class)


def snapshot(store: Path, directory: Path, scenario: str, fingerprint_class: str) -> None:
    """Copy the archive into an experiment's directory. Raises InvalidRun for one that doesn't belong to it."""
    if store.exists():
        fitting(archive.read(store), store, scenario, fingerprint_class)
        shutil.copyfile(store, directory / COPY)


def for_paths(paths: list[Path], given: Path | None) -> tuple[pd.DataFrame | None, Path | None]:
    """The archive to hold paths against: the one given, else the copy in the one experiment named."""
    copy = paths[0] / COPY if len(paths) == 1 else None
    path = given or (copy if copy is not None and copy.exists() else None)
    if path is None:
        return None, None
    rows = archive.read(path)
    return rows.assign(valid=[one is not False for one in rows["valid"]]), path  # not said: valid


def fitting(rows: pd.DataFrame, path: Path, scenario: str, fingerprint_class: str) -> pd.DataFrame:
    """The rows. Raises InvalidRun when they are of another scenario or class of machines."""
    for name, wanted in (("scenario", scenario), ("fingerprint_class", fingerprint_class)):
        there = sorted({str(one) for one in rows[name].dropna().unique()} - {wanted})
        if there:
            raise InvalidRun(
                f"{path.name}: {name} is {there[0]} in the archive, but {wanted} in the runs; name the archive of "
                "this scenario and class of machines, or none"
            )
    return rows


def without(rows: pd.DataFrame, experiment_id: str) -> pd.DataFrame:
    """The archive as if an experiment had never been added: it must not be its own yardstick."""
    return rows[rows["experiment_id"] != experiment_id] if experiment_id else rows


def grow(store: Path, found: Experiment, same: bool) -> int:
    """Add an experiment's pairs that count; the number of pairs that the archive then holds."""
    first = found.runs[0]
    origin = Origin(
        first.experiment_id, first.scenario.name, first.config_sha256 or "", first.fingerprint_class or ""
    )
    added = archive.rows(
        experiment.values(found.valid), paired.plan_for(found).metrics, origin, same=same,
        counts=experiment.counts(found.valid),
    )  # fmt: skip
    return int(archive.extend(store, added)["pair_id"].nunique())
