"""Processes: the only module that starts, finds, signals or reads them. Standard library only.

A process is known by its identity (pid and start time in clock ticks): a pid alone may be reused.
The guardian uses this module too, so it must stay importable without any installed package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SUT_ENV = "SQUALL_SUT_ID"  # marks every process of a system under test
RUN_ENV = "SQUALL_RUN_ID"  # marks every process of a run (Locust, observer, ...)
TARGET_ENV = "SQUALL_TARGET"  # planned name of a process of the SUT, such as worker-1
GUARDIAN_ENV = "SQUALL_GUARDIAN"  # marks the guardian, which nobody tears down
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # ip, nft, tc: not on every PATH


PIPE = subprocess.PIPE
_PR_SET_PDEATHSIG = 1
_EXEC_LOOKS, _EXEC_LOOK_S = 10, 0.001  # an execve needs microseconds, unless the CPU is taken away in it


class Identity(NamedTuple):
    """A process that can't be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int


class Stat(NamedTuple):
    """The part of /proc/<pid>/stat that faults need."""

    state: str  # R S D T t Z X
    ppid: int
    cpu_ticks: int
    start_ticks: int


def stat(pid: int) -> Stat | None:
    """/proc/<pid>/stat, or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))


def identify(pid: int) -> Identity | None:
    """The identity of the process that has `pid` now, None when gone or a zombie."""
    s = stat(pid)
    return None if s is None or s.state in "ZX" else Identity(pid, s.start_ticks)


def alive(who: Identity) -> bool:
    """True while exactly this process exists and is no zombie."""
    return identify(who.pid) == who


def leads(who: Identity) -> bool:
    """True while exactly this process lives and leads its session, as each one that `spawn` started."""
    try:
        return alive(who) and os.getsid(who.pid) == who.pid
    except ProcessLookupError:
        return False


def die_with_parent() -> None:
    """From now on the kernel kills this process when its parent ends (PR_SET_PDEATHSIG, prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def send(who: Identity, sig: signal.Signals) -> bool:
    """Signal exactly this process, by pidfd so that a reused pid is never hit. False when gone."""
    try:
        fd = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(who):
            return False
        signal.pidfd_send_signal(fd, sig)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def may_signal(who: Identity) -> bool:
    """False when the process belongs to somebody whose processes we may not signal."""
    try:
        os.kill(who.pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def lineage(pid: int) -> list[int]:
    """The pid and its parents, up to init."""
    found = []
    while pid > 0 and pid not in found:
        found.append(pid)
        born = stat(pid)
        pid = 0 if born is None else born.ppid
    return found


def tree(who: Identity) -> list[Identity]:
    """The process and its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        s = stat(pid)
        if s is not None:
            children.setdefault(s.ppid, []).append(pid)
    found, todo = [], [who.pid] if alive(who) else []
    while todo:
        pid = todo.pop(0)
        one = identify(pid)
        if one is not None:
            found.append(one)
        todo += children.get(pid, [])
    return found


def pids() -> list[int]:
    """All pids of this /proc."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environ(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when unreadable."""
    pairs = (item.partition(b"=") for item in _of_exec(pid, "environ").split(b"\0") if b"=" in item)
    return {os.fsdecode(k): os.fsdecode(v) for k, _, v in pairs}


def arguments(pid: int) -> list[str]:
    """What a process was started with; empty when unreadable."""
    raw = _of_exec(pid, "cmdline")
    return [os.fsdecode(one) for one in raw.rstrip(b"\0").split(b"\0")] if raw else []


def command_line(pid: int) -> str:
    """What a process was started with, in one line; "?" when unreadable."""
    return " ".join(arguments(pid)) or "?"


def _of_exec(pid: int, name: str) -> bytes:
    """A file of /proc/<pid> that execve fills.

    Until the kernel knows where arguments and environment of the new program lie it reads as empty; a
    process must not be overlooked for that, so an empty one is read again.
    """
    for _ in range(_EXEC_LOOKS):
        try:
            raw = Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:
            return b""
        if raw or not _has_memory(pid):
            return raw
        time.sleep(_EXEC_LOOK_S)
    return b""


def _has_memory(pid: int) -> bool:
    """False for zombies and threads of the kernel, which have neither arguments nor environment."""
    try:
        return Path(f"/proc/{pid}/statm").read_text().partition(" ")[0] != "0"
    except OSError:
        return False


def marked(name: str, value: str) -> list[Identity]:
    """Living processes whose environment has name=value, the caller and guardians left out."""
    found = []
    for pid in pids():
        if pid == os.getpid():
            continue
        env = environ(pid)
        if env.get(name) == value and GUARDIAN_ENV not in env:
            one = identify(pid)
            if one is not None:
                found.append(one)
    return found


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int | None = None,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv in a session of its own, outputs appended to `log`. No shell, ever.

    `stdin` and `stdout` take a descriptor or PIPE instead of nothing and the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=out if stdout is None else stdout,
            stderr=out,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:  # a caller's own priority is not its children's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, 0)
    return child


def wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Exit code of a child, None when it still runs after `timeout_s`."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def spawn_detached(
    argv: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path | None = None
) -> Identity:
    """Start a process that may outlive the caller, who won't wait for it. Raises OSError."""
    child = spawn(argv, env, log, cwd)
    born = stat(child.pid)
    child.returncode = 0  # nobody waits: keeps Popen from warning that the process still runs
    if born is None:
        raise ProcessLookupError(f"{argv[0]} (pid {child.pid}) was gone at once")
    return Identity(child.pid, born.start_ticks)


def exit_code(who: Identity) -> int | None:
    """Exit code of a process that ended and that its parent hasn't collected (negative: signal).

    /proc/<pid>/stat, last field. None when it runs, was collected already, or may not be read.
    """
    try:
        text = Path(f"/proc/{who.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] not in "ZX" or int(fields[19]) != who.start_ticks:
        return None
    return os.waitstatus_to_exitcode(int(fields[49]))


class Finished(NamedTuple):
    """A command that ended: exit code and both outputs as text."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 60, cwd: Path | None = None
) -> Finished:
    """Run argv to its end. Raises TimeoutError, FileNotFoundError."""
    try:
        done = subprocess.run(
            list(argv), env=None if env is None else dict(env), cwd=cwd, capture_output=True, text=True,
            errors="replace", timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise TimeoutError(f"{argv[0]} did not end within {timeout_s} s") from late
    return Finished(done.returncode, done.stdout, done.stderr)


def reap() -> None:
    """Collect children that have ended, so that they don't stay zombies."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def collect(who: Sequence[Identity]) -> None:
    """Collect those of our children that have ended, and no others (others wait for theirs)."""
    for one in who:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(one.pid, os.WNOHANG)


def stop_all(who: Sequence[Identity], grace_s: float = 3.0) -> list[Identity]:
    """CONT and TERM, then KILL after `grace_s`; the ones that are alive even then are returned."""
    for one in who:
        send(one, signal.SIGTERM)
        send(one, signal.SIGCONT)
    left = _wait_gone(list(who), grace_s)
    for one in left:
        send(one, signal.SIGKILL)
    return _wait_gone(left, 3.0)


def _wait_gone(who: list[Identity], timeout_s: float) -> list[Identity]:
    end = time.monotonic() + timeout_s
    while (who := [one for one in who if alive(one)]) and time.monotonic() < end:
        time.sleep(0.02)
    return who


def listening_ports(pid: int) -> list[int]:
    """TCP ports that the process listens on (v4 and v6), by the inodes of its sockets."""
    return _tcp_ports(pid, "0A")


def connected_ports(pid: int) -> list[int]:
    """The process's own ports of its established TCP connections."""
    return _tcp_ports(pid, "01")


def _tcp_ports(pid: int, state: str) -> list[int]:
    inodes = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
    except OSError:
        return []
    ports = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == state and fields[9] in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for error messages."""
    try:
        text = log.read_bytes()[-20_000:].decode(errors="replace")
    except OSError as error:
        return f"({log.name}: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:])
