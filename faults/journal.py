"""journal.jsonl: write-ahead log and history of the faults of a run, as records.

Owns the journal of the process that injects. A line is durable (file and directory fsynced) when
`write` returns, so an intent is on disk before its first side effect. Knows no fault.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from faults import wal
from faults.wal import JournalError, Open
from harness.core.clock import Anchor
from harness.core.records import JournalLine

Phase = Literal["intent", "injected", "verified", "recovering", "recovered", "failed"]

__all__ = ["Journal", "JournalError", "Open", "Phase", "open_faults", "read"]


class Journal:
    """Appends lines to one file; `anchor` is the run's instant 0. Raises JournalError."""

    def __init__(self, path: Path, anchor: Anchor, fsync: Callable[[int], None] = os.fsync) -> None:
        self.path, self.anchor, self._fsync = path, anchor, fsync
        self._lock = threading.Lock()
        self._fd = wal.open_file(path, fsync)

    def write(
        self,
        fault_id: str,
        fault: str,
        phase: Phase,
        target: str,
        *,
        undo: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
        error: str | None = None,
        t_ns: int | None = None,
    ) -> JournalLine:
        """One line, durable on return. `t_ns` (run axis) is now unless the phase began earlier."""
        fields = {
            "t_ns": self.anchor.t_ns() if t_ns is None else t_ns,
            "fault_id": fault_id,
            "fault": fault,
            "phase": phase,
            "target": target,
            "undo": undo,
            "evidence": evidence,
            "error": error,
        }
        with self._lock:
            line = wal.append(self._fd, fields, str(self.path), self._fsync)
        return msgspec.convert(line, JournalLine)

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def read(path: Path) -> list[JournalLine]:
    """The journal at `path`; no file, no lines. A torn last line is left out. Raises JournalError."""
    try:
        return msgspec.convert(wal.read(path), list[JournalLine])
    except msgspec.ValidationError as error:
        raise JournalError(f"{path}: {error}; is this a journal of another version?") from None


def open_faults(lines: Sequence[JournalLine]) -> list[Open]:
    """Faults announced and not recovered, oldest first."""
    return wal.open_faults(msgspec.to_builtins(line) for line in lines)
