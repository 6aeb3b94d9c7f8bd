"""Where one Locust process leaves its requests: records-<n>.jsonl, one JSON line each.

Every record is one unbuffered append, so that a process killed at any moment leaves all that it
finished (a write into the page cache costs some 5 us, once a request). Knows nothing of Locust.
"""

from __future__ import annotations

import os

import msgspec

from harness.core import rundir
from harness.core.records import RequestRecord
from harness.core.rundir import RunDir


class Sink:
    """Appends records of one process; `close` says how many there are. Not for several threads."""

    def __init__(self, run: RunDir, worker_index: int) -> None:
        """Open the file, going on after what an earlier load of the same run wrote. Raises OSError."""
        self._done = run.records_done(worker_index)
        self._done.unlink(missing_ok=True)
        self._fd = os.open(run.records(worker_index), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._encoder = msgspec.json.Encoder()
        self._closed = False
        self.rows = self._lines_there()

    def write(self, record: RequestRecord) -> None:
        """Append one record. Raises OSError when the disk is full: the run is broken then."""
        line = self._encoder.encode(record) + b"\n"
        written = os.write(self._fd, line)
        while written < len(line):
            written += os.write(self._fd, line[written:])
        self.rows += 1

    def close(self) -> int:
        """Make the rows durable, write their number beside them, return it. May be called again."""
        if not self._closed:
            self._closed = True
            os.fsync(self._fd)
            os.close(self._fd)
            rundir.write_atomic(self._done, b"%d\n" % self.rows)
        return self.rows

    def _lines_there(self) -> int:
        """Lines of an earlier load; a torn last one is ended, so that the next starts a line."""
        lines, last = 0, b"\n"
        while block := os.read(self._fd, 1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
        if last != b"\n":
            os.write(self._fd, b"\n")
            lines += 1
        return lines
