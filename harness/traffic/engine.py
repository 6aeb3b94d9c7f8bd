"""What the connections of one process share: timer, kernel stamps, addresses, work put off for later.

Two engines: `hub` receives in gevent's hub, `reactor` in a thread of the compiled extension. All else is
the same code, and so are the records. TLS is received by the hub in both.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import gevent
from gevent.event import Event
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore

from harness.core.clock import now_ns
from harness.core.errors import UsageError
from harness.traffic import receive, stamps
from harness.traffic.exchange import Exchange
from harness.traffic.reactor import native
from harness.traffic.reactor.receiver import Reactor
from harness.traffic.sockets import Sockets
from harness.traffic.timer import Timer
from harness.traffic.tls import Tls

Kind = Literal["hub", "reactor"]
Choice = Literal["auto", "hub", "reactor"]
JOBS_NS = 500_000  # of deferred work between two looks at the sockets
MOST_JOBS = 4096  # answers that wait to be judged, some 15 KB each
FIRST = 2  # libev's highest priority


class HubEngine:
    """`kind`: hub or reactor. Raises UsageError when the reactor is wanted and not there."""

    def __init__(self, kind: Kind = "hub") -> None:
        self.kind = kind
        self._reactor = _reactor() if kind == "reactor" else None
        self.timer = Timer()
        self._sockets = Sockets()
        self.open: set[Exchange] = set()  # what is going on now
        self._warm_up = stamps.WarmUp()
        self.kernel_stamps = self._warm_up.available
        self._addresses: dict[tuple[str, int], list[tuple[int, Any]]] = {}
        self._lookup = BoundedSemaphore()
        self._jobs: deque[Callable[[], None]] = deque()
        self._room = Event()
        self._worker: Any = None
        self._loop: Any = gevent.get_hub().loop
        self._closed = False

    def addresses(self, host: str, port: int) -> list[tuple[int, Any]]:
        """(family, address) pairs; a name is looked up once, by gevent's resolver. Raises OSError."""
        with self._lookup:
            known = self._addresses.get((host, port))
            if known is None:
                known = self._addresses[host, port] = _resolve(host, port)
            return known

    def receiver(self, connection: receive.Connection, sock: Any, session: Tls | None) -> receive.Receiver:
        """What reads a connected socket. Raises OSError."""
        if self._reactor is not None and session is None:
            return self._reactor.receiver(connection, sock)
        return receive.HubReceiver(self._sockets, connection, sock, session)

    def defer(self, job: Callable[[], None]) -> None:
        """Run `job` soon, but after the sends that are due and with the sockets served in between."""
        self._jobs.append(job)
        self._wake_worker()

    def _wake_worker(self) -> None:
        if self._worker is None or self._worker.dead:
            self._worker = gevent.spawn(self._work)

    def wait_for_room(self) -> None:
        """Wait while more is put off than MOST_JOBS: who asks before others' answers are judged fills memory.

        The request is late then, which its send lag shows.
        """
        while len(self._jobs) > MOST_JOBS:
            self._wake_worker()
            self._room.clear()
            self._room.wait()

    def turn(self) -> None:
        """Let the hub see to what is ready and due, once, then go on.

        gevent.sleep(0) doesn't: it comes back up to 50 times before the hub looks at a socket. An idle watcher
        keeps the hub from waiting, and at its priority is called in each round before the sockets; what it
        leaves for later runs after them.
        """
        waiter: Any = Waiter()
        idle = self._loop.idle(priority=FIRST)
        idle.start(self._loop.run_callback, waiter.switch, None)
        try:
            waiter.get()
        finally:
            idle.stop()
            idle.close()

    def flush(self) -> None:
        """Wait until all deferred work is done."""
        while self._jobs or (self._worker is not None and not self._worker.dead):
            self._wake_worker()
            self._worker.join()

    def _work(self) -> None:
        until = now_ns() + JOBS_NS
        try:
            while self._jobs:
                self._jobs.popleft()()
                if len(self._jobs) == MOST_JOBS:
                    self._room.set()
                if now_ns() >= until:
                    self.turn()
                    until = now_ns() + JOBS_NS
        finally:
            self._room.set()  # after a job that failed: who waits begins again

    def close(self) -> None:
        """Finish deferred work and release the descriptors; a second call does nothing."""
        self.flush()
        if not self._closed:
            self._closed = True
            if self._reactor is not None:
                self._reactor.close()
            self._sockets.close()
            self.timer.close()
            self._warm_up.close()


def choose(wanted: Choice) -> Kind:
    """What `generator.engine` stands for on this machine."""
    if wanted != "auto":
        return wanted
    return "hub" if native.why_not() else "reactor"


def _reactor() -> Reactor:
    why = native.why_not()
    if why is not None:
        raise UsageError(f"generator.engine: reactor: {why}")
    return Reactor()


def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return [(family, (host, port))]
    found = gevent.get_hub().resolver.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]
