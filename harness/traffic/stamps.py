"""When bytes arrived, by the kernel: SO_TIMESTAMPNS and what it takes to trust it.

The kernel stamps each packet with CLOCK_REALTIME; runs are measured on CLOCK_MONOTONIC. The distance
between the clocks is sampled at both ends of a stream, and a step in between makes us fall back to the
time at which we read. When one read holds several packets the kernel keeps the last one's stamp.
"""

from __future__ import annotations

import _socket  # the plain C type: locust patches the socket module's, whose calls may switch greenlets
import contextlib
import socket
import struct
from collections.abc import Sequence
from itertools import accumulate
from operator import le
from typing import Any

from harness.core import clock

SO_TIMESTAMPNS = 35  # x86-64 and arm64; not in the socket module
ANCILLARY_BYTES = socket.CMSG_SPACE(16)
MAX_SLEW_RATIO = 0.0005  # NTP's limit: 500 microseconds a second
STEP_NS = 200_000  # what sampling the distance may err by, scheduling included

_TIMESPEC = struct.Struct("qq")

Piece = tuple[list[tuple[int, int, bytes]], bytes, int]  # ancillary data, bytes, when we had read them


def switch_on(sock: Any) -> None:
    """Ask the kernel to stamp what `sock` receives."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


class WarmUp:
    """Keeps stamping on while it is open: the kernel starts it some time after the first socket asks."""

    def __init__(self, timeout_s: float = 1.0) -> None:
        self._sockets: list[Any] = []
        try:
            self.available = self._try(timeout_s)
        except OSError:
            self.available = False

    def _try(self, timeout_s: float) -> bool:
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self._sockets.append(listener)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        switch_on(listener)
        here = listener.getsockname()
        end = clock.now_ns() + int(timeout_s * clock.NS)
        while clock.now_ns() < end:
            listener.sendto(b"x", here)
            with contextlib.suppress(BlockingIOError):
                if kernel_ns(listener.recvmsg(16, ANCILLARY_BYTES)[1]) is not None:
                    return True
            clock.sleep_s(0.001)
        return False

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def kernel_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    """The kernel's stamp (CLOCK_REALTIME, ns) among ancillary data, None when absent."""
    for level, kind, data in ancillary:
        if kind == SO_TIMESTAMPNS and level == socket.SOL_SOCKET and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * clock.NS + nanoseconds)
    return None


def sample_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, the tightest of three readings."""
    best, offset = 1 << 62, 0
    for _ in range(3):
        before = clock.now_ns()
        wall = clock.wall_ns()
        width = clock.now_ns() - before
        if width < best:
            best, offset = width, wall - before - width // 2
    return offset


def resolve(pieces: Sequence[Piece], start_ns: int, offset_start_ns: int, offset_end_ns: int) -> list[int]:
    """Receive time of each piece on CLOCK_MONOTONIC, never decreasing, never before `start_ns`.

    The kernel's stamp where there is one, the time of our read where not, or where the wall clock was
    stepped while the stream ran. A stamp after our own read can't be right and is replaced by it.
    """
    if not pieces:
        return []
    reads = [piece[2] for piece in pieces]
    drift = offset_end_ns - offset_start_ns
    stepped = abs(drift) > STEP_NS + (reads[-1] - start_ns) * MAX_SLEW_RATIO
    offset = offset_start_ns + drift // 2
    stamped = None if stepped else _all_stamps(pieces)
    if stamped is not None:
        at, second = memoryview(stamped).cast("q").tolist(), clock.NS
        times = [s * second + ns - offset for s, ns in zip(at[::2], at[1::2], strict=True)]
        if start_ns <= times[0] and all(map(le, times, reads)) and all(map(le, times, times[1:])):  # as usual
            return times
    else:
        times = reads if stepped else [_or_read(piece, offset) for piece in pieces]
    return list(accumulate(map(min, times, reads), max, initial=start_ns))[1:]


def _all_stamps(pieces: Sequence[Piece]) -> bytes | None:
    """The kernel's stamps, one behind the other; None where not each piece has one and nothing else."""
    wanted = socket.SOL_SOCKET
    with contextlib.suppress(ValueError):
        parts = [
            data for ((level, kind, data),), _, _ in pieces if kind == SO_TIMESTAMPNS and level == wanted
        ]
        if len(parts) == len(pieces) and set(map(len, parts)) == {_TIMESPEC.size}:
            return b"".join(parts)
    return None


def _or_read(piece: Piece, offset: int) -> int:
    at = kernel_ns(piece[0])
    return piece[2] if at is None else at - offset
