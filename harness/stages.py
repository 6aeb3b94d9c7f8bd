"""The pipeline: check, provision, load, restore, judge. One function for each command.

Every stage reads and writes the run directory only, so each can be repeated alone. Whatever happens
in between, restoring runs, and then what was measured is judged.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from faults import guardian, restore
from faults import recover as recovery
from harness import locust_process, preflight
from harness.core import config, ids, manifest, netns, proc, rundir, sutfile
from harness.core.config import Scenario
from harness.core.errors import Exit, InvalidRun, NotRestored, SquallError, UsageError
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState
from harness.interrupt import Interrupted, Signals
from harness.locust_process import LocustProcess
from harness.progress import Progress
from harness.sut import launch

Print = Callable[[str], None]

END_MARGIN_S = 30.0  # over warm-up, load, recovery and drain before Locust counts as stuck


def runs_dir() -> Path:
    """Where runs land: in the checkout that squall runs from, else (installed from a wheel) where we stand."""
    root = rundir.project_root()
    return (root if (root / "pyproject.toml").exists() else Path.cwd()) / "runs"


def run(
    path: Path, overrides: list[str], seed: int | None, out: Path | None, baseline: Path | None, show: Print
) -> int:
    """`squall run`: everything, from scenario to verdict. Returns the exit code."""
    scenario = preflight.load(path, overrides, seed)
    preflight.check(scenario, str(path), baseline)
    run_id = ids.run_id(scenario.name)
    run = rundir.create(out or runs_dir() / run_id)
    command = _command(path, overrides, scenario.seed)
    return run_scenario(run, scenario, run_id, command, Progress(), Signals(), show, baseline)


def run_scenario(
    run: RunDir, scenario: Scenario, run_id: str, command: list[str], progress: Progress, signals: Signals,
    show: Print, baseline: Path | None = None, place: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """One run in an empty run directory, judged whatever happened. place: more of its manifest, an experiment's."""
    with _on_disk(run), rundir.hold(run), contextlib.ExitStack() as kept:
        _begin(run, scenario, run_id, command, place or {})
        guard = guardian.start(run, run_id, None if scenario.sut.url else run_id)
        interrupted = False
        problem: SquallError | None = None
        try:
            with _on_disk(run):
                with signals.raising():
                    _provision(run, scenario, run_id, "run", progress, kept)
                    progress.say(
                        f"load: {scenario.load.warmup_s:g} s warm-up, {scenario.load.duration_s:g} s"
                    )
                interrupted = _load(run, scenario, run_id, signals, progress)
        except Interrupted:
            interrupted = True
        except SquallError as error:
            gone = InvalidRun(f"{run.path} must stay there: {error}; the run can't be judged")
            problem = error if run.manifest.exists() else gone
        guarded = guard.alive()
        not_restored = _restore(run, run_id, guard, progress)
        if problem is not None:
            _forget(run, problem, not_restored)
            raise problem
        if not guarded:
            manifest.add_reasons(
                run, ["the guardian died or was stopped during the run: nobody would have undone its faults"]
            )
        manifest.update(run, interrupted=interrupted, restored=not_restored is None)
        code = _judge(run, baseline, show, progress)
    for words in not_restored.commands if not_restored else ():
        show(f"to finish: {words}")
    return code


def _forget(run: RunDir, problem: SquallError, not_restored: NotRestored | None) -> None:
    """The system never came up: keep the logs that say why, and nothing when it was the user's mistake."""
    with contextlib.suppress(OSError, UsageError):  # the problem may be that nothing can be written
        manifest.update(run, restored=not_restored is None)
        manifest.add_reasons(run, [str(problem)])
    if not_restored is not None:
        raise not_restored from problem
    if isinstance(problem, UsageError):
        shutil.rmtree(run.path, ignore_errors=True)


@contextlib.contextmanager
def _on_disk(run: RunDir) -> Iterator[None]:
    """A disk that is full, or a run directory that is gone or read-only, is no bug of ours: say so."""
    try:
        yield
    except OSError as error:
        raise InvalidRun(
            f"{run.path} must stay there and writable: {error}; the run can't be judged"
        ) from error


