"""Run directories to an experiment: which runs are pairs, which of them count, and why the rest can't be used.

Bad data is refused as a whole, with one line for each reason; a pair that was disturbed is dropped, blind
to its arms and to how fast it was. Nothing depends on the order in which runs are named.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import pandas as pd

from harness.core import expfile, rundir
from harness.core.errors import SquallError, UsageError
from harness.core.rundir import RunDir
from harness.stats import runfacts
from harness.stats.runfacts import RunFacts

ARMS = ("A", "B")
PARALLEL_FROM, MAX_PROCESSES = 6, 4  # runs; processes
PROBE_SD = 4.0  # robust standard deviations from the median
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
    problems += _refusals(runs, gone)
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


def _refusals(runs: Sequence[RunFacts], gone: set[int]) -> list[str]:
    """Why these runs can't be held against each other."""
    found = [
        f"run {run.run_id}: {what}; restore the file or leave pair {run.pair_id} out"
        for run in runs
        for what in run.damage
    ]
    found += _labels(runs, gone)
    found += _unequal(runs, "config_sha256", lambda run: run.config_sha256, "runs of one scenario file only")
    if not found:
        found += _unequal(
            runs, "scenario.yaml", lambda run: run.own_config_sha256[:12], "runs of one scenario file only"
        )
    found += _unequal(
        runs, "fingerprint_class", lambda run: run.fingerprint_class, "runs of one class of machines only"
    )
    for arm in ARMS:
        of_arm = [run for run in runs if run.arm == arm]
        if len({run.system for run in of_arm}) > 1:
            first = of_arm[0]
            other = next(run for run in of_arm if run.system != first.system)
            found.append(
                f"run {other.run_id}: arm: {arm} is another system (sut) here than in run {first.run_id}; "
                "are labels swapped? compare one system an arm"
            )
    for pair_id in dict.fromkeys(run.pair_id for run in runs):
        of_pair = [run for run in runs if run.pair_id == pair_id]
        found += _unequal(
            of_pair,
            "trace_sha256",
            lambda run: run.trace_sha256,
            f"both runs of pair {pair_id} need one trace",
        )
    return [*found, *_clock(runs)]


def _labels(runs: Sequence[RunFacts], gone: set[int]) -> list[str]:
    """Ids, pairs and arms that don't fit together."""
    found: list[str] = []
    ids: set[str] = set()
    for run in runs:
        if not run.run_id:
            found.append(f"run {run.name}: run_id is missing; was it copied? take the original directory")
        elif run.run_id in ids:
            found.append(f"run {run.run_id}: run_id is there twice; leave the copy out")
        ids.add(run.run_id)
        if run.arm not in ARMS:
            found.append(
                f"run {run.run_id}: arm is {run.arm!r}; only A (baseline) and B (candidate) can be compared"
            )
        if not isinstance(run.pair_id, int) or isinstance(run.pair_id, bool):
            found.append(
                f"run {run.run_id}: pair_id is {run.pair_id!r}, no whole number; compare runs of `squall ab`"
            )
    if len({run.experiment_id for run in runs}) > 1:
        names = ", ".join(sorted({run.experiment_id or "none" for run in runs}))
        found.append(
            f"experiment_id: these runs are of several experiments ({names}); compare them one by one"
        )
    if found:
        return found
    for pair_id in dict.fromkeys(run.pair_id for run in runs):
        of_pair = [run for run in runs if run.pair_id == pair_id]
        for arm in ARMS:
            there = [run for run in of_pair if run.arm == arm]
            if not there and pair_id not in gone:
                found.append(
                    f"run {of_pair[0].run_id}: pair {pair_id} has no run of arm {arm}; run the pair again or leave it out"
                )
            if len(there) > 1:
                found.append(
                    f"run {there[1].run_id}: pair {pair_id} has arm {arm} already (run {there[0].run_id}); one run an arm"
                )
    return found


def _unequal(
    runs: Sequence[RunFacts], field: str, value: Callable[[RunFacts], str | None], remedy: str
) -> list[str]:
    """A line when the runs differ in a field, or one doesn't say."""
    for run in runs:
        if value(run) is None:
            return [f"run {run.run_id}: {field} is missing in manifest.json; {remedy}"]
    for run in runs[1:]:
        if value(run) != value(runs[0]):
            return [
                f"run {run.run_id}: {field} is {value(run)}, but {value(runs[0])} in run {runs[0].run_id}; {remedy}"
            ]
    return []


def _clock(runs: Sequence[RunFacts]) -> list[str]:
    """Runs follow each other by slot; one that began before its predecessor had another clock."""
    timed = [(run, began) for run in runs if isinstance(run.slot, int) and (began := _began(run)) is not None]
    timed.sort(key=lambda one: (one[0].experiment_id, one[0].slot))
    for (before, earlier), (after, later) in pairwise(timed):
        if after.experiment_id == before.experiment_id and later < earlier:
            return [
                f"run {after.run_id}: started_at {after.started_at} is before that of slot {before.slot} "
                f"({before.started_at}): a clock went backwards; run the experiment again"
            ]
    return []


def _began(run: RunFacts) -> datetime | None:
    """When a run began, by its manifest; without a zone it is UTC."""
    try:
        when = datetime.fromisoformat(run.started_at)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


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
    return {
        run_id: f"the machine's speed was off by {math.expm1(one - middle):+.0%} before it"
        for run_id, one in probes.items()
        if abs(one - middle) > PROBE_SD * sd
    }
