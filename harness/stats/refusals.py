"""Why runs can't be held against each other: torn files, other scenarios, machines or traces, wrong labels.

One line for each reason, naming the run, the field and what to do. Judges nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from harness.stats.runfacts import RunFacts

ARMS = ("A", "B")


def of(runs: Sequence[RunFacts], gone: set[int]) -> list[str]:
    """Why these runs can't be held against each other."""
    found = [
        f"run {run.run_id}: {what}; restore the file or leave pair {run.pair_id} out"
        for run in runs
        for what in run.damage
    ]
    strange = _labels(runs, gone)
    found += strange
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
    for pair_id in [] if strange else dict.fromkeys(run.pair_id for run in runs):
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
