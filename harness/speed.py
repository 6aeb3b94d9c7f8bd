"""How fast this machine is right now: a fixed piece of work, timed before each run of a pair.

Where run-to-run noise comes from the machine (a host that takes time away, another clock rate), the probe
tells, and the comparison takes that part out of the difference.
"""

from __future__ import annotations

import hashlib
from statistics import median

from harness.core import clock

ROUNDS = 15
BLOCK = bytes(range(256)) * 256  # 64 KiB: stays in the cache, so the processor is measured and not memory
BLOCKS = 200
STEPS = 150_000


def probe_ms() -> float:
    """Median time of the work, ms; about half a second in all on a processor of today."""
    times = []
    for _ in range(ROUNDS):
        began = clock.now_ns()
        _work()
        times.append((clock.now_ns() - began) / clock.MS)
    return median(times)


def _work() -> int:
    """Half hashing (one long instruction stream), half interpreting (what a frontend of Python does)."""
    digest = hashlib.sha256()
    for _ in range(BLOCKS):
        digest.update(BLOCK)
    total = digest.digest()[0]
    for step in range(STEPS):
        total = (total * 31 + step) & 0xFFFF
    return total
