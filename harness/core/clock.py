"""The one clock: integer nanoseconds on CLOCK_MONOTONIC, anchored once to the wall clock.

All processes of one host share CLOCK_MONOTONIC, so a run's time is `now_ns() - anchor.mono_ns`
everywhere. Nothing else in squall reads a clock (ruff enforces it). Standard library only: the
guardian uses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

NS = 1_000_000_000
MS = 1_000_000


@dataclass(frozen=True)
class Anchor:
    """The instant 0 of a run on both clocks, in ns."""

    mono_ns: int
    wall_ns: int

    def t_ns(self) -> int:
        """Nanoseconds since the run's start."""
        return time.monotonic_ns() - self.mono_ns


def anchor_now() -> Anchor:
    """An anchor at this instant."""
    return Anchor(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns())


def identity() -> str:
    """Names the CLOCK_MONOTONIC that this process reads: equal for processes of one host, in one boot.

    A time namespace (time_namespaces(7)) has a clock of its own.
    """
    return f"{boot_id()}/{os.readlink('/proc/self/ns/time')}"


def boot_id() -> str:
    """Names this host, since it was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


now_ns = time.monotonic_ns
"""CLOCK_MONOTONIC, ns. No function of our own around it: it is called for each token."""


def wall_ns() -> int:
    """CLOCK_REALTIME, ns since the epoch."""
    return time.time_ns()


def cpu_s() -> float:
    """CPU seconds that this process has used, user and system."""
    return time.process_time()


def sleep_s(seconds: float) -> None:
    """Wait; cooperative under gevent's monkey patch."""
    time.sleep(max(0.0, seconds))


def wait_until(check: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Poll `check` until it is true; False when `timeout_s` went by first."""
    end = now_ns() + int(timeout_s * NS)
    while not check():
        if now_ns() >= end:
            return False
        sleep_s(every_s)
    return True


def utc_text(wall: int) -> str:
    """`wall` (ns since the epoch) as an ISO 8601 text in UTC."""
    at = datetime.fromtimestamp(wall // MS / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_date(wall: int) -> date:
    """The UTC day of `wall` (ns since the epoch)."""
    return datetime.fromtimestamp(wall // NS, UTC).date()
