"""The sockets that the hub reads: one epoll for all, looked at when one is ready, or each 2 ms when it is busy.

Waking up for each token costs more than reading it, and the kernel's stamps say when it came (stamps.py), so
above some rate nobody needs to hurry. The reactor's thread does the same (reactor/loop.c).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

from harness.core.clock import MS, now_ns
from harness.traffic.timer import TimerFd

epoll: Any = monkey.get_original("select", "epoll")  # patching hides it, as it may block; ours never does
READ = 1
EVENT_END = b"\n\n\r\n"  # of a chunk that holds whole events
ROUND_NS = 2 * MS
MOST_READY = 512  # in one look, so that a due send never waits for more

Read = Callable[[], bool]
"""Reads its socket once, without blocking. True: several events came with one read."""


class Sockets:
    """Calls whoever's socket has something to read, from the hub that it was made in."""

    def __init__(self) -> None:
        self._epoll = epoll()
        self._reads: dict[int, Read] = {}
        self.since_ns = 0
        """What is read in this look came after that instant (CLOCK_MONOTONIC), but for what a read before left; 0:
        not known."""
        self._pace = Pace(now_ns())
        self._round = TimerFd()
        self._hub: Any = gevent.get_hub()
        self._ready = self._hub.loop.io(self._epoll.fileno(), READ)
        self._due = self._hub.loop.io(self._round.fd, READ)
        self._ready.start(self._look)

    def watch(self, fd: int, read: Read) -> None:
        """Call `read` whenever `fd` can be read, until it is forgotten. Raises OSError."""
        self._epoll.register(fd, READ)
        self._reads[fd] = read

    def forget(self, fd: int) -> None:
        """Call no more; do this before the descriptor is closed."""
        if self._reads.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Release the descriptors."""
        for watcher in (self._ready, self._due):
            watcher.stop()
            watcher.close()
        self._round.close()
        self._epoll.close()
        self._reads.clear()

    def _look(self) -> None:
        reads, joined = self._reads, 0
        called_ns = now_ns()
        ready = self._epoll.poll(0, MOST_READY)
        for fd, _ in ready:
            read = reads.get(fd)
            if read is None:  # forgotten since
                continue
            try:
                joined += read()
            except BaseException:  # noqa: BLE001 - also a greenlet's end; the others go on
                self.forget(fd)
                self._hub.handle_error(read, *sys.exc_info())
        # What wasn't ready now can't have come before; if not all were shown, who knows.
        self.since_ns = called_ns if len(ready) < MOST_READY else 0
        if self._epoll.closed:  # by one that was called
            return
        if self._pace.looked(now_ns(), len(ready), joined):
            self._change()

    def _look_in_time(self) -> None:
        self._round.read()
        self._look()

    def _change(self) -> None:
        """From looking when a socket is ready to looking in rounds, or back."""
        if self._pace.busy:
            self._ready.stop()
            self._round.set(now_ns() + ROUND_NS, ROUND_NS)
            self._due.start(self._look_in_time)
        else:
            self._due.stop()
            self._round.stop()
            self._ready.start(self._look)


class Pace:
    """How busy it is: `busy` while rounds are worth their delay.

    They are above 3 ready sockets a round. Where they make chunks of one stream arrive together, they are left off
    for a while.
    """

    BUSY_READY = 3  # a round
    SOME_JOINED = 50  # one in so many
    SPAN_NS = 50 * MS  # counted before anything changes
    QUIET_NS = 500 * MS

    def __init__(self, at_ns: int) -> None:
        self.busy = False
        self._since_ns, self._last_ns, self._quiet_until_ns = at_ns, at_ns, 0
        self._ready = self._joined = 0

    def looked(self, at_ns: int, ready: int, joined: int) -> bool:
        """Count one look: ready sockets, reads of several events. True: `busy` has changed."""
        self._ready += ready
        if at_ns - self._last_ns < 2 * ROUND_NS:  # a late look isn't the rounds' fault
            self._joined += joined
        self._last_ns = at_ns
        passed = at_ns - self._since_ns
        if passed < self.SPAN_NS:
            return False
        before = self.busy
        if before and self._joined * self.SOME_JOINED > self._ready:
            self._quiet_until_ns = at_ns + self.QUIET_NS
        self.busy = at_ns >= self._quiet_until_ns and self._ready * ROUND_NS > self.BUSY_READY * passed
        self._since_ns = at_ns
        self._ready = self._joined = 0
        return self.busy != before
