"""The segment log: which part of which answer this process made, one JSON line at each end,
and one for each lie that it was told to tell.

Every line is one write(2), so a kill -9 loses nothing that was made before it. Standard library only.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Segments:
    """Appends to one file; does nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = None if path is None else os.open(path, flags, 0o600)

    def write(self, event: str, request_id: str, **fields: Any) -> None:
        """One line; t_mono_ns is CLOCK_MONOTONIC."""
        if self._fd is None:
            return
        line = {"event": event, "t_mono_ns": time.monotonic_ns(), "request_id": request_id, **fields}
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
