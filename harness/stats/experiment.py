"""Run directories to an experiment: which runs are pairs, which of them count, and why the rest can't be used.

Bad data is refused as a whole, with one line for each reason; a pair that was disturbed is dropped, blind
to its arms and to how fast it was. Nothing depends on the order in which runs are named.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd

from harness.core import expfile, rundir
from harness.core.errors import SquallError, UsageError
from harness.core.rundir import RunDir
from harness.stats import refusals, runfacts
from harness.stats.refusals import ARMS
from harness.stats.runfacts import RunFacts

PARALLEL_FROM, MAX_PROCESSES = 6, 4  # runs; processes
PROBE_SD = 4.0  # robust standard deviations from the median, of many runs
FEW_RUNS = 10.0  # of few, a spread may be small by luck: the limit is (1 + FEW_RUNS/n) times as wide
PROBE_FLOOR = 0.01  # of the log: a quieter machine than 1% is luck


@dataclass(frozen=True)
class PairRuns:
    """Both runs of a pair. dropped: why it doesn't count, empty when it does."""

    pair_id: int
    a: RunFacts
    b: RunFacts
    dropped: tuple[str, ...] = ()

    @property
    def c(self) -> float | None:
        """How much slower the machine was for B: log of the probes' ratio."""
        if self.a.probe_ms is None or self.b.probe_ms is None:
            return None
        return math.log(self.b.probe_ms / self.a.probe_ms)


@dataclass(frozen=True)
class Experiment:
    """runs: all that could be read. pairs: in order. problems: why nothing may be concluded, one line each.

    lost_pairs: (pair_id, reason) of dropped pairs whose runs aren't both there.
    """

    runs: tuple[RunFacts, ...]
    pairs: tuple[PairRuns, ...]
    problems: tuple[str, ...]
    lost_pairs: tuple[tuple[int, str], ...] = ()
    looks: tuple[int, ...] | None = None  # as written down before the first run

    @property
    def valid(self) -> tuple[PairRuns, ...]:
        return tuple(pair for pair in self.pairs if not pair.dropped)

    @property
    def dropped(self) -> tuple[tuple[int, str], ...]:
        """(pair_id, reason) of every pair that doesn't count."""
        found = [(pair.pair_id, "; ".join(pair.dropped)) for pair in self.pairs if pair.dropped]
        return tuple(sorted([*found, *self.lost_pairs]))

    def arm(self, arm: str) -> tuple[RunFacts, ...]:
        """Every run of an arm, those of dropped pairs too."""
        return tuple(run for run in self.runs if run.arm == arm)


def find(paths: Iterable[Path]) -> list[RunDir]:
    """The run directories that paths name: themselves, or an experiment's. Raises UsageError."""
    found: list[RunDir] = []
    for path in paths:
        if (path / "manifest.json").exists():
            found.append(rundir.open_run(path))
            continue
        children = sorted(path.iterdir()) if path.is_dir() else []
        runs = [
            RunDir(one.resolve())
            for one in children
            if (one / "manifest.json").exists() and not one.is_symlink()
        ]
        if not runs and not (path.is_dir() and expfile.exists(path)):
            raise UsageError(
                f"{path}: neither a run directory nor one that holds runs; name runs or an experiment"
            )
        found += runs
    return found


def read(paths: Sequence[Path], known: dict[Path, RunFacts] | None = None) -> Experiment:
    """Everything that the paths hold. Raises UsageError for a path that holds nothing.

    known: runs read before, by directory; those read now are added. For one who looks again and again.
    """
    lost, looks = _experiment_files(paths)
    runs, problems = _read_runs(find(paths), {} if known is None else known)
    gone = {pair_id for pair_id, _ in lost}
    problems += refusals.of(runs, gone)
    pairs = _pairs(runs) if not problems else ()
    return Experiment(tuple(runs), pairs, tuple(dict.fromkeys(problems)), lost, looks)


def with_problem(found: Experiment, problem: str) -> Experiment:
    """The experiment with one more reason why nothing may be concluded."""
    return replace(found, problems=(*found.problems, problem))


def values(pairs: Sequence[PairRuns]) -> pd.DataFrame:
    """[pair_id, arm, metric, window, value, n, c] of the plan's metrics, raw."""
    rows = [
        (pair.pair_id, arm, t.metric, t.window, run.values[t.key], run.n.get(t.key, 0), pair.c)
        for pair in pairs
        for arm, run in zip(ARMS, (pair.a, pair.b), strict=True)
        for t in runfacts.plan_of(run.scenario).metrics
        if run.values.get(t.key) is not None
    ]
    frame = pd.DataFrame(rows, columns=["pair_id", "arm", "metric", "window", "value", "n", "c"])
    return frame.astype({"c": "float64", "value": "float64"})


