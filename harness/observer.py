"""The parent's side of the observer (harness.collect.observe): start it, ask for a scrape, end it.

The observer is a process of its own, so that probing goes on when this one is busy, and the load
doesn't pay for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading

from harness.core import proc, rundir
from harness.core.errors import InvalidRun
from harness.core.rundir import RunDir

ANSWER_S = 15.0  # many times what a start or a scrape takes


class Observer:
    """A running observer process; one question at a time."""

    def __init__(self, run: RunDir, run_id: str) -> None:
        self._log = run.log("observer")
        self._process = proc.spawn(
            [sys.executable, "-m", "harness.collect.observe", "--run-dir", str(run.path)],
            {**os.environ, proc.RUN_ENV: run_id},
            self._log,
            cwd=rundir.project_root(),
            stdin=proc.PIPE,
            stdout=proc.PIPE,
        )
        self._lock = threading.Lock()
        self._silent = False

    def wait_ready(self) -> None:
        """Block until it probes and scrapes. Raises InvalidRun."""
        with self._lock:
            self._expect(b"ready")

    def scrape(self, label: str) -> None:
        """All processes' metrics now; returns when they are read. Raises InvalidRun."""
        with self._lock:
            stdin = self._process.stdin
            assert stdin is not None
            try:
                stdin.write(f"scrape {label}\n".encode())
                stdin.flush()
            except OSError:
                raise InvalidRun(f"the observer is gone; its log is logs/{self._log.name}") from None
            self._expect(f"scraped {label}".encode())

    def close(self) -> None:
        """Let it write everything and end. Raises InvalidRun when it didn't end well."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        code = proc.wait(self._process, 5)
        if code != 0:
            self._process.kill()
            how = "did not end" if code is None else f"ended with {code}"
            raise InvalidRun(f"the observer {how}; its log is logs/{self._log.name}")

    def _expect(self, line: bytes) -> None:
        assert self._process.stdout is not None
        if self._silent or not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            self._silent = True  # asked once more, it would only cost the time again
            raise InvalidRun(f"the observer doesn't answer; its log is logs/{self._log.name}")
        got = self._process.stdout.readline().rstrip(b"\n")
        if got != line:
            raise InvalidRun(f"the observer answered {got!r} for {line!r}; its log is logs/{self._log.name}")
