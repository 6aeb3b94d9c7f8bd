"""`squall ab`: interleaved pairs of runs of two systems, looked at as they come, until they decide.

Pairs go ABBA (a coin of the seed says who begins), both runs of a pair send one trace, each pair another
one. All state is in the experiment's directory: killed after pair 3, the same command goes on with pair 4.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from faults import recover as recovery
from harness import arms, preflight, speed, stages
from harness.core import clock, config, expfile, ids, manifest, rundir
from harness.core.config import Scenario
from harness.core.errors import Exit, NotRestored, SquallError, UsageError
from harness.core.expfile import Arm, ExperimentFile, Pair
from harness.core.rundir import RunDir
from harness.interrupt import Interrupted, Signals
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.stats.experiment import Experiment
    from harness.stats.runfacts import RunFacts

Print = Callable[[str], None]
MAX_RERUNS = 2  # of dropped pairs
RUN_OVERHEAD_S = 15.0  # start, drain, tear-down, judging: for what is expected only


@dataclass
class Lab:
    """One experiment under way: where, what, and what people see of it."""

    directory: Path
    file: ExperimentFile
    scenarios: Mapping[str, Scenario]
    progress: Progress
    signals: Signals
    show: Print
    command: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        """The experiment's own directory, with verdict.json and report/ as a run has them."""
        return RunDir(self.directory)

    def save(self, **changes: Any) -> None:
        self.file = msgspec.structs.replace(self.file, **changes)
        expfile.write(self.directory, self.file)


def ab(
    path: Path, a: str, b: str, overrides: list[str], pairs: str, out: Path | None, archive: Path | None,
    strict: bool, show: Print,
) -> int:  # fmt: skip
    """Run, judge, report. Returns the exit code. strict: inconclusive ends in 1 instead of 3."""
    scenario = preflight.load(path, overrides, None)
    sides = {
        name: arms.resolve(text, scenario, str(path), stages.runs_dir())
        for name, text in (("A", a), ("B", b))
    }
    for name, (arm, one) in sides.items():
        _check(one, f"--{name.lower()} {arm.label}", path)
    file = _file(scenario, {name: arm for name, (arm, _) in sides.items()}, looks_of(scenario, pairs))
    directory = out or stages.runs_dir() / file.experiment_id
    _make(directory)
    with rundir.hold(RunDir(directory.resolve())):
        words = [word for override in overrides for word in ("--set", override)]
        lab = Lab(
            directory.resolve(), file, {name: one for name, (_, one) in sides.items()}, Progress(), Signals(), show,
            ["squall", "ab", str(path), "--a", a, "--b", b, *words, "--pairs", pairs, "--out", str(directory)],
        )  # fmt: skip
        from harness import archives

        store = archive or archives.standing(stages.runs_dir(), scenario.name, file.fingerprint_class)
        if not _resume(lab):
            archives.snapshot(store, lab.directory, scenario.name, file.fingerprint_class)
            lab.save()
        code = _go_on(lab, store)
    return int(Exit.FAIL) if strict and code == Exit.INCONCLUSIVE else code


def looks_of(scenario: Scenario, pairs: str) -> tuple[int, ...]:
    """The looks that `--pairs` asks for: `auto`, or a number. Raises UsageError."""
    from harness.stats import runfacts

    plan = runfacts.plan_of(scenario)
    if pairs == "auto":
        return plan.looks
    if not pairs.isdigit():
        raise UsageError(f"--pairs {pairs!r}: write `auto` or a number of pairs, 3 or more")
    return replace(plan, looks=(int(pairs),)).looks


def _check(scenario: Scenario, label: str, path: Path) -> None:
    """Refuse an arm before anything starts, saying which."""
    try:
        preflight.check(scenario, str(path))
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from None