def counts(pairs: Sequence[PairRuns]) -> pd.DataFrame:
    """[pair_id, arm, kind, x, n]: requests shed, and migrations of streams whose engine was killed."""
    rows: list[tuple[int, str, str, int, int]] = []
    for pair in pairs:
        for arm, run in zip(ARMS, (pair.a, pair.b), strict=True):
            rows.append((pair.pair_id, arm, "shed", *run.shed))
            if pair.a.migrated is not None and pair.b.migrated is not None and run.migrated is not None:
                rows.append((pair.pair_id, arm, "migrated", *run.migrated))
    return pd.DataFrame(rows, columns=["pair_id", "arm", "kind", "x", "n"])


def _experiment_files(
    paths: Sequence[Path],
) -> tuple[tuple[tuple[int, str], ...], tuple[int, ...] | None]:
    """Dropped pairs without both runs, and the looks that were planned, where one experiment.json is named."""
    files = [(path, expfile.read(path)) for path in paths if path.is_dir() and expfile.exists(path)]
    lost = [
        (pair.pair_id, pair.reason)
        for path, file in files
        for pair in file.pairs
        if pair.state == "dropped" and not _both_there(path, pair.pair_id)
    ]
    looks = tuple(files[0][1].looks) if len(files) == 1 == len(paths) else None
    return tuple(sorted(lost)), looks


def _both_there(path: Path, pair_id: int) -> bool:
    names = (expfile.run_name(pair_id, arm) for arm in ARMS)
    return all((path / name / "manifest.json").exists() for name in names)


def _read_runs(found: Sequence[RunDir], known: dict[Path, RunFacts]) -> tuple[list[RunFacts], list[str]]:
    problems: list[str] = []
    by_path: dict[Path, RunDir] = {}
    for run in sorted(found, key=lambda one: one.path.name):
        if run.path in by_path:
            problems.append(f"run {run.path.name} is named twice; name each run once")
        by_path[run.path] = run
    unread = [run for path, run in by_path.items() if path not in known]
    read = _in_parallel if len(unread) >= PARALLEL_FROM else _one_by_one
    for run, one in zip(unread, read(unread), strict=True):
        if isinstance(one, RunFacts):
            known[run.path] = one
        else:
            problems.append(one)
    runs = [known[path] for path in by_path if path in known]
    runs.sort(key=lambda one: (one.experiment_id, str(one.pair_id).rjust(20), str(one.arm), one.run_id))
    return runs, sorted(problems)


def _one_by_one(found: Sequence[RunDir]) -> list[RunFacts | str]:
    return [_facts(run) for run in found]


def _in_parallel(found: Sequence[RunDir]) -> list[RunFacts | str]:
    """The same in as many processes as there are cores, while this one loads what judging needs."""
    workers = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _leave_interrupts_to_parent) as pool:
        started = [pool.submit(_facts, run) for run in found]
        import statsmodels.robust  # a second of imports
        import statsmodels.stats.multitest  # noqa: F401

        return [one.result() for one in started]


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _facts(run: RunDir) -> RunFacts | str:
    """A run's facts, or why it can't be read."""
    try:
        return runfacts.read(run)
    except SquallError as error:
        what = str(error).replace(f"{run.path}/", "").replace(f"{run.path}", run.path.name)
        return f"run {run.path.name}: {what}; restore its files or leave its pair out"


def _pairs(runs: Sequence[RunFacts]) -> tuple[PairRuns, ...]:
    """Pairs in order, each with the reasons why it is dropped."""
    by = {(run.pair_id, run.arm): run for run in runs}
    ids = sorted({run.pair_id for run in runs})
    slow = _odd_probes(runs)
    found = []
    for pair_id in ids:
        a, b = by.get((pair_id, "A")), by.get((pair_id, "B"))
        if a is None or b is None:
            continue  # a dropped pair whose second run was never made
        reasons = [f"run {run.run_id}: {why}" for run in (a, b) for why in run.invalid]
        reasons += [f"run {run.run_id}: {slow[run.run_id]}" for run in (a, b) if run.run_id in slow]
        if a.fingerprint != b.fingerprint:
            differ = sorted(
                k for k in {*a.fingerprint, *b.fingerprint} if a.fingerprint.get(k) != b.fingerprint.get(k)
            )
            reasons.append(f"fingerprints differ in {', '.join(differ)}")
        found.append(PairRuns(pair_id, a, b, tuple(dict.fromkeys(reasons))))
    return tuple(found)


def _odd_probes(runs: Sequence[RunFacts]) -> dict[str, str]:
    """Runs before which the machine was much slower or faster than usual, by both arms together."""
    probes = {run.run_id: math.log(run.probe_ms) for run in runs if run.probe_ms is not None}
    if len(probes) < 2 * len(ARMS):
        return {}
    middle = median(probes.values())
    sd = max(PROBE_FLOOR, 1.4826 * median(abs(one - middle) for one in probes.values()))
    limit = PROBE_SD * (1 + FEW_RUNS / len(probes)) * sd  # normal noise goes beyond it in 1% of experiments
    return {
        run_id: f"the machine's speed was off by {math.expm1(one - middle):+.0%} before it"
        for run_id, one in probes.items()
        if abs(one - middle) > limit
    }