def up(path: Path, overrides: list[str], seed: int | None, out: Path | None, show: Print) -> int:
    """`squall up`: the system alone, left running."""
    scenario = preflight.load(path, overrides, seed)
    preflight.check(scenario, str(path))
    if scenario.sut.url is not None:
        raise UsageError(f"{path}: sut.url: an outside system runs already; use `squall run`")
    progress, signals = Progress(), Signals()
    run_id = ids.run_id(scenario.name)
    run = rundir.create(out or runs_dir() / run_id)
    with _on_disk(run), rundir.hold(run):
        _begin(run, scenario, run_id, _command(path, overrides, scenario.seed), {})
        guard = guardian.start(run, run_id, run_id)
        try:
            with signals.raising():
                state = _provision(run, scenario, run_id, "up", progress, None)
        except (Interrupted, SquallError) as error:
            not_restored = _restore(run, run_id, guard, progress)
            if not_restored:
                raise not_restored from None
            if isinstance(error, Interrupted):
                return int(Exit.INTERRUPTED)
            raise
        guard.done()
    show(f"up: {', '.join(state.urls)} (model {state.model}), {len(state.processes)} processes")
    locust = ["locust", "-f", str(rundir.project_root() / "locustfile.py"), "--run-dir", str(run.path)]
    if state.vantage is None:
        show(f"  web UI:   {' '.join(locust)}")
        show("            (add --headless for a run without it)")
    else:
        show(f"  load:     {' '.join(netns.command(state.vantage, [*locust, '--headless']))}")
        show("            (on its client's host; a web UI there would be seen from that host only)")
    show(f"  then:     squall report {run.path}")
    show(f"  stop it:  squall down {run.path}")
    return int(Exit.PASS)


def down(path: Path | None, show: Print) -> int:
    """`squall down`: stop what `squall up` started."""
    runs = [rundir.open_run(path)] if path else _systems_up()
    if not runs:
        show("nothing is up")
    for run in runs:
        if _owner(run) != "up":
            raise UsageError(
                f"{run.path}: not made by `squall up`; a run that died: `squall recover {run.path}`"
            )
        with rundir.hold(run):
            state = sutfile.load(run)
            launch.teardown(state)
            _raise_problems(
                run, restore.restore(run, manifest.read(run)["run_id"], "down", show, state.sut_id)
            )
        show(f"{run.path.name}: down")
    return int(Exit.PASS)


def plan(path: Path, overrides: list[str], seed: int | None, as_json: bool, show: Print) -> int:
    """`squall plan`: what would happen; reads only."""
    scenario = preflight.load(path, overrides, seed)
    preflight.check(scenario, str(path))
    for line in preflight.plan_text(scenario, str(path), as_json):
        show(line)
    return int(Exit.PASS)


def recover(path: Path | None, show: Print) -> int:
    """`squall recover`: undo what runs that died left. Raises NotRestored."""
    runs = (
        [rundir.open_run(path)] if path else [r for r in rundir.unfinished(runs_dir()) if _owner(r) != "up"]
    )
    if not runs:
        show("no unfinished run")
    for run in runs:
        if not any(part.exists() for part in (run.manifest, run.logs, run.journal, run.sut)):
            raise UsageError(f"{run.path}: holds nothing of a run; `ls runs` shows them")
        recovery.recover(run, show)
    return int(Exit.PASS)


def report(path: Path, baseline: Path | None, show: Print) -> int:
    """`squall report`: merge, judge and render again from a run's files."""
    run = rundir.open_run(path)
    with _on_disk(run), rundir.hold(run):
        return _judge(run, baseline, show, Progress())


def unfinished_notice() -> list[str]:
    """A line for each run that died and was never restored."""
    lines = []
    for run in rundir.unfinished(runs_dir()):
        if not rundir.held(run) and _owner(run) != "up":
            lines.append(
                f"squall: unfinished run {run.path.name}: `squall recover {run.path}` undoes what it left"
            )
    return lines


def _systems_up() -> list[RunDir]:
    """Runs of `squall up` that weren't ended, or that have living processes all the same."""
    found = []
    for run in rundir.all_runs(runs_dir()):
        if _owner(run) == "up" and (
            not run.restored.exists() or proc.marked(proc.SUT_ENV, sutfile.load(run).sut_id)
        ):
            found.append(run)
    return found


