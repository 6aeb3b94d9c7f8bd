"""`squall compare`, and how `squall ab` judges: run directories to a verdict, a table, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import archives
from harness.core import rundir
from harness.core.errors import SquallError, UsageError
from harness.core.expfile import ExperimentFile
from harness.core.rundir import RunDir
from harness.stats import experiment, paired, verdict
from harness.stats.experiment import Experiment
from harness.stats.runfacts import RunFacts

Print = Callable[[str], None]
COLUMNS = ("metric", "window", "baseline", "candidate", "change", "95%", "verdict")


def compare(paths: list[Path], archive: Path | None, json: Path | None, show: Print) -> int:
    """`squall compare`: the verdict of runs made before, from their files alone. Returns its exit code."""
    if json is not None and not json.parent.is_dir():
        raise UsageError(f"{json}: no such directory to write to; make it first")
    found, judged = judge(paths, archive)
    if json is not None:
        rundir.write_atomic(json, verdict.to_bytes(judged), mode=0o644)
    for line in lines(found, judged):
        show(line)
    return int(judged["exit_code"])


def judge(
    paths: list[Path], archive: Path | None, known: dict[Path, RunFacts] | None = None
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment and verdict.json. known: see experiment.read. Raises UsageError for a path without runs."""
    found = experiment.read(paths, known)
    try:
        rows, path = archives.for_paths(paths, archive)
        if rows is not None and path is not None and found.runs:
            first = found.runs[0]
            rows = archives.without(rows, first.experiment_id)
            rows = archives.fitting(rows, path, first.scenario.name, first.fingerprint_class or "")
    except SquallError as error:
        if archive is not None and not archive.exists():
            raise
        return found, paired.judge(experiment.with_problem(found, str(error)), None)
    return found, paired.judge(found, rows)


def finish(
    run: RunDir, found: Experiment, judged: Mapping[str, Any], file: ExperimentFile, store: Path,
    command: Sequence[str], show: Print,
) -> int:  # fmt: skip
    """Write an experiment's verdict and reports, let the archive grow, print. Returns the exit code."""
    from reports import comparison, write  # the plots load for a second, only here

    rundir.write_atomic(run.verdict, verdict.to_bytes(judged))
    page = write.write_all(run, comparison.build(found, judged, file, command))
    for line in lines(found, judged):
        show(line)
    if judged["status"] not in ("invalid", "fail") and len(found.valid) > 1:
        pairs = archives.grow(store, found, file.same_arms)
        kind = "A/A pairs" if file.same_arms else "residuals of pairs"
        show(f"archive   {store}: {kind} added, {pairs} pairs in all")
    show(f"report    {page}")
    return int(judged["exit_code"])


def lines(found: Experiment, judged: Mapping[str, Any]) -> list[str]:
    """What is printed: a table, what is dropped, the verdict and its reasons."""
    shown = [list(COLUMNS), *(_row(one) for one in judged["metrics"])]
    widths = [max(len(row[n]) for row in shown) for n in range(len(COLUMNS))]
    table = [
        "  ".join(cell.ljust(w) if n in (0, 1, 6) else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in shown
    ]  # fmt: skip
    used = judged.get("pairs_used", 0)
    of = f"{used} of {len(found.valid)} pairs that count" if found.valid else "no pair counts"
    reasons = judged["reasons"]
    good = judged["status"] in ("pass", "improvement")
    word = str(judged["status"]).upper()
    return [
        *(["", *table, ""] if judged["metrics"] else []),
        f"pairs     {of}, {len(found.dropped)} dropped",
        f"verdict   {word} (exit code {judged['exit_code']})"
        + (f": {reasons[0]}" if reasons and not good else ""),
        *(f"          {reason}" for reason in (reasons if good else reasons[1:])),
    ]


def _row(one: Mapping[str, Any]) -> list[str]:
    interval = (
        f"{_percent(one['ci_low'])} to {_percent(one['ci_high'])}"
        if one["ci_low"] is not None and one["ci_high"] is not None
        else "-"
    )
    return [
        one["metric"], one["window"], *(_quantity(one[arm], one["unit"]) for arm in ("baseline", "candidate")),
        "-" if one["delta_ratio"] is None else _percent(one["delta_ratio"]), interval,
        str(one["status"]) + (f" ({one['note']})" if one["note"] else ""),
    ]  # fmt: skip


def _quantity(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1%}" if unit == "ratio" else f"{value:.4g} {unit}"


def _percent(ratio: float) -> str:
    return f"{ratio:+.1%}"
