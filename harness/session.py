"""The Session of a run: from run directory to load, faults and files, and back.

It lives in the one Locust process of a run, or in the master of several (a worker has harness/worker.py
instead). Here load, faults and collection meet; each of them knows nothing of the others. The order at
the end matters: faults are undone while traffic still flows (so that "serves again" can be seen), then
users stop, then the files are closed.
"""

from __future__ import annotations

from locust.env import Environment

import contextlib
import json
import logging
import os
import sys

import gevent
from gevent.socket import wait_read

from faults import guardian
from harness.core import clock, config, ids, manifest, netns, phases, proc, rundir, strict, sutfile
from harness.core.clock import Anchor
from harness.core.errors import Exit, InvalidRun, UsageError
from harness.core.rundir import RunDir
from harness.faulting import Faulting
from harness.fleet import Fleet
from harness.generator import Alone, Load, Trial
from harness.locust_process import CONTROL_ENV, GUARDED_ENV, STATUS_ENV
from harness.observer import Observer
from harness.traffic import open_loop, users
from harness.traffic.context import TrafficContext

log = logging.getLogger(__name__)

STATUS_EVERY_S = 0.5
INTERRUPTED_DRAIN_S = 1.0  # after Ctrl-C streams get this long to end
STOP_MARGIN_S = 1.0  # Locust waits so much longer for users than they wait for their streams
JUDGE_TIMEOUT_S = 600


