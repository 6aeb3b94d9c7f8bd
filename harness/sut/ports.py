"""TCP ports on 127.0.0.1 for processes that must be told theirs.

Taken from below the kernel's ephemeral range, so that no outgoing connection sits on them, and
locked, so that no two runs ever choose the same: a process that a fault has ended needs its port again.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core import clock, ids, netns, proc
from harness.core.errors import ProvisionError

LOW, HIGH = 20_000, 30_000
LOOPBACK = "127.0.0.1"


@contextmanager
def reserved(count: int) -> Iterator[list[int]]:
    """`count` free ports, kept from everybody else who reserves some until the context ends.

    Raises ProvisionError when there aren't that many.
    """
    path = Path(tempfile.gettempdir()) / f"squall-ports-{os.getuid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        candidates = list(range(LOW, HIGH))
        ids.rng(clock.now_ns(), os.getpid(), "ports").shuffle(candidates)
        found: list[int] = []
        for port in candidates:
            if len(found) == count:
                break
            if _lock(fd, port) and is_free(port):
                found.append(port)
        if len(found) < count:
            raise ProvisionError(f"only {len(found)} of {count} TCP ports in {LOW}..{HIGH} are free")
        yield found
    finally:
        os.close(fd)  # gives every lock back


def is_free(port: int) -> bool:
    """True when a server can listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # servers do, so TIME_WAIT is no hindrance
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    """Who listens on a port, in words."""
    for pid in proc.pids():
        if netns.shared(pid) and port in proc.listening_ports(pid):
            sut_id = proc.environ(pid).get(proc.SUT_ENV)
            of = f" of the system {sut_id}" if sut_id else ""
            return f"process {pid} ({proc.command_line(pid)}){of}"
    return "a process of somebody else"


def _lock(fd: int, port: int) -> bool:
    """Lock one byte of the lock file, the one at offset `port`, for this open file (not this process)."""
    flock = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, port, 1, 0)  # struct flock, fcntl(2)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock)
    except OSError:
        return False
    return True
