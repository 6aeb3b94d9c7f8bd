"""The Locust child of `squall run`: its command line, its status pipe, its end.

Two pipes: it writes one JSON line of status each half second; we hold the other's write end, and
`stop` or our death (end of file) asks it for an orderly end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from harness.core import clock, netns, proc, rundir, sutfile
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.sut import ports

CONTROL_ENV = "SQUALL_CONTROL_FD"
STATUS_ENV = "SQUALL_STATUS_FD"
WORKERS_S = 60  # until Locust gives up waiting for its workers
GUARDED_ENV = "SQUALL_GUARDED"  # set: a guardian watches already


def processes(scenario: Scenario) -> int:
    """How many the scenario wants; 0 in it means one for each core, but none without a user."""
    cores = len(os.sched_getaffinity(0))
    users = cores if scenario.load.arrivals else sum(user.count for user in scenario.load.users)
    return scenario.generator.processes or min(cores, users)


class LocustProcess:
    """One headless Locust on a run directory."""

    def __init__(self, run: RunDir, run_id: str, processes: int = 1) -> None:
        """With several `processes` one more is their master. Raises ProvisionError: no port is free."""
        self._kept = contextlib.ExitStack()
        control_read, self._control = os.pipe()
        self._status, status_write = os.pipe()
        argv = [
            sys.executable, "-m", "locust", "-f", str(rundir.project_root() / "locustfile.py"), "--headless",
            "--run-dir", str(run.path), "--only-summary", "--exit-code-on-error", "0", "--loglevel", "INFO",
        ]  # fmt: skip
        if processes > 1:
            port = str(self._kept.enter_context(ports.reserved(1))[0])
            argv += ["--processes", str(processes), "--expect-workers-max-wait", str(WORKERS_S)]
            argv += ["--master-bind-host", ports.LOOPBACK, "--master-bind-port", port, "--master-port", port]
        env = {
            **os.environ,
            proc.RUN_ENV: run_id,
            CONTROL_ENV: str(control_read),
            STATUS_ENV: str(status_write),
            GUARDED_ENV: "1",
            "PYTHONUNBUFFERED": "1",
        }
        env.pop("LOCUST_LOCUSTFILE", None)
        self.log = run.log("locust")
        argv = netns.command(sutfile.load(run).vantage, argv)
        self.process = proc.spawn(argv, env, self.log, cwd=run.path, pass_fds=(control_read, status_write))
        os.close(control_read)
        os.close(status_write)
        self._buffer = b""

    def ask_stop(self) -> None:
        """Ask for an orderly end: undo faults, stop users, close files."""
        with contextlib.suppress(OSError):
            os.write(self._control, b"stop\n")

    def wait(self, timeout_s: float, on_status: Callable[[dict[str, Any]], None]) -> int | None:
        """Wait for its end and pass on its status; the exit code, or None after `timeout_s`."""
        end_ns = clock.now_ns() + int(timeout_s * clock.NS)
        while self.process.poll() is None:
            if clock.now_ns() >= end_ns:
                return None
            self._read_status(0.2, on_status)
        return self.process.returncode

    def _read_status(self, timeout_s: float, on_status: Callable[[dict[str, Any]], None]) -> None:
        if not select.select([self._status], [], [], timeout_s)[0]:
            return
        data = os.read(self._status, 65536)
        if not data:  # closed; poll() says the rest soon
            clock.sleep_s(0.02)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if lines:
            on_status(json.loads(lines[-1]))

    def close(self) -> None:
        """Close the pipes; a process that still runs is killed."""
        for fd in (self._control, self._status):
            with contextlib.suppress(OSError):
                os.close(fd)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._kept.close()
