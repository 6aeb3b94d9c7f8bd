"""The master's side of several Locust processes: gathers them, tells them the plan, adds up what they say.

Every wait is bounded, and a worker that falls silent or dies is a problem of the run, said once and at
once. What a worker does is in worker.py; the messages are in messages.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent.event import Event

from harness import messages
from harness.collect import alignment, ship
from harness.collect.alignment import SAME, Offset, Round
from harness.core import clock, config, manifest, proc
from harness.core.clock import Anchor
from harness.core.errors import InvalidRun, UsageError
from harness.core.rundir import RunDir
from harness.generator import Measured, Trial
from harness.member import Member
from harness.messages import Closed, Hello
from harness.traffic import figures
from harness.traffic.context import Numbering, TrafficContext
from harness.traffic.totals import Totals, together

log = logging.getLogger(__name__)

GATHER_S = 10.0  # a worker that Locust knows has said hello long before
ROUNDS = 16
ROUND_S = 2.0
SILENT_S = 10.0  # a worker speaks twenty times a second
LOOK_S = 0.25
STOP_S = 1.0
CLOSE_S = 15.0  # users have ended by then: a worker only writes its last records
SETTLE_S = 10.0


@dataclass
class _Asked:
    """Rounds with one worker that are under way."""

    done: Event = field(default_factory=Event)
    rounds: list[Round] = field(default_factory=list)


class Fleet:
    """The load of a run that is spread over worker processes, of this host or of others."""

    traffic: TrafficContext | None = None  # no user lives in the master

    def __init__(self, environment: Any, problem: Callable[[str], None]) -> None:
        """`problem` is told, in a greenlet, why the run can't be judged any more and must end."""
        self._environment, self._problem = environment, problem
        self._hellos: dict[str, Hello] = {}
        self._here = messages.hello("", "")
        self._workers: dict[str, Member] = {}
        self._asked: dict[str, _Asked] = {}
        self._ending = False
        self._run: RunDir | None = None
        self._numbers = Numbering()
        self._watching: gevent.Greenlet | None = None
        runner = environment.runner
        for name, listener in (
            (messages.HELLO, self._on_hello), (messages.CLOCK, self._on_clock),
            (messages.LIVE, self._on_live), (messages.NUMBERS, self._on_numbers),
            (messages.CLOSED, self._on_closed), (messages.FAILED, self._on_failed),
        ):  # fmt: skip
            runner.register_message(name, listener)
        environment.events.worker_report.add_listener(self._on_report)

    @property
    def processes(self) -> int:
        return len(self._workers)

    # --- the life of a test ------------------------------------------------------------------------

    def gather(self) -> None:
        """Wait for every worker that Locust knows, and align clocks. Raises UsageError, InvalidRun."""
        self._stop_watching()
        runner = self._environment.runner
        ready = [node.id for node in runner.clients.ready]
        if not ready:
            raise UsageError("no worker is ready: start one with `locust --worker --master-host HOST`")
        if not clock.wait_until(lambda: all(one in self._hellos for one in ready), GATHER_S):
            strange = ", ".join(one for one in ready if one not in self._hellos)
            raise UsageError(f"{strange}: no worker of squall; start workers with squall's locustfile.py")
        ready.sort(key=runner.get_worker_index)
        self._workers = {one: self._worker(one, index) for index, one in enumerate(ready)}
        self._ending, self._numbers = False, Numbering()
        for worker in self._workers.values():
            worker.offset = self._align(worker)

    def begin(self, run: RunDir, test: Trial) -> None:
        """Give every worker its plan; its users can't start before. Raises UsageError."""
        self._run, self._anchor, self._began_cpu_s = run, test.anchor, clock.cpu_s()
        scenario = config.to_yaml(test.scenario)
        for worker in self._workers.values():
            self._refuse_unreachable(worker, test.sut.urls)
        for worker in self._workers.values():
            anchor = Anchor(test.anchor.mono_ns + worker.offset.offset_ns, test.anchor.wall_ns)
            plan = messages.plan(
                test.run_id, str(run.path), scenario, test.sut, anchor, worker.index, len(self._workers)
            )
            worker.heard_ns = clock.now_ns()
            self._send(messages.PLAN, worker, messages.plain(plan))
        self._watching = gevent.spawn(self._watch)

    def totals(self) -> Totals:
        """As the workers said last, at most some 50 ms ago."""
        return together(one.totals for one in self._workers.values())

    def hurry(self, stop_timeout_s: float) -> None:
        """Users that are told to stop get only so long for their streams."""
        for worker in self._workers.values():
            self._send(messages.HURRY, worker, stop_timeout_s)

    def end(self) -> Measured:
        """Wait for each worker's count; what is missing is named. The clocks are compared once more."""
        run, self._ending = self._run, True
        assert run is not None
        workers = list(self._workers.values())
        if not clock.wait_until(self._all_ended, STOP_S):
            for worker in workers:  # Locust stopped without telling them, as it does when it quits
                if not worker.ended:
                    self._send("stop", worker, None)
            clock.wait_until(self._all_ended, CLOSE_S)
        self._stop_watching()
        ends = [one.end(self._anchor, self._align) for one in workers]
        told, problems = [end[0] for end in ends], [problem for end in ends for problem in end[1]]
        generator = {
            **figures.merged([one.closed.figures for one in workers if one.closed]),
            "master_cpu_s": clock.cpu_s() - self._began_cpu_s, "processes": len(workers), "workers": told,
        }  # fmt: skip
        return Measured(self.totals(), sum(one.rows(run) for one in workers), generator, problems)

    def settle(self) -> None:
        """Locust's workers must be ready again before it quits, or they hang."""
        clients = self._environment.runner.clients
        living = {one.client_id for one in self._workers.values() if one.gone is None}
        clock.wait_until(lambda: living <= {node.id for node in clients.ready}, SETTLE_S)

    # --- parts of it ----------------------------------------------------------------------------------

    def _worker(self, client_id: str, index: int) -> Member:
        hello, here = self._hellos[client_id], self._here
        version = manifest.version()
        if hello.version != version:
            raise UsageError(
                f"worker on {hello.host} is squall {hello.version}, this is {version}: install the same on both"
            )
        who = proc.identify(hello.pid) if hello.pids == here.pids else None
        return Member(client_id, index, hello, who)

    def _refuse_unreachable(self, worker: Member, urls: list[str]) -> None:
        """A system on loopback is reached from its own host only."""
        if worker.hello.boot == self._here.boot:
            return
        for url in urls:
            host = urlsplit(url).hostname or ""
            if host == "localhost" or host.startswith("127.") or host == "::1":
                raise UsageError(f"{worker.name} runs on another host and can't reach {url}: use an outside "
                                 "system (sut.url) with an address that it can reach")  # fmt: skip

    def _align(self, worker: Member) -> Offset:
        """The worker's clock against ours. Raises InvalidRun when it doesn't answer."""
        if worker.hello.clock == self._here.clock:
            return SAME
        asked = self._asked[worker.client_id] = _Asked()
        for _ in range(ROUNDS):
            asked.done.clear()
            self._send(messages.CLOCK, worker, clock.now_ns())
            if not asked.done.wait(ROUND_S):
                raise InvalidRun(f"{worker.name} doesn't answer, so its clock is unknown")
        return alignment.offset(asked.rounds)

    def _watch(self) -> None:
        """Notice workers that die or fall silent."""
        while True:
            gevent.sleep(LOOK_S)
            for worker in self._workers.values():
                if worker.ended:
                    continue
                silent_s = (clock.now_ns() - worker.heard_ns) / clock.NS
                if worker.identity is not None and not proc.alive(worker.identity):
                    self._lose(worker, "died")
                elif silent_s > SILENT_S:
                    self._lose(worker, f"has said nothing for {silent_s:.0f} s")

    def _lose(self, worker: Member, what: str) -> None:
        assert self._run is not None
        reason = worker.lose(self._run, what, self._anchor)
        log.error("squall: %s", reason)
        self._problem(reason)

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.kill()
            self._watching = None

    def _all_ended(self) -> bool:
        return all(one.ended for one in self._workers.values())

    def _send(self, kind: str, worker: Member, data: Any) -> None:
        self._environment.runner.send_message(kind, data, worker.client_id)

    # --- messages -------------------------------------------------------------------------------------

    def _on_hello(self, msg: Any, **_: Any) -> None:
        new = msg.node_id not in self._hellos
        try:
            self._hellos[msg.node_id] = messages.read(msg.data, Hello)
        except msgspec.ValidationError as error:
            log.error("squall: %s is a worker of another version: %s", msg.node_id, error)
            return
        self._environment.runner.send_message(messages.WELCOME, None, msg.node_id)
        if new and self._watching is not None and not self._ending:
            self._problem(f"a worker joined on {self._hellos[msg.node_id].host} while the load went on")

    def _on_clock(self, msg: Any, **_: Any) -> None:
        answered_ns = clock.now_ns()
        asked = self._asked.get(msg.node_id)
        if asked is not None:
            asked_ns, heard_ns, said_ns = msg.data
            asked.rounds.append(Round(asked_ns, heard_ns, said_ns, answered_ns))
            asked.done.set()

    def _on_live(self, msg: Any, **_: Any) -> None:
        worker = self._workers.get(msg.node_id)
        if worker is not None:
            worker.live(messages.read(msg.data, Totals))

    def _on_numbers(self, msg: Any, **_: Any) -> None:
        given = {name: [self._numbers.next(name) for _ in range(count)] for name, count in msg.data.items()}
        self._environment.runner.send_message(messages.NUMBERS, given, msg.node_id)

    def _on_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        """Records that came with Locust's own report."""
        worker = self._workers.get(client_id)
        chunks = data.pop(messages.RECORDS, None)
        if worker is not None and chunks and self._run is not None:
            worker.receive(self._run, ship.unpack(chunks))

    def _on_closed(self, msg: Any, **_: Any) -> None:
        worker = self._workers.get(msg.node_id)
        if worker is None or worker.closed is not None or self._run is None:
            return
        worker.close(self._run, messages.read(msg.data, Closed))
        if not self._ending and not self._told_to_stop():
            self._problem(f"{worker.name} ended before the load did")

    def _told_to_stop(self) -> bool:
        return bool(self._environment.runner.state in ("stopping", "stopped"))

    def _on_failed(self, msg: Any, **_: Any) -> None:
        worker = self._workers.get(msg.node_id)
        self._problem(f"{worker.name if worker else msg.node_id} failed: {msg.data}")
