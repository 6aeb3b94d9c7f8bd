"""Records on their way from a Locust process on another host: numbered chunks and a closing count.

A Shipper stands where else a Sink does; its chunks go with the messages that Locust sends anyway. The
Receiver writes what comes in as the process's own records-<n>.jsonl. Nothing is sent twice: what got
lost is known by its number, and makes the run invalid. Knows nothing of Locust.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import Any

import msgspec

from harness.core import rundir
from harness.core.records import RequestRecord
from harness.core.rundir import RunDir

CHUNK_BYTES = 1 << 20


class Chunk(msgspec.Struct, frozen=True):
    """Some records, in the order of writing. `number`: 0, 1, 2, ... for each process."""

    number: int
    rows: int
    data: bytes


class Count(msgspec.Struct, frozen=True):
    """How much a process says that it shipped in all."""

    rows: int
    chunks: int


class Shipper:
    """Keeps the records of one process until they are taken. Not for several threads."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._full: list[Chunk] = []
        self._chunks = 0
        self.rows = 0

    def write(self, record: RequestRecord) -> None:
        """One more record."""
        line = self._encoder.encode(record) + b"\n"
        self._lines.append(line)
        self._bytes += len(line)
        self.rows += 1
        if self._bytes >= CHUNK_BYTES:
            self._cut()

    def take(self) -> list[Chunk]:
        """Everything since the last call; it is the caller's to send, and won't be given again."""
        self._cut()
        chunks, self._full = self._full, []
        return chunks

    def count(self) -> Count:
        """The closing count, true once no more is written and all is taken."""
        return Count(self.rows, self._chunks)

    def _cut(self) -> None:
        if self._lines:
            self._full.append(Chunk(self._chunks, len(self._lines), b"".join(self._lines)))
            self._chunks += 1
            self._lines, self._bytes = [], 0


class Receiver:
    """Writes what one process ships to records-<n>.jsonl; what came is there, whatever happens next."""

    def __init__(self, run: RunDir, worker_index: int) -> None:
        self._done = run.records_done(worker_index)
        self._fd = os.open(run.records(worker_index), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._seen: dict[int, int] = {}  # number of a chunk: checksum
        self._problems: list[str] = []
        self.rows = 0

    def add(self, chunk: Chunk) -> None:
        """Write a chunk, at once; one that came before is not written again, nor one that comes after
        `close`, which has missed it by then. Raises OSError."""
        if self._fd < 0:
            return
        checksum = zlib.crc32(chunk.data)
        if chunk.number in self._seen:
            if self._seen[chunk.number] != checksum:
                self._problems.append(f"chunk {chunk.number} came twice, with different records")
            return
        self._seen[chunk.number] = checksum
        if chunk.data.count(b"\n") != chunk.rows or not chunk.data.endswith(b"\n"):
            self._problems.append(f"chunk {chunk.number} is damaged")
        data = chunk.data
        while data:
            data = data[os.write(self._fd, data) :]
        self.rows += chunk.rows

    def close(self, said: Count | None) -> list[str]:
        """What is wrong with what came, empty when it is all that was said. None: nothing was said.

        The row count that goes beside the records is the one that was said, so that a later reader
        misses the same rows; without one there is no such file.
        """
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        problems = self._problems
        if said is None:
            return [*problems, f"it never said how many records it shipped ({self.rows} came)"]
        rundir.write_atomic(self._done, b"%d\n" % said.rows)
        lost = [number for number in range(said.chunks) if number not in self._seen]
        if lost:
            problems.append(f"{len(lost)} of {said.chunks} chunks never came: {_listed(lost)}")
        if said.rows != self.rows:
            problems.append(f"it shipped {said.rows} records, {self.rows} came")
        return problems


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:5])
    return f"{shown}, ..." if len(numbers) > 5 else shown


def pack(chunks: list[Chunk]) -> list[Any]:
    """Chunks as plain data for a message; bytes stay bytes."""
    return [[one.number, one.rows, one.data] for one in chunks]


def unpack(plain: Any) -> list[Chunk]:
    """The reverse of `pack`. Raises ValueError, TypeError when it isn't that."""
    return [Chunk(int(number), int(rows), bytes(data)) for number, rows, data in plain]
