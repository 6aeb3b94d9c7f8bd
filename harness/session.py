"""One Session per Locust process: from run directory to traffic, faults and files, and back.

Here traffic, faults and collection meet; each of them knows nothing of the others. The order at the
end matters: faults are undone while traffic still flows (so that "serves again" can be seen), then
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

from faults import guardian, targets, timeline
from faults.journal import Journal
from faults.ports import Target
from faults.scheduler import Hooks, Scheduler
from faults.timeline import Injection
from harness import platforms
from harness.collect import gauges
from harness.collect.sink import Sink
from harness.core import clock, config, ids, manifest, netns, phases, proc, rundir, strict, sutfile
from harness.core.clock import Anchor
from harness.core.errors import Exit, InvalidRun, UsageError
from harness.core.rundir import RunDir
from harness.locust_process import CONTROL_ENV, GUARDED_ENV, STATUS_ENV
from harness.observer import Observer
from harness.sut import outside
from harness.traffic import open_loop, users
from harness.traffic.context import LiveCounters, TrafficContext
from harness.traffic.measure import Meter
from harness.traffic.progress import Progress

log = logging.getLogger(__name__)

STATUS_EVERY_S = 0.5
INTERRUPTED_DRAIN_S = 1.0  # after Ctrl-C streams get this long to end
STOP_MARGIN_S = 1.0  # Locust waits so much longer for users than they wait for their streams
JUDGE_TIMEOUT_S = 600
MAX_WARMUP_FAILED_RATIO = 0.1
NICE = -10  # where it is allowed: what measures must not wait for what is measured


class Session:
    """Attached to Locust's environment as `environment.squall`."""

    def __init__(self, environment: Environment, run: RunDir) -> None:
        self.environment, self.run = environment, run
        text = run.scenario.read_text()
        self.scenario = config.build(strict.parse_yaml(text, str(run.scenario)), str(run.scenario))
        _refuse_outside(run)
        self.traffic: TrafficContext | None = None
        self.phase = "idle"
        self.child = GUARDED_ENV in os.environ  # of `squall run`, which guards, restores and judges
        self._reasons: list[str] = []
        self._interrupted = False
        self._orphaned = False  # `squall run` died
        self._open = contextlib.ExitStack()
        self._background: list[gevent.Greenlet] = []
        self._judging: gevent.Greenlet | None = None
        self._healed = False
        self._answered = 0  # requests that ended well within the warm-up
        users.configure(environment, self.scenario)
        open_loop.configure(environment, self.scenario)
        environment.stop_timeout = self.scenario.load.drain_s + STOP_MARGIN_S
        if self.child:
            gevent.spawn(self._listen, int(os.environ[CONTROL_ENV]))

    # --- Locust's events, in their order -------------------------------------------------------

    def start(self) -> None:
        """test_start: instant 0 of the run."""
        if self.traffic is not None:
            raise UsageError("a test is running already")
        if self.run.records(0).exists():
            self.run = _next_run(self.run, self.scenario)
            log.info("squall: this test's files go to %s", self.run.path)
        run, scenario = self.run, self.scenario
        run_id = manifest.read(run)["run_id"]
        if not self.child:
            self._open.enter_context(rundir.hold(run))
            self._guardian = guardian.start(run, run_id)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        state = sutfile.load(run)
        anchor = clock.anchor_now()
        manifest.update(run, anchor={"mono_ns": anchor.mono_ns, "wall_ns": anchor.wall_ns})
        self._observer = Observer(run, run_id)
        self._sink = Sink(run, 0)
        self.traffic = TrafficContext(
            scenario=scenario, sut=state, run_id=run_id, anchor=anchor, worker_index=0, worker_count=1,
            sink=self._sink.write, live=LiveCounters(), headers=outside.headers(state),
        )  # fmt: skip
        ports = platforms.of(scenario, str(run.scenario)).ports(run, scenario.recover_timeout_s)
        plan = timeline.plan(scenario, targets.of_system(state), str(run.scenario), ports.offers)
        hooks = Hooks(
            before=self._scrape, after=self._scrape, on_failed=self._fault_failed, steady=self._unsteady,
            value=self._value,
        )  # fmt: skip
        self._journal = Journal(run.journal, anchor, fsync=_fsync)
        self._scheduler = Scheduler(plan, ports, self._journal, anchor, scenario.load.warmup_s, hooks)
        self._meter, self._progress = Meter(self.traffic), Progress()
        self._healed, self._reasons, self._judging = False, [], None
        self._answered = 0
        self._interrupted = self._interrupted and self.child  # asked to stop before it began
        self._background = [
            gevent.spawn(self._await_observer),
            gevent.spawn(self._scheduler.run),
            gevent.spawn(self._time, anchor),
            gevent.spawn(self._tell, anchor),
        ]
        self.phase = "warm-up"

    def heal(self) -> None:
        """test_stopping: undo every fault while traffic still shows that it is undone."""
        if self.traffic is None or self._healed:
            return
        self._healed = True
        self._ended_ns = self.traffic.anchor.t_ns()
        self.phase = "recover"
        for problem in self._scheduler.stop("interrupted" if self._interrupted else "the load ends"):
            self._reasons.append(problem)
        self._scrape_as("end")
        self.phase = "drain"

    def close(self) -> None:
        """test_stop: all users have ended; close the files and complete the manifest."""
        if self.traffic is None:
            return
        traffic, self.traffic = self.traffic, None
        self.phase = "closing"
        gevent.killall([one for one in self._background if one is not gevent.getcurrent()])
        generator = self._meter.end()
        rows = self._sink.close()
        self._journal.close()
        try:
            self._observer.close()
        except InvalidRun as error:
            self._reasons.append(str(error))
        load = self.scenario.load
        live = traffic.live
        if rows != live.sent:
            self._reasons.append(f"{live.sent} requests were sent, {rows} records written")
        if live.ok + live.cancelled == self._answered:
            self._reasons.append(
                f"nothing was measured: of {live.sent} requests none was answered in full after the warm-up "
                f"({live.shed} shed, {live.failed} failed)"
            )
        manifest.add_reasons(self.run, self._reasons)
        measured_s = max(0.0, self._ended_ns / clock.NS - load.warmup_s)
        manifest.update(
            self.run,
            duration_s=min(load.duration_s, measured_s),
            generator=generator,
            counts={"sent": live.sent},
            interrupted=self._interrupted,
            cut_short_ns=self._ended_ns if self._interrupted or self._orphaned else None,
        )
        if not self.child:
            self._guardian.done()
        self._open.close()
        self.phase = "done"
        if self.environment.web_ui is not None:
            self._judging = gevent.spawn(self._judge)  # the UI stays; the report doesn't wait for its end

    def quit(self) -> None:
        """quitting: Locust ends, perhaps by Ctrl-C in the middle of a test."""
        if self.traffic is not None:
            self._interrupted = not self._orphaned
            self.environment.stop_timeout = INTERRUPTED_DRAIN_S
            self.environment.runner.stop()

    def judge(self) -> None:
        """quit: a test that somebody started by hand is judged, too."""
        if self.child or self.phase != "done":
            return
        if self._judging is None:
            self._judging = gevent.spawn(self._judge)
        self._judging.join()

    def broken(self, reason: str) -> None:
        """One of our own listeners failed: the run can't be trusted; end it."""
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
        if self.traffic is not None:
            self.traffic.lag.reset()  # the burst of first connections is warm-up
            self._answered = self.traffic.live.ok + self.traffic.live.cancelled
        gevent.sleep(max(0.0, load.warmup_s + load.duration_s - anchor.t_ns() / clock.NS))
        self._end()

    def _end(self) -> None:
        runner = self.environment.runner
        if self.environment.web_ui is None:
            runner.quit()
        else:
            runner.stop()

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
        self.environment.stop_timeout = INTERRUPTED_DRAIN_S
        self._end()

    def _tell(self, anchor: Anchor) -> None:
        """Status for the live line of `squall run`."""
        if STATUS_ENV not in os.environ:
            return
        load, fd = self.scenario.load, int(os.environ[STATUS_ENV])
        before = 0
        while self.traffic is not None:
            live, t_s = self.traffic.live, anchor.t_ns() / clock.NS
            users_now, span = self.environment.runner.user_count, phases.at(load, t_s - load.warmup_s)
            if span is not None:
                users_now = min(users_now, phases.active_users(load, t_s - load.warmup_s))
            status = {
                "phase": span.name if span is not None and self.phase == "load" else self.phase,
                "t_s": t_s, "total_s": load.warmup_s + load.duration_s, "users": users_now, "sent": live.sent, "in_flight": live.in_flight,
                "shed": live.shed, "failed": live.failed, "cancelled": live.cancelled,
                "tokens_per_s": (live.tokens - before) / STATUS_EVERY_S, "open_faults": self._scheduler.open_ids(),
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

    # --- what the fault scheduler asks ------------------------------------------------------------

    def _scrape(self, injection: Injection) -> None:
        self._scrape_as(injection.fault_id)

    def _scrape_as(self, label: str) -> None:
        try:
            self._observer.scrape(label)
        except InvalidRun as error:
            self._reasons.append(str(error))

    def _fault_failed(self, injection: Injection, target: Target, reason: str) -> None:
        self._reasons.append(f"{injection.fault_id} on {target.name}: {reason}")

    def _value(self, injection: Injection) -> float | None:
        """What the condition of a fault counts, now."""
        when = injection.when
        if self.traffic is None or when is None:
            return None
        if when.of_system:
            return gauges.value(
                when, self.traffic.sut, [one.name for one in injection.targets], self.traffic.headers
            )
        live = self.traffic.live
        if when.past_token is None:
            return live.in_flight
        return self._progress.past(live.open, when.past_token.token)

    def _unsteady(self) -> str | None:
        """Why the warm-up didn't reach a steady state, None when it did."""
        traffic = self.traffic
        if traffic is None:
            return "the load has ended"
        live = traffic.live
        if live.tokens == 0:
            return "no token arrived during warm-up"
        if live.failed > MAX_WARMUP_FAILED_RATIO * live.sent:
            return f"{live.failed} of {live.sent} requests failed during warm-up"
        return None


def _refuse_outside(run: RunDir) -> None:
    """A system on hosts of its own is reached from its client's host only. Raises UsageError."""
    vantage = sutfile.load(run).vantage if run.sut.exists() else None
    if vantage is not None and vantage not in netns.named(vantage):
        raise UsageError(f"{run.sut}: the system is down and its hosts are gone; start one with `squall up`")
    if vantage is not None and not netns.inside(vantage):
        enter = " ".join(netns.command(vantage, ["locust", "..."]))
        raise UsageError(f"{run.sut}: the system is reached from namespace {vantage} only: sudo {enter}")


def _fsync(fd: int) -> None:
    """fsync on gevent's thread pool: it may take long, and the hub must go on."""
    gevent.get_hub().threadpool.apply(os.fsync, (fd,))


def _next_run(run: RunDir, scenario: config.Scenario) -> RunDir:
    """A new directory beside a used one, for the next test on the same system."""
    run_id = ids.run_id(scenario.name)
    new = rundir.create(run.path.parent / run_id)
    manifest.create(new, scenario, run_id, ["locust", "--run-dir", str(new.path)])
    for name in ("scenario", "sut"):
        rundir.write_atomic(getattr(new, name), getattr(run, name).read_bytes())
    return new
