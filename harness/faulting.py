"""The faults of one test: their plan and journal, and what their scheduler asks of load, system and observer."""

from __future__ import annotations

import os
from collections.abc import Callable

import gevent

from faults import targets, timeline
from faults.journal import Journal
from faults.ports import Target
from faults.scheduler import Hooks, Scheduler
from faults.timeline import Injection
from harness import platforms
from harness.collect import gauges
from harness.core.errors import InvalidRun
from harness.core.rundir import RunDir
from harness.generator import Load, Trial
from harness.observer import Observer
from harness.sut import outside

MAX_WARMUP_FAILED_RATIO = 0.1


class Faulting:
    """Made at instant 0; `run` in a greenlet, `stop` while the load still goes on, then `close`."""

    def __init__(
        self, run: RunDir, test: Trial, load: Load, observer: Observer, reason: Callable[[str], None]
    ) -> None:
        """`reason` is told why the run can't be judged. Raises UsageError for an impossible plan."""
        self._test, self._load, self._observer, self._reason = test, load, observer, reason
        self._headers = outside.headers(test.sut)
        scenario = test.scenario
        ports = platforms.of(scenario, str(run.scenario)).ports(run, scenario.recover_timeout_s)
        plan = timeline.plan(scenario, targets.of_system(test.sut), str(run.scenario), ports.offers)
        hooks = Hooks(
            before=self._scrape, after=self._scrape, on_failed=self._failed, steady=self._unsteady,
            value=self._value,
        )  # fmt: skip
        self._journal = Journal(run.journal, test.anchor, fsync=_fsync)
        warmup_s = scenario.load.warmup_s
        self._scheduler = Scheduler(plan, ports, self._journal, test.anchor, warmup_s, hooks)
        self.run, self.open_ids = self._scheduler.run, self._scheduler.open_ids

    def stop(self, why: str) -> None:
        """Undo every fault while traffic still shows that it is undone."""
        for problem in self._scheduler.stop(why):
            self._reason(problem)
        self.scrape("end")

    def close(self) -> None:
        """After `stop`: nothing is written any more."""
        self._journal.close()

    def scrape(self, label: str) -> None:
        """All metrics of the system, now."""
        try:
            self._observer.scrape(label)
        except InvalidRun as error:
            self._reason(str(error))

    def _scrape(self, injection: Injection) -> None:
        self.scrape(injection.fault_id)

    def _failed(self, injection: Injection, target: Target, reason: str) -> None:
        self._reason(f"{injection.fault_id} on {target.name}: {reason}")

    def _value(self, injection: Injection) -> float | None:
        """What the condition of a fault counts, now."""
        when = injection.when
        if when is None:
            return None
        if when.of_system:
            names = [one.name for one in injection.targets]
            return gauges.value(when, self._test.sut, names, self._headers)
        totals = self._load.totals()
        return totals.in_flight if when.past_token is None else totals.past.get(when.past_token.token, 0)

    def _unsteady(self) -> str | None:
        """Why the warm-up didn't reach a steady state, None when it did."""
        totals = self._load.totals()
        if totals.tokens == 0:
            return "no token arrived during warm-up"
        if totals.failed > MAX_WARMUP_FAILED_RATIO * totals.sent:
            return f"{totals.failed} of {totals.sent} requests failed during warm-up"
        return None


def _fsync(fd: int) -> None:
    """fsync on gevent's thread pool: it may take long, and the hub must go on."""
    gevent.get_hub().threadpool.apply(os.fsync, (fd,))
