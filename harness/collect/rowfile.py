"""The observer's two files: rows from many threads, moved to the run's axis, written each second.

Rows come with CLOCK_MONOTONIC. The anchor is known only when load starts, so rows wait for it in
memory; those of a run whose load never started are of no run axis and are dropped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from harness.core.records import Probe, Sample


class RowFile:
    """JSON lines appended to one file; `add` from any thread, `flush` from one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()
        self._rows: list[Sample | Probe] = []

    def add(self, rows: Iterable[Sample | Probe]) -> None:
        """Keep rows until the next flush."""
        with self._lock:
            self._rows.extend(rows)

    def flush(self, anchor_mono_ns: int | None) -> None:
        """Write what there is, times as ns since the anchor; nothing while there is no anchor."""
        if anchor_mono_ns is None:
            return
        with self._lock:
            rows, self._rows = self._rows, []
        for row in rows:
            row.t_ns -= anchor_mono_ns
        data = memoryview(self._encoder.encode_lines(rows))
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Make it durable."""
        os.fsync(self._fd)
        os.close(self._fd)