def _file(scenario: Scenario, sides: Mapping[str, Arm], looks: tuple[int, ...]) -> ExperimentFile:
    return ExperimentFile(
        schema=1, experiment_id=ids.run_id(f"{scenario.name}-ab"), scenario=scenario.name,
        config_sha256=config.config_sha256(scenario),
        fingerprint_class=manifest.fingerprint_class(manifest.fingerprint()), seed=scenario.seed,
        looks=list(looks), a=sides["A"], b=sides["B"], started_at=clock.utc_text(clock.wall_ns()),
        squall_version=importlib.metadata.version("squall-harness"),
    )  # fmt: skip


def _make(directory: Path) -> None:
    """A new directory, or one with an experiment in it. Raises UsageError for any other."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {one.name for one in directory.iterdir()} - {"lock"}
    except OSError as error:
        raise UsageError(
            f"{directory}: can't hold an experiment: {error.strerror}; name another --out"
        ) from None
    if there and expfile.FILE not in there:
        raise UsageError(f"{directory}: holds something else than an experiment; name another --out")


def _resume(lab: Lab) -> bool:
    """Take up the experiment that the directory holds. False when there is none."""
    if not expfile.exists(lab.directory):
        return False
    old = expfile.read(lab.directory)
    for name, was, now in (
        ("scenario", old.scenario, lab.file.scenario),
        ("scenario's load, faults, gates or slo (config_sha256)", old.config_sha256, lab.file.config_sha256),
        ("seed", old.seed, lab.file.seed),
        ("--a", old.a.sut, lab.file.a.sut),
        ("--b", old.b.sut, lab.file.b.sut),
        ("--pairs", old.looks, lab.file.looks),
        ("machine (fingerprint_class)", old.fingerprint_class, lab.file.fingerprint_class),
    ):
        if was != now:
            shown = f" ({was!r} there, {now!r} here)" if not isinstance(was, dict) else ""
            raise UsageError(
                f"{lab.directory}: holds an experiment with another {name}{shown}; name another --out"
            )
    lab.file = old
    _set_aside(lab)
    if old.pairs:
        lab.progress.say(f"going on after pair {max(pair.pair_id for pair in old.pairs)}")
    return True


def _set_aside(lab: Lab) -> None:
    """Runs of a pair that was begun and not finished: cleaned up after, and put out of the way."""
    known = {expfile.run_name(pair.pair_id, arm) for pair in lab.file.pairs for arm in "AB"}
    for path in sorted(lab.directory.glob("pair-*")):
        if path.name in known:
            continue
        run = RunDir(path)
        if run.manifest.exists() and not run.restored.exists():
            recovery.recover(run, lab.progress.say)
        aside = lab.directory / expfile.ASIDE
        aside.mkdir(mode=0o700, exist_ok=True)
        number = sum(one.name.startswith(path.name) for one in aside.iterdir()) + 1
        path.rename(aside / f"{path.name}-{number}")


def _go_on(lab: Lab, store: Path) -> int:
    """Pair after pair until a look decides. Returns the exit code of the verdict."""
    from harness import comparing

    known: dict[Path, RunFacts] = {}
    while True:
        found, verdict = comparing.judge([lab.directory], None, known)
        if _decided(lab, found, verdict):
            lab.save(status=verdict["status"])
            return comparing.finish(lab.run, found, verdict, lab.file, store, lab.command, lab.show)
        lab.progress.say(_expects(lab, verdict, len(found.valid)))
        code = _pair(lab)
        if code is not None:
            _set_aside(lab)
            lab.show(
                f"stopped after {len(lab.file.pairs)} pairs; go on with the same command: --out {lab.directory}"
            )
            return code


def _decided(lab: Lab, found: Experiment, verdict: Mapping[str, Any]) -> bool:
    """Is there nothing more to be learned, or no way to learn it?"""
    looks, valid = lab.file.looks, len(found.valid)
    if found.problems or any(run.broken for run in found.runs) or len(found.dropped) > MAX_RERUNS:
        return True
    return valid >= looks[-1] or (valid in looks and verdict["status"] != "inconclusive")


def _expects(lab: Lab, verdict: Mapping[str, Any], valid: int) -> str:
    """Where it stands, and how many pairs are expected."""
    ahead = [look for look in lab.file.looks if look > valid]
    wanted = valid + max((one["more_pairs"] or 0 for one in verdict["metrics"]), default=0)
    likely = next((look for look in ahead if look >= wanted), ahead[-1])
    load = lab.scenarios["A"].load
    minutes = 2 * (likely - valid) * (load.warmup_s + load.duration_s + RUN_OVERHEAD_S) / 60
    open_ = [
        f"{one['metric']} in {one['window']}" for one in verdict["metrics"] if one["status"] == "inconclusive"
    ]
    still = f"; still open: {', '.join(open_[:3])}{', ...' if len(open_) > 3 else ''}" if open_ else ""
    return f"{valid} pairs, next look at {ahead[0]}, {likely} expected (about {minutes:.0f} min){still}"


def _pair(lab: Lab) -> int | None:
    """Run the next pair and write down how it ended; an exit code when the experiment must stop."""
    pair_id = max((pair.pair_id for pair in lab.file.pairs), default=0) + 1
    seed = ids.seed_of(lab.file.seed, "pair", pair_id) % 1_000_000_000
    order = order_of(lab.file.seed, pair_id)
    reason = ""
    for turn, arm in enumerate(order):
        code = _one(lab, pair_id, arm, 2 * (pair_id - 1) + turn, seed)
        if code is not None:
            return code
        reason = _reason(lab, pair_id, arm)
        if reason:
            lab.progress.say(f"pair {pair_id} is dropped: {reason}")
            break
    state: Literal["done", "dropped"] = "dropped" if reason else "done"
    lab.save(pairs=[*lab.file.pairs, Pair(pair_id, seed, order, state, reason)])
    return None


def order_of(seed: int, pair_id: int) -> Literal["AB", "BA"]:
    """ABBA: pairs alternate who begins; a coin of the seed says who begins the first."""
    heads = ids.rng(seed, "order").random() < 0.5
    return "AB" if heads == (pair_id % 2 == 1) else "BA"


def _one(lab: Lab, pair_id: int, arm: str, slot: int, seed: int) -> int | None:
    """One run; an exit code when it was interrupted or left something behind."""
    label = (lab.file.a if arm == "A" else lab.file.b).label
    lab.progress.title = f"pair {pair_id} {arm}"
    try:
        with lab.signals.raising():
            probe = speed.probe_ms()
    except Interrupted:
        return int(Exit.INTERRUPTED)
    lab.progress.say(f"{label}, probe {probe:.1f} ms")
    scenario = arms.with_seed(lab.scenarios[arm], seed)
    run = rundir.create(lab.directory / expfile.run_name(pair_id, arm))
    place = {
        "experiment_id": lab.file.experiment_id, "pair_id": pair_id, "slot": slot, "arm": arm,
        "probe_ms": round(probe, 3),
    }  # fmt: skip
    run_id = ids.run_id(f"{scenario.name}-{run.path.name}")
    again = ["squall", "run", str(run.scenario), "--seed", str(seed)]
    quiet: Print = lambda _: None  # noqa: E731 - the experiment has its own table
    try:
        code = stages.run_scenario(
            run, scenario, run_id, again, lab.progress, lab.signals, quiet, place=place
        )
    except (NotRestored, UsageError):
        raise
    except SquallError as error:
        lab.progress.say(str(error))
        return None
    finally:
        lab.progress.title = ""
    return code if code in (Exit.INTERRUPTED, Exit.NOT_RESTORED) else None


def _reason(lab: Lab, pair_id: int, arm: str) -> str:
    """Why a run that has ended doesn't count; empty when it does."""
    run = RunDir(lab.directory / expfile.run_name(pair_id, arm))
    said = manifest.read(run)
    if said.get("valid") is True:
        return ""
    reasons = said.get("invalid_reasons") or ["it was never judged"]
    return f"run {said['run_id']}: {reasons[0]}"
