"""The load of one Locust process in one test: its users' traffic, where its records go, how late it was.

`Alone` is the whole load of a run with one process. With several, each worker has a Generator
(worker.py) and the master a Fleet (fleet.py), which answers the same questions as Alone.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import gevent
import msgspec

from harness.collect.sink import Sink
from harness.core import clock
from harness.core.clock import Anchor
from harness.core.config import Scenario
from harness.core.records import RequestRecord
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState
from harness.sut import outside
from harness.traffic.context import LiveCounters, Numbering, Numbers, TrafficContext
from harness.traffic.measure import Meter
from harness.traffic.progress import Progress
from harness.traffic.totals import Totals

NICE = -10  # where it is allowed: what measures must not wait for what is measured


@dataclass(frozen=True)
class Trial:
    """What a process needs to know of one test. `anchor` is on this process's own clock."""

    scenario: Scenario
    sut: SutState
    run_id: str
    anchor: Anchor


@dataclass(frozen=True)
class Measured:
    """What the load came to. problems: why the run can't be judged; empty when all is there."""

    totals: Totals
    rows: int
    generator: dict[str, Any]  # of the manifest
    problems: list[str] = field(default_factory=list)


class Records(Protocol):
    """Where records go: a Sink, or a Shipper."""

    rows: int

    def write(self, record: RequestRecord) -> None: ...


class Load(Protocol):
    """The load of a run, whatever processes it comes from: Alone, or a Fleet."""

    @property
    def processes(self) -> int: ...

    @property
    def traffic(self) -> TrafficContext | None:
        """Of the users in this process, while a test goes on."""
        ...

    def gather(self) -> None:
        """Make ready, before instant 0. Raises UsageError, InvalidRun."""
        ...

    def begin(self, run: RunDir, test: Trial) -> None:
        """Users may start."""
        ...

    def totals(self) -> Totals: ...

    def hurry(self, stop_timeout_s: float) -> None:
        """Users that are told to stop get only so long for their streams."""
        ...

    def end(self) -> Measured:
        """All users have ended: close the files."""
        ...

    def settle(self) -> None:
        """Wait, not for long, until Locust may quit."""
        ...


class Generator:
    """Begins when made; `end` it once."""

    def __init__(
        self, test: Trial, records: Records, numbers: Numbers, index: int = 0, count: int = 1
    ) -> None:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        self.traffic = TrafficContext(
            scenario=test.scenario, sut=test.sut, run_id=test.run_id, anchor=test.anchor, worker_index=index,
            worker_count=count, sink=records.write, live=LiveCounters(), headers=outside.headers(test.sut),
            numbering=numbers,
        )  # fmt: skip
        inspect.stack()  # Locust does it when it stops; only the first time it takes a tenth of a second
        self._meter = Meter(self.traffic)
        awaited = [step.when.past_token.token for step in test.scenario.faults
                   if step.when is not None and step.when.past_token is not None]  # fmt: skip
        self._progress = {token: Progress() for token in awaited}
        warm_ns = test.anchor.mono_ns + int(test.scenario.load.warmup_s * clock.NS)
        self._warm = gevent.spawn_later(
            max(0.0, (warm_ns - clock.now_ns()) / clock.NS), self.traffic.lag.reset
        )

    def totals(self) -> Totals:
        """Now."""
        live = self.traffic.live
        past = {token: one.past(live.open, token) for token, one in self._progress.items()}
        return msgspec.structs.replace(live.totals(), past=past)

    def end(self) -> dict[str, float | None]:
        """Write the last records; the figures of this process."""
        self._warm.kill()
        return self._meter.end()


class Alone:
    """The load of a run that is in this process and in no other."""

    processes = 1

    def __init__(self) -> None:
        self._generator: Generator | None = None
        self.traffic: TrafficContext | None = None

    def gather(self) -> None:
        """Nothing to wait for."""

    def begin(self, run: RunDir, test: Trial) -> None:
        """Open the file of records; from now on users find their traffic."""
        self._sink = Sink(run, 0)
        self._generator = Generator(test, self._sink, Numbering())
        self.traffic = self._generator.traffic

    def totals(self) -> Totals:
        """Now; nothing before the test began."""
        return Totals() if self._generator is None else self._generator.totals()

    def hurry(self, stop_timeout_s: float) -> None:
        """Users ask Locust's environment, which is the caller's."""

    def end(self) -> Measured:
        """Write the last records and close their file."""
        assert self._generator is not None
        figures = self._generator.end()
        self.traffic = None
        rows, totals = self._sink.close(), self._generator.totals()
        return Measured(totals, rows, {**figures, "processes": 1})

    def settle(self) -> None:
        """Nobody else has to end first."""
