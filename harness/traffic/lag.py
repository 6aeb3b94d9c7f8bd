"""The generator judges itself: how late it sent, how long its hub was busy, what it couldn't time.

Receive times come from the kernel, so a busy hub doesn't spoil them; late sends do, and so do chunks
that arrived together. Knows nothing of the system under test.
"""

from __future__ import annotations

from array import array
from typing import Any

import gevent

from harness.core import clock, hostcpu
from harness.traffic.timer import TimerFd
from harness.traffic.transcript import Findings

BEAT_NS = 20_000_000  # waking an idle hub costs some 100 us of CPU


class Lag:
    """Counts of one process and one measurement."""

    def __init__(self) -> None:
        self._fd: TimerFd | None = None
        self._watcher: Any = None
        self._due_ns = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was counted so far; the heartbeat goes on."""
        self.send_ns = array("q")  # t_start - t_due of every request
        self.write_ns = array("q")  # from t_start until its bytes were with the kernel; connecting included
        self.beat_ns = array("q")  # lateness of every heartbeat of the hub
        self.chunks = self.coalesced = self.coalesced_late = 0
        self._began_cpu_s, self._began_ticks = clock.cpu_s(), hostcpu.ticks()

    def start(self) -> None:
        """Begin the heartbeat: a timerfd, each 20 ms on an absolute grid."""
        self._fd = TimerFd()
        self._due_ns = clock.now_ns() + BEAT_NS
        self._fd.set(self._due_ns, BEAT_NS)
        self._watcher = gevent.get_hub().loop.io(self._fd.fd, 1, ref=False)
        self._watcher.start(self._beat)

    def _beat(self) -> None:
        assert self._fd is not None
        now = clock.now_ns()
        for _ in range(self._fd.read()):  # a stall counts with every beat that it swallowed
            self.beat_ns.append(now - self._due_ns)
            self._due_ns += BEAT_NS

    def stop(self) -> None:
        """End the heartbeat."""
        if self._fd is not None:
            self._watcher.stop()
            self._watcher.close()
            self._fd.close()
            self._fd = None

    def sent(self, due_ns: int, start_ns: int, sent_ns: int) -> None:
        """A request that should have gone out at `due_ns` was begun at `start_ns`; sent_ns 0: never sent."""
        self.send_ns.append(start_ns - due_ns)
        if sent_ns:
            self.write_ns.append(sent_ns - start_ns)

    def answered(self, found: Findings) -> None:
        """An answer's chunks with tokens, and those that arrived together."""
        self.chunks += found.token_events
        self.coalesced += found.coalesced
        self.coalesced_late += found.coalesced_late

    def result(self) -> dict[str, float | None]:
        """The manifest's `generator`. send_lag: due to begun; write_lag: begun to sent. coalesced_ratio:
        chunks whose time may be off by more than 5 ms, which is what the scenario limits;
        coalesced_any_ratio: all that arrived with another. None: nothing was measured."""
        return {
            "send_lag_p99_ms": _p99_ms(self.send_ns),
            "send_lag_max_ms": _ms(max(self.send_ns, default=None)),
            "write_lag_p99_ms": _p99_ms(self.write_ns),
            "hub_lag_p99_ms": _p99_ms(self.beat_ns),
            "hub_lag_max_ms": _ms(max(self.beat_ns, default=None)),
            "coalesced_ratio": self.coalesced_late / self.chunks if self.chunks else None,
            "coalesced_any_ratio": self.coalesced / self.chunks if self.chunks else None,
            "chunks": self.chunks,
            "cpu_s": clock.cpu_s() - self._began_cpu_s,
            "cpu_steal_ratio": hostcpu.steal_ratio(self._began_ticks, hostcpu.ticks()),
        }


def _p99_ms(values: array[int]) -> float | None:
    """The 99th percentile, linear between ranks as numpy's default."""
    if not values:
        return None
    ordered = sorted(values)
    rank = 0.99 * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return (ordered[low] + (ordered[high] - ordered[low]) * (rank - low)) / clock.MS


def _ms(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / clock.MS
