"""squall in a worker process of Locust: users and their records; the rest of the run is the master's.

It learns everything of a test from the master (fleet.py) by message and needs no file of it. Where the
run directory is the master's own it writes records there, else it ships them.
"""

from __future__ import annotations

from locust.env import Environment

import contextlib
import logging
import os
import platform
import signal
from pathlib import Path
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from harness import messages
from harness.collect import ship
from harness.collect.sink import Sink
from harness.core import clock, config, manifest, proc, rundir, strict
from harness.core.clock import Anchor
from harness.core.errors import Exit, SquallError, UsageError
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState
from harness.generator import Generator, Trial
from harness.messages import Closed, Plan
from harness.traffic.context import TrafficContext

log = logging.getLogger(__name__)

HELLO_S = 0.2  # until the master has heard it
LIVE_S = 0.05  # what faults wait for is known to the master that late at most
LOOK_S = 0.5
MASTER_SILENT_S = 15.0  # Locust's master answers each heartbeat, once a second
NUMBERS_S = 10.0
SIGNALLED_DRAIN_S = 1.0  # a worker that is told to end before its master says so gives its streams so long


class Worker:
    """Attached to Locust's environment as `environment.squall`."""

    def __init__(self, environment: Environment, may_write: bool) -> None:
        """may_write: a run directory was named, so the master's may be used if it is on this host."""
        self.environment, self._may_write = environment, may_write
        self._runner = environment.runner
        self._generator: Generator | None = None
        self._plan: Plan | None = None
        self._records: Sink | ship.Shipper | None = None
        self._welcome = Event()
        self._heard_ns = clock.now_ns()
        self._broken = False
        self._background: list[gevent.Greenlet] = []
        self._numbers = _Numbers(self._runner)
        for name, listener in (
            (messages.WELCOME, self._on_welcome), (messages.CLOCK, self._on_clock),
            (messages.PLAN, self._on_plan), (messages.HURRY, self._on_hurry),
            (messages.NUMBERS, self._numbers.answered),
        ):  # fmt: skip
            self._runner.register_message(name, listener)
        environment.events.heartbeat_received.add_listener(self._on_heartbeat)
        environment.events.report_to_master.add_listener(self._on_report)
        gevent.spawn(self._greet)
        if environment.parsed_options.processes:  # forked by Locust: Ctrl-C is the master's to handle
            signal.signal(signal.SIGINT, self._on_interrupt)
            proc.die_with_parent()

    @property
    def traffic(self) -> TrafficContext | None:
        """Of the test that goes on, for users."""
        return None if self._generator is None else self._generator.traffic

    # --- Locust's events, in their order -------------------------------------------------------

    def start(self) -> None:
        """test_start: the plan came right before."""
        plan, self._plan = self._plan, None
        if plan is None:
            raise UsageError("no plan came from the master; a worker can't join a test that goes on")
        file = f"scenario of {plan.run_id}"
        scenario = config.build(strict.parse_yaml(plan.scenario, file), file)
        test = Trial(scenario, messages.read(plan.sut, SutState), plan.run_id, Anchor(*plan.anchor))
        own = self._own_directory(plan)
        self._records = ship.Shipper() if own is None else Sink(own, plan.worker_index)
        self._generator = Generator(test, self._records, self._numbers, plan.worker_index, plan.worker_count)
        self._heard_ns = clock.now_ns()
        self._background = [gevent.spawn(self._tell), gevent.spawn(self._watch_master)]

    def heal(self) -> None:
        """test_stopping: faults are the master's."""

    def close(self) -> None:
        """test_stop: all users have ended; say how many records there are."""
        generator, records = self._generator, self._records
        if generator is None or records is None:
            return
        gevent.killall([one for one in self._background if one is not gevent.getcurrent()])
        figures = generator.end()
        totals = generator.totals()
        self._generator, self._records = None, None
        if isinstance(records, Sink):
            closed = Closed(totals, records.close(), figures)
        else:
            last = ship.pack(records.take())
            count = records.count()
            closed = Closed(totals, count.rows, figures, count.chunks, last)
        self._runner.send_message(messages.CLOSED, messages.plain(closed))
        # Locust sleeps that long before it says that it is ready again, and hears no `quit` meanwhile.
        self.environment.stop_timeout = 0

    def quit(self) -> None:
        """quitting: perhaps by a signal in the middle of a test."""
        if self._generator is not None:
            self.environment.stop_timeout = SIGNALLED_DRAIN_S
            self._runner.stop()

    def judge(self) -> None:
        """quit: runs are judged where the master is."""

    def broken(self, reason: str) -> None:
        """One of our own listeners or users failed: tell the master, and end."""
        if self._broken:
            return
        self._broken = True
        with contextlib.suppress(Exception):  # edge: the master may be what is missing
            self._runner.send_message(messages.FAILED, reason)
        self.environment.process_exit_code = int(Exit.INVALID)
        gevent.spawn(self._runner.quit)

    # --- greenlets ------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Locust connects before anybody listens to messages, so say hello until it is heard."""
        hello = messages.plain(messages.hello(manifest.version(), platform.node()))
        while not self._welcome.is_set():
            self._runner.send_message(messages.HELLO, hello)
            self._welcome.wait(HELLO_S)

    def _tell(self) -> None:
        """How the load goes, for the status line and for what faults wait for."""
        while self._generator is not None:
            self._runner.send_message(messages.LIVE, messages.plain(self._generator.totals()))
            gevent.sleep(LIVE_S)

    def _watch_master(self) -> None:
        """End with a master that is gone, and at once: streams that are cut now would look like the system's."""
        while clock.now_ns() - self._heard_ns < MASTER_SILENT_S * clock.NS:
            gevent.sleep(LOOK_S)
        log.error("squall: nothing from the master for %g s: this worker ends", MASTER_SILENT_S)
        os._exit(int(Exit.INVALID))  # Locust's own end would wait for the master

    # --- messages --------------------------------------------------------------------------------

    def _on_welcome(self, **_: Any) -> None:
        self._welcome.set()

    def _on_clock(self, msg: Any, **_: Any) -> None:
        heard_ns = clock.now_ns()
        self._runner.send_message(messages.CLOCK, [msg.data, heard_ns, clock.now_ns()])

    def _on_plan(self, msg: Any, **_: Any) -> None:
        self._plan = messages.read(msg.data, Plan)

    def _on_hurry(self, msg: Any, **_: Any) -> None:
        self.environment.stop_timeout = float(msg.data)

    def _on_heartbeat(self, **_: Any) -> None:
        self._heard_ns = clock.now_ns()

    def _on_report(self, data: dict[str, Any], **_: Any) -> None:
        """Locust reports to its master every three seconds; records go with it."""
        if isinstance(self._records, ship.Shipper):
            data[messages.RECORDS] = ship.pack(self._records.take())

    def _on_interrupt(self, *_: object) -> None:
        if self._generator is None:
            raise KeyboardInterrupt

    def _own_directory(self, plan: Plan) -> RunDir | None:
        """The master's run directory, when this process sees it, too."""
        if not self._may_write or plan.boot != clock.boot_id():
            return None
        try:
            run = rundir.open_run(Path(plan.run_dir))
            return run if manifest.read(run)["run_id"] == plan.run_id else None
        except (SquallError, KeyError):
            return None


class _Numbers:
    """Numbers for users, asked from the master: as many in one message as there are users waiting."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._waiting: dict[str, list[AsyncResult]] = {}
        self._asked: dict[str, list[AsyncResult]] = {}

    def next(self, user_class: str) -> int:
        """Wait for a number that no other user of the run has. Raises RuntimeError."""
        mine: AsyncResult = AsyncResult()
        if not self._waiting:
            gevent.spawn(self._ask)
        self._waiting.setdefault(user_class, []).append(mine)
        with gevent.Timeout(NUMBERS_S, RuntimeError(f"the master gave no number to a {user_class}")):
            return int(mine.get())

    def _ask(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for name, waiters in waiting.items():
            self._asked.setdefault(name, []).extend(waiters)
        self._runner.send_message(messages.NUMBERS, {name: len(one) for name, one in waiting.items()})

    def answered(self, msg: Any, **_: Any) -> None:
        """Hand the numbers out, to those who asked first."""
        for name, numbers in msg.data.items():
            asked = self._asked.get(name, [])
            for number in numbers:
                if asked:
                    asked.pop(0).set(number)
