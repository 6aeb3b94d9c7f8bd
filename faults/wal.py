"""The write-ahead log's file format: one JSON object a line, appended under a lock, fsynced.

Standard library only, because the guardian writes it too. Owns sequence numbers, torn tails and
which faults are open; knows nothing of what a phase means for a fault.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import clock
from harness.core.errors import FaultError


class JournalError(FaultError):
    """The journal can't be written or read, so nothing may be injected."""


class Open(NamedTuple):
    """A fault on a target that was announced and not yet recovered."""

    fault_id: str
    fault: str
    target: str
    undo: dict[str, Any]  # the newest one of its lines

    @property
    def ops(self) -> list[dict[str, Any]]:
        return list(self.undo.get("ops", []))


def parse(data: bytes, name: str) -> list[dict[str, Any]]:
    """Lines of a journal. A torn line (a crash while appending) is left out; a hole is an error.

    A repaired file may have a torn piece in its middle: then the numbers on both sides still follow
    each other. Raises JournalError when they don't.
    """
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = json.loads(raw)
            seq = line["seq"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if seq != len(lines) + 1:
            raise JournalError(
                f"{name}: line {number}: number {seq} where {len(lines) + 1} should be; the journal was changed"
            )
        lines.append(line)
    return lines


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of the journal at `path`, none when there is no file. Raises JournalError."""
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None


def open_file(path: Path, fsync: Callable[[int], None] = os.fsync) -> int:
    """A descriptor for `append`, 0600; a new name is made durable at once. Raises JournalError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}; nothing may be injected without a journal") from None
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fsync(parent)
        finally:
            os.close(parent)
    except OSError as error:
        os.close(fd)
        raise JournalError(f"{path.parent}: {error.strerror}; nothing may be injected") from None
    return fd


def append(
    fd: int, fields: Mapping[str, Any], name: str, fsync: Callable[[int], None] = os.fsync
) -> dict[str, Any]:
    """Add one line and make it durable; `seq` is given here, `wall_ns` too. Raises JournalError.

    Other processes may append as well: each append holds the file's lock and reads the last number.
    What could not be written whole is taken back.
    """
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, size, 0)
        line = {"seq": len(parse(data, name)) + 1, "t_ns": 0, "wall_ns": clock.wall_ns(), **fields}
        text = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if data and not data.endswith(b"\n"):
            text = b"\n" + text
        try:
            sent = 0
            while sent < len(text):
                sent += os.write(fd, text[sent:])
            fsync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise JournalError(f"{name}: {error.strerror}; free some space on that disk") from None
        return line
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def open_faults(lines: Iterable[Mapping[str, Any]]) -> list[Open]:
    """Faults with an intent and no `recovered` after it, oldest intent first; undo them in reverse."""
    found: dict[tuple[str, str], Open] = {}
    for line in lines:
        key = (line["fault_id"], line["target"])
        if line["phase"] == "intent":
            found.pop(key, None)
            found[key] = Open(line["fault_id"], line["fault"], line["target"], line.get("undo") or {})
        elif line["phase"] == "recovered":
            found.pop(key, None)
        elif line.get("undo") and key in found:
            found[key] = found[key]._replace(undo=line["undo"])
    return list(found.values())
