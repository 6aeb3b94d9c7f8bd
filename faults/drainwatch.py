"""What a process shows while it ends: each channel is looked at in a thread of its own, so that a page
that hangs delays no other.

Owns the times at which a sign was first (or last) seen. Knows no fault and no platform. Standard
library only; threads are greenlets under gevent's monkey patch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from faults.ports import Ports, Target, Undo
from harness.core import clock
from harness.core.errors import SquallError

_LOOK_S = 0.03  # between two looks at one channel
_END_S = 3.0  # a look that is still at work when the drain is over is waited for so long


@dataclass
class DrainWatch:
    """Context manager: looks while it is open. All *_ns are CLOCK_MONOTONIC, None: not seen."""

    ports: Ports
    target: Target
    undo: Undo
    began_ns: int = field(default_factory=clock.now_ns)
    exit_ns: int | None = None
    health_red_ns: int | None = None  # its /health no longer answers 200, and was seen to answer
    live_red_ns: int | None = None
    live_while_red: bool | None = None  # /live answered 200 when /health no longer did
    refused_ns: dict[int, int] = field(default_factory=dict)  # by port
    delisted_ns: dict[str, int] = field(default_factory=dict)  # by frontend
    listing: set[str] = field(default_factory=set)  # frontends that answered
    requests: list[float] = field(default_factory=list)  # first and last count seen
    tokens: list[float] = field(default_factory=list)
    last_request_ns: int | None = None
    last_token_ns: int | None = None
    in_flight: float | None = None  # at the signal
    in_flight_left: float | None = None  # at the last look
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> DrainWatch:
        looks = [self._look_ports]
        if self.ports.drains is not None:
            looks += [self._look_pages, self._look_progress, self._look_lists]
        self._threads = [threading.Thread(target=self._go_on, args=(look,), daemon=True) for look in looks]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        end = clock.now_ns() + int(_END_S * clock.NS)
        for thread in self._threads:
            thread.join(max(0.0, (end - clock.now_ns()) / clock.NS))

    def signs(self) -> list[int]:
        """When it first did something that it doesn't do while it serves."""
        single = [at for at in (self.health_red_ns, self.exit_ns) if at is not None]
        return [*single, *self.refused_ns.values(), *self.delisted_ns.values()]

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        delisted = sorted(self.delisted_ns.values())
        everywhere = bool(self.listing) and self.listing <= set(self.delisted_ns)
        view = self.ports.drains
        return {
            "watched_from_ns": self.began_ns,
            "grace_period_s": view.grace_s(self.target) if view is not None else None,
            "health_red_ns": self.health_red_ns,
            "live_red_ns": self.live_red_ns,
            "live_while_red": self.live_while_red,
            "deregistered_ns": delisted[0] if delisted else None,
            "deregistered_everywhere_ns": delisted[-1] if everywhere else None,
            "deregistered_s": {name: self._seconds(at) for name, at in sorted(self.delisted_ns.items())},
            "refused_ns": min(self.refused_ns.values(), default=None),
            "refuses_s": {str(port): self._seconds(at) for port, at in sorted(self.refused_ns.items())},
            "last_request_ns": self.last_request_ns,
            "last_token_ns": self.last_token_ns,
            "requests_after": self.requests[1] - self.requests[0] if self.requests else None,
            "tokens_after": self.tokens[1] - self.tokens[0] if self.tokens else None,
            "in_flight_at_signal": self.in_flight,
            "in_flight_at_last_look": self.in_flight_left,
        }

    def _seconds(self, at_ns: int) -> float:
        return round((at_ns - self.began_ns) / clock.NS, 3)

    def _go_on(self, look: Callable[[], None]) -> None:
        while not self._over.is_set():
            with contextlib.suppress(SquallError):
                look()
            self._over.wait(_LOOK_S)

    def _look_ports(self) -> None:
        for port in map(int, self.undo.saved["ports"]):
            if port not in self.refused_ns and self.ports.processes.refuses(self.target, port):
                self.refused_ns[port] = clock.now_ns()

    def _look_pages(self) -> None:
        assert self.ports.drains is not None
        health, live = self.ports.drains.pages(self.target)
        now = clock.now_ns()
        if self.health_red_ns is None and health is not None and health != 200:
            self.health_red_ns = now
            self.live_while_red = None if live is None else live == 200
        if self.live_red_ns is None and live is not None and live != 200:
            self.live_red_ns = now

    def _look_progress(self) -> None:
        assert self.ports.drains is not None
        seen = self.ports.drains.progress(self.target)
        now = clock.now_ns()
        if seen.requests is not None and _moved(self.requests, seen.requests):
            self.last_request_ns = now
        if seen.tokens is not None and _moved(self.tokens, seen.tokens):
            self.last_token_ns = now
        if seen.in_flight is not None:
            self.in_flight = seen.in_flight if self.in_flight is None else self.in_flight
            self.in_flight_left = seen.in_flight

    def _look_lists(self) -> None:
        assert self.ports.drains is not None
        for name, listed in self.ports.drains.listed_by(self.target).items():
            self.listing.add(name)
            if not listed:
                self.delisted_ns.setdefault(name, clock.now_ns())


def _moved(span: list[float], count: float) -> bool:
    """Keep first and last count; True when it grew since the last look."""
    if not span:
        span += [count, count]
        return False
    grew = count > span[1]
    span[1] = max(span[1], count)
    return grew
