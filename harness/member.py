"""One worker process in one test, as the master sees it: where it runs, what it said, what it left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.collect import alignment, ship
from harness.collect.alignment import SAME, Offset
from harness.core import clock, proc
from harness.core.clock import Anchor
from harness.core.errors import InvalidRun
from harness.core.rundir import RunDir
from harness.messages import Closed, Hello, last_chunks
from harness.traffic.totals import Totals

CLOCK_ERROR_MAX_NS = 5 * clock.MS  # what a chunk's time may be off by before it counts as late, too


@dataclass
class Member:
    """Told what comes from the worker; `end` once, when nothing more is to come."""

    client_id: str  # Locust's name for it
    index: int
    hello: Hello
    identity: proc.Identity | None  # where its pid means something here
    offset: Offset = SAME  # of its clock, when the test began
    totals: Totals = field(default_factory=Totals)
    heard_ns: int = 0
    closed: Closed | None = None
    gone: str | None = None  # why nothing more comes from it
    _receiver: ship.Receiver | None = None

    @property
    def name(self) -> str:
        return f"worker {self.index} ({self.hello.host}, pid {self.hello.pid})"

    @property
    def ended(self) -> bool:
        return self.closed is not None or self.gone is not None

    def live(self, totals: Totals) -> None:
        """How its load goes."""
        if self.closed is None:
            self.totals, self.heard_ns = totals, clock.now_ns()

    def receive(self, run: RunDir, chunks: list[ship.Chunk]) -> None:
        """Records that it ships. Raises OSError."""
        if self._receiver is None:
            self._receiver = ship.Receiver(run, self.index)
        for chunk in chunks:
            self._receiver.add(chunk)

    def close(self, run: RunDir, closed: Closed) -> None:
        """Its last word."""
        if closed.shipped is not None:
            self.receive(run, last_chunks(closed))
        self.closed, self.totals = closed, closed.totals

    def lose(self, run: RunDir, what: str, anchor: Anchor) -> str:
        """Nothing more comes from it; the reason that the run is told."""
        self.gone = (
            f"{self.name} {what}, {anchor.t_ns() / clock.NS:.1f} s after the load began: of {self.totals.sent} "
            f"requests that it sent, {self.rows(run)} records are there"
        )
        return self.gone

    def rows(self, run: RunDir) -> int:
        """Records that it says it wrote; without its last word those that are there."""
        if self.closed is not None:
            return self.closed.rows
        try:
            with run.records(self.index).open("rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        except FileNotFoundError:
            return 0

    def end(self, anchor: Anchor, align: Callable[[Member], Offset]) -> tuple[dict[str, Any], list[str]]:
        """Its part of the manifest's `generator.workers`, and why the run can't be judged because of it."""
        problems: list[str] = []
        closed = self.closed
        told: dict[str, Any] = {
            "worker_index": self.index, "host": self.hello.host, "pid": self.hello.pid,
            "sent": self.totals.sent, "rows": closed.rows if closed else None,
            "shipped": self._receiver is not None, "clock_offset_ns": self.offset.offset_ns,
            "clock_error_ns": self.offset.error_ns, "clock_drift_ns": 0,
            **(closed.figures if closed else {}),
        }  # fmt: skip
        if not self.ended:
            self.gone = f"{self.name} didn't close its records in time"
            problems.append(self.gone)
        if closed is not None and closed.rows != closed.totals.sent:
            problems.append(f"{self.name} sent {closed.totals.sent} requests and wrote {closed.rows} records")
        if self._receiver is not None:
            said = (
                None if closed is None or closed.shipped is None else ship.Count(closed.rows, closed.shipped)
            )
            problems += [f"{self.name}: {one}" for one in self._receiver.close(said)]
        if self.gone is None and self.offset is not SAME:
            told |= self._compare_clocks(anchor, align, problems)
        return told, problems

    def _compare_clocks(
        self, anchor: Anchor, align: Callable[[Member], Offset], problems: list[str]
    ) -> dict[str, int]:
        try:
            end = align(self)
        except InvalidRun as error:
            problems.append(str(error))
            return {}
        error_ns = alignment.error_ns(self.offset, end)
        if (stepped := alignment.step(self.offset, end, anchor.t_ns())) is not None:
            problems.append(f"{self.name}: {stepped}")
        elif error_ns > CLOCK_ERROR_MAX_NS:
            problems.append(
                f"{self.name}: its times may be off by {error_ns / clock.MS:.1f} ms, against the master's clock"
            )
        return {"clock_error_ns": error_ns, "clock_drift_ns": end.offset_ns - self.offset.offset_ns}
