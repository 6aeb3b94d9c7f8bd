"""The dead man's switch: a process of its own that puts things right when the run can't any more.

It holds the read end of a pipe whose write end only the run has. End of pipe without the word `done`:
restore everything. A fault past its deadline while the run lives: undo that fault only. Standard
library only; ignores SIGINT, SIGTERM and SIGHUP; knows faults only as undo operations in the journal.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess  # noqa: TID251 (a type only; processes start in proc)
import sys
from collections.abc import Sequence
from pathlib import Path

from faults import restore, wal
from harness.core import clock, proc
from harness.core.errors import ProvisionError
from harness.core.proc import Identity
from harness.core.rundir import RunDir, project_root

_LOOK_S = 0.5  # how often the journal is read for new deadlines
_START_S = 15.0


class GuardianHandle:
    """The run's end of the pipe. Losing it, in whatever way, is the signal to restore."""

    def __init__(self, child: subprocess.Popen[bytes], fd: int) -> None:
        self._child, self._fd = child, fd
        self.pid = child.pid

    def alive(self) -> bool:
        """False when the guardian ended, was killed or is stopped: faults have no safety net then."""
        seen = proc.stat(self.pid)
        return self._child.poll() is None and seen is not None and seen.state not in "Tt"

    def done(self, timeout_s: float = 10) -> bool:
        """Everything is as before: let the guardian go. One that doesn't end in time is killed: False."""
        if self._fd >= 0:
            try:
                os.write(self._fd, b"done\n")
            except BrokenPipeError:
                pass
            os.close(self._fd)
            self._fd = -1
        code = proc.wait(self._child, timeout_s)
        if code is None:
            self._child.kill()
            self._child.wait()
        return code == 0


def start(run: RunDir, run_id: str, sut_id: str | None = None) -> GuardianHandle:
    """Start the guardian and wait until it watches. Raises ProvisionError.

    `sut_id` names the system that this run makes: it is torn down even if sut.json wasn't written yet.
    Without it the guardian goes by `owner` in sut.json.
    """
    watch, hold = os.pipe()
    ready, tell = os.pipe()
    argv = [sys.executable, "-m", "faults.guardian", "--run-dir", str(run.path), "--run-id", run_id]
    argv += ["--watch-fd", str(watch), "--ready-fd", str(tell)] + (["--sut-id", sut_id] if sut_id else [])
    env = {"PATH": proc.SYSTEM_PATH, "PYTHONPATH": str(project_root()), proc.GUARDIAN_ENV: run_id}
    log = run.log("guardian")
    child = proc.spawn(argv, env, log, Path("/"), pass_fds=(watch, tell))
    os.close(watch)
    os.close(tell)
    try:
        up = bool(select.select([ready], [], [], _START_S)[0]) and os.read(ready, 1) == b"r"
    finally:
        os.close(ready)
    if not up:
        os.close(hold)
        child.kill()
        child.wait()
        raise ProvisionError(f"the guardian didn't start, so no fault may be injected:\n{proc.tail(log)}")
    return GuardianHandle(child, hold)


def find(run_id: str) -> list[Identity]:
    """Living guardians of a run."""
    found = (proc.identify(pid) for pid in proc.pids() if proc.environ(pid).get(proc.GUARDIAN_ENV) == run_id)
    return [one for one in found if one is not None and _is_guardian(one.pid)]


def _is_guardian(pid: int) -> bool:
    return "faults.guardian" in proc.arguments(pid)


def _watch(fd: int, run: RunDir, log: restore.Say) -> bool:
    """True when the run said done, False when the pipe ended without it."""
    heard = b""
    tried: set[tuple[str, str]] = set()
    seen: tuple[int, int] | None = None
    while True:
        if select.select([fd], [], [], _LOOK_S)[0]:
            data = os.read(fd, 64)
            heard += data
            if not data:
                return heard.endswith(b"done\n")
        seen = _check_deadlines(run, seen, tried, log)


def _check_deadlines(
    run: RunDir, seen: tuple[int, int] | None, tried: set[tuple[str, str]], log: restore.Say
) -> tuple[int, int] | None:
    """Undo each open fault that is past its deadline, once. `seen`: journal known to have none open."""
    try:
        status = run.journal.stat()
        now = (status.st_size, status.st_mtime_ns)
        if now == seen:
            return seen
        faults = wal.open_faults(wal.read(run.journal))
    except (OSError, wal.JournalError):
        return None
    for one in reversed(faults):
        late = clock.now_ns() > int(one.undo.get("deadline_ns", 1 << 63))
        if late and (one.fault_id, one.target) not in tried:
            tried.add((one.fault_id, one.target))
            log(f"{one.fault_id} on {one.target} is past its deadline while the run lives")
            restore.undo_open(run, "guardian", restore.Restored(), log, only=one)
    return None if faults else now


def main(argv: Sequence[str] | None = None) -> int:
    """Watch, then restore if the run died. 0: nothing to do or all restored; 5: something is left."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(name, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="faults.guardian", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--sut-id")
    parser.add_argument("--watch-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    args = parser.parse_args(argv)
    run = RunDir(args.run_dir)

    def log(text: str) -> None:
        sys.stderr.write(f"{clock.utc_text(clock.wall_ns())} {text}\n")
        sys.stderr.flush()

    os.write(args.ready_fd, b"r")
    os.close(args.ready_fd)
    if _watch(args.watch_fd, run, log):
        return 0
    log("the run is gone")
    done = restore.restore(run, args.run_id, "guardian", log, args.sut_id)
    for problem in done.problems:
        log(f"not restored: {problem}")
    for command in done.commands:
        log(f"  {command}")
    log("restored" if not done.problems else "`squall recover` tries again")
    return 5 if done.problems else 0


if __name__ == "__main__":
    sys.exit(main())
