"""Named network namespaces (`ip netns`): made, entered, listed, removed. Standard library only.

A namespace is a host of a system under test. Names start with a prefix that follows from the
system's id, so one that was made but never written down is still found and removed. The guardian and
`squall recover` use this module too. Making and entering need root.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.core import proc

DIRECTORY = Path("/run/netns")  # where `ip netns` keeps them
COMMAND_S = 20.0
_CLONE_NEWNET = 0x40000000


def prefix(sut_id: str) -> str:
    """What the names of all namespaces of a system start with."""
    return f"sq{hashlib.sha256(sut_id.encode()).hexdigest()[:8]}-"


def named(start: str) -> list[str]:
    """Namespaces whose names begin with `start`, sorted."""
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(start))
    except FileNotFoundError:
        return []


def refusal() -> str | None:
    """Why this process can't make namespaces, None when nothing is known to be in the way."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces: start it with sudo"
    for command, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(command, path=proc.SYSTEM_PATH) is None:
            return f"needs `{command}`, which is missing: apt-get install {package}"
    return None


def trial() -> str | None:
    """Why namespaces can't be made here, found by making and removing one; None when they can."""
    if (why := refusal()) is not None:
        return why
    start = prefix(f"trial of {os.getpid()}")
    try:
        add(f"{start}a")
        ip("-n", f"{start}a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        ip("-n", f"{start}a", "link", "add", "br0", "type", "bridge")
        with entered(f"{start}a"):
            pass
    except (OSError, TimeoutError) as error:
        return f"can't be made: {error}"
    finally:
        _, problems = remove(start)
    return problems[0] if problems else None


def add(name: str, sut_id: str = "") -> None:
    """Make a namespace with nothing but a loopback device that is up. Raises OSError."""
    ip("netns", "add", name, sut_id=sut_id)
    ip("-n", name, "link", "set", "lo", "up", sut_id=sut_id)


def remove(start: str) -> tuple[list[str], list[str]]:
    """Remove all namespaces whose names begin with `start`, with the devices in them.

    Returns the names that are gone, and a line for each that isn't. Processes in them must have ended:
    what still runs in one keeps its devices alive.
    """
    gone, problems = [], []
    for name in named(start):
        try:
            ip("netns", "del", name)
            gone.append(name)
        except (OSError, TimeoutError) as error:
            problems.append(f"namespace {name}: {error}")
    return gone, problems


def ip(*args: str, sut_id: str = "") -> str:
    """Run `ip`, return its output. Raises OSError with what it said.

    It carries the system's mark, so that whoever tears the system down ends it first when we die.
    """
    argv = ["ip", *args]
    done = proc.run(argv, env={"PATH": proc.SYSTEM_PATH, proc.SUT_ENV: sut_id}, timeout_s=COMMAND_S)
    if done.code != 0:
        raise OSError(f"`{' '.join(argv)}`: {done.err.strip() or f'exit code {done.code}'}")
    return done.out


def command(name: str | None, argv: Sequence[str]) -> list[str]:
    """argv that starts `argv` in a namespace, as the same process (nsenter execs it); None: as it is.

    Not `ip netns exec`, which mounts a /sys of its own that lacks the cgroups.
    """
    return list(argv) if name is None else ["nsenter", f"--net={DIRECTORY / name}", "--", *argv]


def inside(name: str) -> bool:
    """True when this thread is in the namespace `name`."""
    return _is_ours(DIRECTORY / name)


def shared(pid: int) -> bool:
    """True when a process is in the network namespace of this thread."""
    return _is_ours(Path(f"/proc/{pid}/ns/net"))


def _is_ours(path: Path) -> bool:
    try:
        there, here = path.stat(), Path("/proc/thread-self/ns/net").stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread is in the namespace until the context ends. Raises OSError.

    Nothing in it may yield to another greenlet or start a thread: it would be there, too. Meant for
    making sockets, which stay in the namespace in which they were made.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def socket_in(
    name: str | None, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """A new socket of a namespace; None: of ours. Raises OSError."""
    if name is None:
        return socket.socket(family, kind)
    with entered(name):
        return socket.socket(family, kind)


def connect(name: str | None, address: tuple[str, int], timeout_s: float) -> socket.socket:
    """A TCP connection made from within a namespace (then to a numeric IPv4 address). Raises OSError."""
    if name is None:
        return socket.create_connection(address, timeout_s)
    sock = socket_in(name)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
