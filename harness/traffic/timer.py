"""Absolute waits on one timerfd: sends and deadlines on CLOCK_MONOTONIC, to a few microseconds.

libev's own timers have a granularity of 1 ms and gevent.sleep errs by more; a timerfd is read by the
same hub and does not. One descriptor serves any number of waiters. Knows nothing of requests.
"""

from __future__ import annotations

import ctypes
import heapq
import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Waiter

from harness.core import clock

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC have the same values
_ABSTIME = 1
_READ = 1


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class TimerFd:
    """A Linux timerfd (timerfd_create(2)); Python has os.timerfd_create from 3.13 on only."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, at_ns: int, every_ns: int = 0) -> None:
        """Fire at `at_ns` (CLOCK_MONOTONIC), then each `every_ns`; 0 = once. A past time fires now."""
        at_ns = max(1, at_ns)  # 0 would disarm it
        spec = _Itimerspec(*divmod(every_ns, clock.NS), *divmod(at_ns, clock.NS))
        if self._libc.timerfd_settime(self.fd, _ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def stop(self) -> None:
        """Fire no more."""
        if self._libc.timerfd_settime(self.fd, 0, ctypes.byref(_Itimerspec()), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def read(self) -> int:
        """Expirations since the last read, 0 when none."""
        try:
            return int.from_bytes(os.read(self.fd, 8), "little")
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.fd)


class Call:
    """A planned call; `cancel` makes it not happen."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        self.function = None

    def run(self) -> None:
        function, self.function = self.function, None
        if function is not None:
            function()


class Timer:
    """Waits and calls at absolute times of the hub that it was made in."""

    def __init__(self) -> None:
        self._fd = TimerFd()
        self._heap: list[tuple[int, int, Call]] = []
        self._count = 0
        self._armed = 0  # the instant that the descriptor is set to, 0 = none
        self._loop: Any = gevent.get_hub().loop
        self._watcher: Any = self._loop.io(self._fd.fd, _READ)
        self._watcher.start(self._fire)

    def call_at(self, at_ns: int, function: Callable[[], object]) -> Call:
        """Call `function` in the hub at `at_ns` (CLOCK_MONOTONIC). It must not block."""
        call = Call(function)
        self._count += 1
        heapq.heappush(self._heap, (at_ns, self._count, call))
        if not self._armed or at_ns < self._armed:
            self._arm(at_ns)
        return call

    def wait_until(self, at_ns: int) -> None:
        """Let the calling greenlet wait until `at_ns` (CLOCK_MONOTONIC); at once when it is past."""
        if clock.now_ns() >= at_ns:
            return
        waiter: Any = Waiter()
        call = self.call_at(at_ns, lambda: waiter.switch(None))
        try:
            waiter.get()
        finally:
            call.cancel()

    def close(self) -> None:
        """Planned calls are forgotten."""
        self._watcher.stop()
        self._watcher.close()
        self._heap.clear()
        self._fd.close()

    def _arm(self, at_ns: int) -> None:
        self._armed = max(1, at_ns)  # 0 would say that nothing is armed, and the next call would put it off
        self._fd.set(self._armed)

    def _fire(self) -> None:
        self._fd.read()
        self._armed = 0
        heap = self._heap
        now = clock.now_ns()
        while heap and (heap[0][2].function is None or heap[0][0] <= now):
            call = heapq.heappop(heap)[2]
            if call.function is not None:
                # Not from here: an error in one call would stop the watcher, and with it every other.
                self._loop.run_callback(call.run)
        if heap:
            self._arm(heap[0][0])
