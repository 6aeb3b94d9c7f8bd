"""A measurement of one process: garbage collector off, heartbeat on, and what it says at the end.

A collection stalls the hub for tens of milliseconds, in which chunks of a stream arrive together.
"""

from __future__ import annotations

import gc

from harness.traffic.context import TrafficContext


class Meter:
    """Begins when made; `end` it once."""

    def __init__(self, traffic: TrafficContext) -> None:
        self._traffic = traffic
        gc.collect()
        gc.freeze()
        gc.disable()
        traffic.lag.start()

    def end(self) -> dict[str, float | None]:
        """Write the last records, release the engine, collect garbage again; the manifest's `generator`."""
        self._traffic.lag.stop()
        self._traffic.close()
        gc.enable()
        gc.unfreeze()
        gc.collect()
        return self._traffic.lag.result()