class Session:
    """Attached to Locust's environment as `environment.squall`."""

    def __init__(self, environment: Environment, run: RunDir) -> None:
        self.environment, self.run = environment, run
        text = run.scenario.read_text()
        self.scenario = config.build(strict.parse_yaml(text, str(run.scenario)), str(run.scenario))
        _refuse_outside(run)
        self.phase = "idle"
        self.child = GUARDED_ENV in os.environ  # of `squall run`, which guards, restores and judges
        options = environment.parsed_options
        self._load: Load = Fleet(environment, self._lost) if options.master else Alone()
        self._anchor: Anchor | None = None  # of the test that goes on
        self._reasons: list[str] = []
        self._interrupted = False
        self._orphaned = False  # `squall run` died
        self._open = contextlib.ExitStack()
        self._background: list[gevent.Greenlet] = []
        self._judging: gevent.Greenlet | None = None
        self._healed = self._broken = False
        self._answered = 0  # requests that ended well within the warm-up
        users.configure(environment, self.scenario)
        self._expected = options.expect_workers if options.master else 1
        open_loop.configure(environment, self.scenario, self._expected)
        environment.stop_timeout = self.scenario.load.drain_s + STOP_MARGIN_S
        if self.child:
            gevent.spawn(self._listen, int(os.environ[CONTROL_ENV]))

    @property
    def traffic(self) -> TrafficContext | None:
        """Of the users in this process, while a test goes on."""
        return self._load.traffic

    # --- Locust's events, in their order -------------------------------------------------------

    def start(self) -> None:
        """test_start: instant 0 of the run."""
        if self._anchor is not None:
            raise UsageError("a test is running already")
        if self.run.records(0).exists():
            self.run = _next_run(self.run, self.scenario)
            log.info("squall: this test's files go to %s", self.run.path)
        run, scenario = self.run, self.scenario
        run_id = manifest.read(run)["run_id"]
        self._load.gather()
        if scenario.load.arrivals is not None and self._load.processes != self._expected:
            raise UsageError(
                f"{self._load.processes} workers are there, {self._expected} should share load.arrivals: "
                f"start the master with --expect-workers {self._load.processes}"
            )
        if not self.child:
            self._open.enter_context(rundir.hold(run))
            self._guardian = guardian.start(run, run_id)
        self._observer = Observer(run, run_id)
        self._healed = self._broken = False
        self._reasons, self._judging = [], None
        self._answered = 0
        self._interrupted = self._interrupted and self.child  # asked to stop before it began
        anchor = clock.anchor_now()
        manifest.update(run, anchor={"mono_ns": anchor.mono_ns, "wall_ns": anchor.wall_ns})
        test = Trial(scenario, sutfile.load(run), run_id, anchor)
        self._load.begin(run, test)
        self._faults = Faulting(run, test, self._load, self._observer, self._reasons.append)
        self._anchor = anchor
        self._background = [
            gevent.spawn(self._await_observer),
            gevent.spawn(self._faults.run),
            gevent.spawn(self._time, anchor),
            gevent.spawn(self._tell, anchor),
        ]
        self.phase = "warm-up"

    def heal(self) -> None:
        """test_stopping: undo every fault while traffic still shows that it is undone."""
        if self._anchor is None or self._healed:
            return
        self._healed = True
        self._ended_ns = self._anchor.t_ns()
        self.phase = "recover"
        self._faults.stop("interrupted" if self._interrupted else "the load ends")
        self.phase = "drain"

    def close(self) -> None:
        """test_stop: all users have ended; close the files and complete the manifest."""
        if self._anchor is None:
            return
        self._anchor = None
        self.phase = "closing"
        gevent.killall([one for one in self._background if one is not gevent.getcurrent()])
        measured = self._load.end()
        self._faults.close()
        try:
            self._observer.close()
        except InvalidRun as error:
            self._reasons.append(str(error))
        load, totals = self.scenario.load, measured.totals
        self._reasons += measured.problems
        if measured.rows != totals.sent:
            self._reasons.append(f"{totals.sent} requests were sent, {measured.rows} records written")
        if totals.ok + totals.cancelled == self._answered:
            self._reasons.append(
                f"nothing was measured: of {totals.sent} requests none was answered in full after the warm-up "
                f"({totals.shed} shed, {totals.failed} failed)"
            )
        manifest.add_reasons(self.run, self._reasons)
        measured_s = max(0.0, self._ended_ns / clock.NS - load.warmup_s)
        manifest.update(
            self.run,
            duration_s=min(load.duration_s, measured_s),
            generator=measured.generator,
            counts={"sent": totals.sent},
            interrupted=self._interrupted,
            cut_short_ns=self._ended_ns if self._interrupted or self._orphaned else None,
        )
        if not self.child:
            self._guardian.done()
        self._open.close()
        self.phase = "done"
        if self.environment.web_ui is not None:
            self._judging = gevent.spawn(self._judge)  # the UI stays; the report doesn't wait for its end
        else:
            gevent.spawn(self._leave)

    def quit(self) -> None:
        """quitting: Locust ends, perhaps by Ctrl-C in the middle of a test."""
        if self._anchor is not None:
            self._interrupted = not self._orphaned
            self._hurry()
            self.environment.runner.stop()

    def judge(self) -> None:
        """quit: a test that somebody started by hand is judged, too."""
        if self.child or self.phase != "done":
            return
        if self._judging is None:
            self._judging = gevent.spawn(self._judge)
        self._judging.join()

    def broken(self, reason: str) -> None:
        """One of our own listeners or users failed: the run can't be trusted; end it."""
        if self._broken:
            return
        self._broken = True
        with contextlib.suppress(OSError, UsageError):
            manifest.add_reasons(self.run, [f"squall failed: {reason}"])
        self.environment.process_exit_code = int(Exit.INVALID)
        if self.environment.runner is not None:
            gevent.spawn(self.environment.runner.quit)

    # --- greenlets ------------------------------------------------------------------------------

    def _time(self, anchor: Anchor) -> None:
        """End the load when its time is over."""
        load = self.scenario.load
        gevent.sleep(max(0.0, load.warmup_s - anchor.t_ns() / clock.NS))
        self.phase = "load"
        totals = self._load.totals()
        self._answered = totals.ok + totals.cancelled
        gevent.sleep(max(0.0, load.warmup_s + load.duration_s - anchor.t_ns() / clock.NS))
        self._end()

    def _end(self) -> None:
        """Stop the test; without a web UI Locust ends then, too: see `close`."""
        runner = self.environment.runner
        if self.phase == "idle" and self.environment.web_ui is None:
            runner.quit()  # asked to stop before it began
        else:
            runner.stop()

    def _leave(self) -> None:
        """Workers that are told to quit before they are ready again hang for a minute."""
        self._load.settle()
        self.environment.runner.quit()

    def _hurry(self) -> None:
        self.environment.stop_timeout = INTERRUPTED_DRAIN_S
        self._load.hurry(INTERRUPTED_DRAIN_S)

    def _lost(self, problem: str) -> None:
        """A worker is gone: what comes now would be another load, so end it."""
        self._reasons.append(problem)
        gevent.spawn(self._end)

    def _judge(self) -> None:
        """In a process of its own: analysis would stop the hub."""
        argv = [sys.executable, "-m", "harness.cli", "report", str(self.run.path)]
        done = proc.run(argv, timeout_s=JUDGE_TIMEOUT_S)
        sys.stdout.write(done.out)
        sys.stderr.write(done.err)
        self.environment.process_exit_code = done.code

    def _listen(self, fd: int) -> None:
        """`stop` from `squall run`, or its death: an orderly, quick end."""
        wait_read(fd)
        if os.read(fd, 64):
            log.info("squall: asked to stop")
            self._interrupted = True
        else:
            self._orphaned = True
            self._reasons.append("`squall run` died during the load")
        self._hurry()
        self._end()

    def _tell(self, anchor: Anchor) -> None:
        """Status for the live line of `squall run`."""
        if STATUS_ENV not in os.environ:
            return
        load, fd = self.scenario.load, int(os.environ[STATUS_ENV])
        before = 0
        while self._anchor is not None:
            live, t_s = self._load.totals(), anchor.t_ns() / clock.NS
            users_now, span = self.environment.runner.user_count, phases.at(load, t_s - load.warmup_s)
            if span is not None:
                users_now = min(users_now, phases.active_users(load, t_s - load.warmup_s))
            status = {
                "phase": span.name if span is not None and self.phase == "load" else self.phase,
                "t_s": t_s, "total_s": load.warmup_s + load.duration_s, "users": users_now,
                "processes": self._load.processes, "sent": live.sent, "in_flight": live.in_flight,
                "shed": live.shed, "failed": live.failed, "cancelled": live.cancelled,
                "tokens_per_s": (live.tokens - before) / STATUS_EVERY_S, "open_faults": self._faults.open_ids(),
            }  # fmt: skip
            before = live.tokens
            with contextlib.suppress(OSError):
                os.write(fd, json.dumps(status).encode() + b"\n")
            gevent.sleep(STATUS_EVERY_S)

    def _await_observer(self) -> None:
        try:
            self._observer.wait_ready()
        except InvalidRun as error:
            self._reasons.append(str(error))


def _refuse_outside(run: RunDir) -> None:
    """A system on hosts of its own is reached from its client's host only. Raises UsageError."""
    vantage = sutfile.load(run).vantage if run.sut.exists() else None
    if vantage is not None and vantage not in netns.named(vantage):
        raise UsageError(f"{run.sut}: the system is down and its hosts are gone; start one with `squall up`")
    if vantage is not None and not netns.inside(vantage):
        enter = " ".join(netns.command(vantage, ["locust", "..."]))
        raise UsageError(f"{run.sut}: the system is reached from namespace {vantage} only: sudo {enter}")


def _next_run(run: RunDir, scenario: config.Scenario) -> RunDir:
    """A new directory beside a used one, for the next test on the same system."""
    run_id = ids.run_id(scenario.name)
    new = rundir.create(run.path.parent / run_id)
    manifest.create(new, scenario, run_id, ["locust", "--run-dir", str(new.path)])
    for name in ("scenario", "sut"):
        rundir.write_atomic(getattr(new, name), getattr(run, name).read_bytes())
    return new