def _owner(run: RunDir) -> str | None:
    return sutfile.load(run).owner if run.sut.exists() else None


def _command(path: Path, overrides: list[str], seed: int) -> list[str]:
    """The command line that repeats a run."""
    words = [word for override in overrides for word in ("--set", override)]
    return ["squall", "run", str(path), *words, "--seed", str(seed)]


def _begin(
    run: RunDir, scenario: Scenario, run_id: str, command: list[str], place: Mapping[str, Any]
) -> None:
    """Write down what will happen, before it does."""
    manifest.create(run, scenario, run_id, command)
    if place:
        manifest.update(run, **place)
    rundir.write_atomic(run.scenario, config.to_yaml(scenario).encode())
    rundir.write_atomic(run.plan, preflight.fault_plan(scenario, str(run.scenario)).to_json())
    if not place:
        rundir.link_latest(run)


def _provision(
    run: RunDir, scenario: Scenario, run_id: str, owner: Literal["run", "up"], progress: Progress,
    kept: contextlib.ExitStack | None,
) -> SutState:  # fmt: skip
    if scenario.sut.url is not None:
        return launch.attach(scenario, run, run_id)
    return launch.provision(scenario, run, owner, run_id, progress.say, kept)


def _load(run: RunDir, scenario: Scenario, run_id: str, signals: Signals, progress: Progress) -> bool:
    """Run Locust to its end. True when it was interrupted."""
    load = scenario.load
    end_s = 2 * scenario.recover_timeout_s + END_MARGIN_S
    locust = LocustProcess(run, run_id, locust_process.processes(scenario))
    interrupted = False
    try:
        try:
            with signals.raising():
                code = locust.wait(load.warmup_s + load.duration_s + load.drain_s + end_s, progress.status)
        except Interrupted:
            interrupted = True
            progress.say("interrupted: undoing faults, stopping users, writing what was measured")
            locust.ask_stop()
            code = locust.wait(end_s, progress.status)
        if code is None:
            manifest.add_reasons(run, [f"Locust did not end in time; its log is logs/{locust.log.name}"])
        elif code != 0:
            progress.say(f"Locust ended with code {code}; its log ends:\n{proc.tail(locust.log, 8)}")
            manifest.add_reasons(run, [f"Locust ended with code {code}; its log is logs/{locust.log.name}"])
    finally:
        locust.close()
    manifest.update(run, dead=_dead(run))
    return interrupted


def _dead(run: RunDir) -> list[str]:
    """Processes of the system that are gone or stopped when the load has ended and all faults are undone."""
    found = []
    for process in sutfile.load(run).processes:
        seen = proc.stat(process.pid) if proc.alive(process.identity) else None
        if seen is None or seen.state in "Tt":
            found.append(process.name)
    return found


def _restore(
    run: RunDir, run_id: str, guard: guardian.GuardianHandle, progress: Progress
) -> NotRestored | None:
    """Tear down what this run made and undo what is open; what could not be is returned."""
    if run.sut.exists() and (state := sutfile.load(run)).owner == "run":
        progress.say("tearing down")
        launch.teardown(state)
    try:
        _raise_problems(run, restore.restore(run, run_id, "run", progress.say, run_id))
    except NotRestored as error:
        progress.say(f"not restored: {error}")
        return error
    finally:
        guard.done()
    return None


def _raise_problems(run: RunDir, done: restore.Restored) -> None:
    if done.problems:
        commands = [*done.commands, f"squall recover {run.path}"]
        raise NotRestored(f"{run.path.name}: {'; '.join(done.problems)}", commands)


def _judge(run: RunDir, baseline: Path | None, show: Print, progress: Progress) -> int:
    """Merge, analyse, write, render, print. Returns the exit code of the verdict."""
    progress.say("judging")
    from harness.collect.merge import merge  # pandas and the plots load for a second, only here
    from harness.stats import analyse
    from harness.summary import lines
    from reports import model, write

    merged = merge(run)
    manifest.add_reasons(run, list(merged.missing))
    analysis = analyse.analyse(run)
    analyse.write(run, analysis)
    page = write.write_all(run, model.build(run, analysis))
    for line in lines(analysis, page, baseline):
        show(line)
    return analysis.exit_code
