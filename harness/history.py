"""`squall history`: night by night, the candidate's ratio to a pinned version, and where it changed.

It catches what one night can't: a creep of 1% a week stays below every night's margin. It gates nothing
and opens nothing; somebody looks at the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import otava
from harness.core import expfile, rundir
from harness.core.errors import Exit, InvalidRun, UsageError
from harness.core.expfile import ExperimentFile
from harness.otava import Point

Print = Callable[[str], None]
MIN_NIGHTS = 3
JUDGED = ("pass", "improvement", "regression", "inconclusive", "fail")


@dataclass(frozen=True)
class Night:
    """One experiment: when, which candidate, its status, and candidate/baseline by (metric, window)."""

    experiment_id: str
    at: str
    candidate: str
    status: str
    ratios: Mapping[tuple[str, str], float]


def history(
    paths: Sequence[Path], scenario: str | None, against: str | None, out: Path, changes: bool, show: Print
) -> int:
    """Write the page. Raises InvalidRun when there are too few nights, UsageError when a choice is needed."""
    found = experiments(paths)
    pinned = choose(
        {(file.scenario, file.a.label, file.fingerprint_class) for _, file in found}, scenario, against
    )
    made = [night(path, file) for path, file in found if key(file) == pinned]
    nights = sorted((one for one in made if one is not None), key=lambda one: (one.at, one.experiment_id))
    if len(nights) < MIN_NIGHTS:
        raise InvalidRun(
            f"{len(nights)} nights of {pinned[0]} against {pinned[1]}; a history needs at least {MIN_NIGHTS} finished experiments"
        )
    series = {name: [one.ratios.get(name) for one in nights] for name in names(nights)}
    whole = {" @ ".join(name): [v for v in values if v is not None] for name, values in series.items()}
    points = otava.change_points(whole, show) if changes else {}
    from reports import historypage

    page = historypage.render(nights, series, points, pinned[0], pinned[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(out, page.encode(), mode=0o644)
    for line in lines(nights, series, points):
        show(line)
    show(f"history   {out}")
    return int(Exit.PASS)


def experiments(paths: Sequence[Path]) -> list[tuple[Path, ExperimentFile]]:
    """Experiments in these directories, themselves or one level down, each once."""
    found: dict[Path, ExperimentFile] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such directory; name one that holds experiments of `squall ab`")
        for one in [path, *sorted(path.iterdir())]:
            if one.is_dir() and not one.is_symlink() and expfile.exists(one):
                found[one.resolve()] = expfile.read(one)
    return sorted(found.items())


def key(file: ExperimentFile) -> tuple[str, str, str]:
    return file.scenario, file.a.label, file.fingerprint_class


def choose(
    known: set[tuple[str, str, str]], scenario: str | None, against: str | None
) -> tuple[str, str, str]:
    """(scenario, pinned version, fingerprint class) to show. Raises UsageError when that isn't one."""
    fitting = sorted(one for one in known if scenario in (None, one[0]) and against in (None, one[1]))
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UsageError("no experiment fits; name directories that hold finished experiments of `squall ab`")
    shown = "; ".join(f"{one[0]} against {one[1]} on {one[2]}" for one in fitting)
    raise UsageError(
        f"several histories are there: {shown}; choose by --scenario and --against, or by directory"
    )


def night(path: Path, file: ExperimentFile) -> Night | None:
    """An experiment that has a verdict with numbers."""
    verdict_file = path / "verdict.json"
    if not verdict_file.exists():
        return None
    verdict: dict[str, Any] = rundir.read_json(verdict_file)
    if verdict.get("status") not in JUDGED:
        return None
    ratios = {
        (str(one["metric"]), str(one["window"])): 1 + float(one["delta_ratio"])
        for one in verdict["metrics"]
        if one.get("delta_ratio") is not None
    }
    return Night(file.experiment_id, file.started_at, file.b.label, str(verdict["status"]), ratios)


def names(nights: Sequence[Night]) -> list[tuple[str, str]]:
    """Series with enough nights, in the order of the newest night's table."""
    seen = dict.fromkeys(name for one in reversed(nights) for name in one.ratios)
    return [name for name in seen if sum(name in one.ratios for one in nights) >= MIN_NIGHTS]


def lines(
    nights: Sequence[Night], series: Mapping[tuple[str, str], Sequence[float | None]],
    points: Mapping[str, Sequence[Point]],
) -> list[str]:  # fmt: skip
    """One line for each change, or that there is none."""
    found = []
    for name, values in series.items():
        there = [n for n, value in enumerate(values) if value is not None]
        for point in points.get(" @ ".join(name), ()):
            at = nights[there[point.index]]
            found.append(
                f"changed   {name[0]} in {name[1]}: {point.after / point.before - 1:+.1%} from {at.at[:10]} on "
                f"({at.candidate}, experiment {at.experiment_id}, p {point.p:.2g})"
            )
    return found or [f"{len(nights)} nights, {len(series)} series, no change found"]
