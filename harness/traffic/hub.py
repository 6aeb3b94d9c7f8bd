"""HTTP exchanges on gevent's hub, one greenlet switch for each stream, not for each chunk.

The connection sends, waits and closes; a receiver (receive.py, or the reactor's) keeps what comes, and all
reading is left to the end of the stream. Knows TLS and how to close; not what an answer means.
"""

from __future__ import annotations

import _socket  # plain sockets: a patched socket's calls may switch greenlets, which a hub callback must not
import contextlib
import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.hub import Waiter

from harness.core.clock import now_ns
from harness.core.errors import UsageError
from harness.traffic import stamps, tls
from harness.traffic.engine import HubEngine
from harness.traffic.exchange import Exchange
from harness.traffic.receive import Receiver
from harness.traffic.transcript import End

WRITE = 2
STALE_NS = 100_000_000
"""A kept connection that fails within this time of the request, with no byte of an answer, was closed by
the server before it saw the request (RFC 9112 section 9.3.1): the request is sent again, once."""


class Connection:
    """One user's connection, kept between requests. `exchange` is the only call that waits."""

    def __init__(
        self, engine: HubEngine, url: str, context: ssl.SSLContext | None = None, receive_bytes: int = 0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no URL of a server; write http://host:port or https://host:port")
        self._engine = engine
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        secure = parts.scheme == "https"
        self._context = (context or ssl.create_default_context()) if secure else None
        self._receive_bytes = receive_bytes  # SO_RCVBUF; 0 = the kernel's own choice
        self._sock: Any = None
        self._tls: tls.Tls | None = None
        self._receiver: Receiver | None = None
        self._writer: Any = None
        self._unsent = b""
        self._exchange: Exchange | None = None
        self._broken = False  # not to be used again
        self._waiter: Any = None

    @property
    def connected(self) -> bool:
        return self._sock is not None

    @property
    def busy(self) -> bool:
        return self._exchange is not None

    def exchange(self, one: Exchange, timeout_ns: int) -> None:
        """Send the request and wait until its answer is over; the result is in `one`.

        Always leaves `one.end` set, also when the calling greenlet is killed (then "drain"). Gives up
        at `timeout_ns` (CLOCK_MONOTONIC).
        """
        one.start_ns = now_ns()
        one.offset_start_ns = stamps.sample_offset_ns()
        self._exchange = one
        self._engine.open.add(one)
        deadline = self._engine.timer.call_at(timeout_ns, partial(self._give_up, "timeout", "no end of the answer within timeout_s"))  # fmt: skip
        try:
            if self._attempt(one):
                one.reset()
                self._attempt(one)
        finally:
            deadline.cancel()
            if one.end is None:  # killed
                self._finish("drain", "the user was stopped while the stream was open")
            self._exchange = None
            if self._receiver is not None:
                self._receiver.end()
            self._engine.open.discard(one)
            one.offset_end_ns = stamps.sample_offset_ns()
            if self._broken or one.end != "complete" or not one.response.keep_alive:
                self.close()

    def cancel(self, mode: str, stall_ns: int = 0) -> None:
        """Leave the answer as planned, unless it is complete already. In the modes of LINGERING the
        exchange goes on until the peer ends it, for stall_ns at most."""
        if self._exchange is not None and self._exchange.end is None:
            self.look()
            self._cancel(mode, stall_ns)

    def _cancel(self, mode: str, stall_ns: int) -> None:
        one = self._exchange
        if one is None or one.end is not None or one.cancel_ns is not None:
            return
        one.cancel_ns = now_ns()
        CANCELS[mode](self)
        if mode in LINGERING:
            self._engine.timer.call_at(one.cancel_ns + stall_ns, partial(self._release, one))
        else:
            self._finish("cancelled")

    def _release(self, one: Exchange) -> None:
        """A connection that was left open has been so for long enough."""
        if self._exchange is one and one.end is None:
            one.frame()
            self._finish("cancelled")

    def give_up(self) -> None:
        """The run is over: the open stream ends as timed out."""
        self._give_up("drain", "still open after drain_s")

    def close(self) -> None:
        """Close at once, without ceremony."""
        if self._receiver is not None:
            self._receiver.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        if self._sock is not None:
            self._sock.close()
        self._receiver, self._writer = None, None
        self._sock, self._tls, self._unsent = None, None, b""
        self._broken = False

    def _attempt(self, one: Exchange) -> bool:
        """Send and wait. True: the kept connection was stale, try again on a new one."""
        kept = self._receiver is not None and self._receiver.begin(one)
        if not kept:
            self.close()
            self._connect(one)
            if self._receiver is not None:
                self._receiver.begin(one)
        if one.end is None:
            one.sent_ns = now_ns()
            self.send(one.request if self._tls is None else self._tls.send(one.request))
        if one.end is None and one.after_send is not None:
            after_send, one.after_send = one.after_send, None
            after_send()
        if one.end is None:
            self._wait()
        stale = (
            kept and one.end in ("closed", "reset") and not one.pieces and now_ns() - one.sent_ns < STALE_NS
        )
        if stale:
            self.close()
        return stale

    def _wait(self) -> None:
        self._waiter = Waiter()
        try:
            self._waiter.get()
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.switch(None)

    def _give_up(self, end: End, error: str) -> None:
        if self._exchange is not None:
            self.look()
        self._finish(end, error)

    def _finish(self, end: End, error: str | None = None) -> None:
        """The exchange is over; later events find `end` set and change nothing."""
        one = self._exchange
        if one is None or one.end is not None:
            return
        one.end_ns = now_ns()
        if one.cancel_ns is not None:  # however the connection ended, we had left before
            end, error = "cancelled", None
        one.end, one.error = end, error
        if self._receiver is not None:
            self._receiver.end()
        if end not in ("complete", "cancelled"):
            one.frame()
        self._wake()

    # Connecting

    def _connect(self, one: Exchange) -> None:
        try:
            addresses = self._engine.addresses(self._host, self._port)
        except (OSError, UnicodeError) as error:
            self._finish("refused", f"{self._host}: {error}")
            return
        problem = ""
        for family, address in addresses:
            problem = self._connect_to(family, address)
            if not problem or one.end is not None:
                break
            self.close()
        if problem:
            self._finish("refused", f"connect to {self._host}:{self._port}: {problem}")

    def _connect_to(self, family: int, address: Any) -> str:
        """Open one address; the problem, or an empty text."""
        self._sock = sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
            stamps.switch_on(sock)
            code = sock.connect_ex(address)
            loop = gevent.get_hub().loop
            self._writer = loop.io(sock.fileno(), WRITE)
            if code == errno.EINPROGRESS:
                self._writer.start(self._wake)
                self._wait()
                self._writer.stop()
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as error:
            return str(error.strerror or error)
        if code:
            return os.strerror(code)
        if self._exchange is not None and self._exchange.end is not None:
            return "given up"
        self._tls = tls.Tls(self._context, self._host) if self._context is not None else None
        try:
            self._receiver = self._engine.receiver(self, sock, self._tls)
        except OSError as error:
            return str(error.strerror or error)
        return ""

    # Sending

    def send(self, data: bytes) -> None:
        """Write bytes as they are, now or as soon as the socket takes them."""
        self._unsent += data
        if self._unsent:
            self._flush()

    def _flush(self) -> None:
        """Write what there is to write; the write watcher runs only while the socket is full."""
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent, socket.MSG_NOSIGNAL)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            if not self._writer.active:
                self._writer.start(self._flush)
            return
        except OSError:
            # The reader will find why, after what the peer had said before.
            self._unsent = b""
        if self._writer is not None and self._writer.active:
            self._writer.stop()

    # Receiving: what the receiver says

    def look(self) -> None:
        """Is the answer complete?"""
        one = self._exchange
        if one is None:  # bytes that nobody asked for: the next request takes a new connection
            self.close()
        elif one.end is not None:  # the same, before the user could go on
            self._broken = True
        elif not one.frame():
            if self._receiver is not None:
                self._receiver.eager = one.watch is not None or one.response.framing != "chunked"
        elif one.response.complete:
            self._finish("complete")
        elif one.response.error is not None:
            self._finish("malformed", one.response.error)
        else:
            self._cancel(one.cancel_mode, one.stall_ns)

    def lost(self, end: End, reason: str) -> None:
        """The peer sends no more."""
        if self._receiver is not None:
            self._receiver.stop()
        one = self._exchange
        if one is None:
            self.close()
            return
        if one.end is not None:
            self._broken = True
            return
        one.frame()
        one.response.eof()
        if one.response.complete:
            self._finish("complete" if one.response.framing != "close" else end, None)
        else:
            self._finish(end, "; ".join(part for part in (one.response.error, reason) if part))


def _close_fin(connection: Connection) -> None:
    """An orderly close. What is unread must be read first: closing over it would send RST instead."""
    sock = connection._sock
    if sock is not None and connection._receiver is not None:
        connection._receiver.stop()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
            while sock.recv(65_536):
                pass
    connection.close()


def _close_rst(connection: Connection) -> None:
    """A hard close: RST, and what is still in the buffers is thrown away."""
    if connection._sock is not None:
        with contextlib.suppress(OSError):
            connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _half_close(connection: Connection) -> None:
    """Say that no more comes from us, and read on: does the server go on?"""
    with contextlib.suppress(OSError):
        connection._sock.shutdown(socket.SHUT_WR)


def _stall(connection: Connection) -> None:
    """Stop reading: the kernel takes in what its buffer holds, then tells the peer a window of 0."""
    if connection._receiver is not None:
        connection._receiver.stop()


CANCELS: dict[str, Callable[[Connection], None]] = {
    "fin": _close_fin,
    "rst": _close_rst,
    "half_close": _half_close,
    "stall": _stall,
    "timeout": Connection.close,  # as most clients do: RST when something is unread, else FIN
}
"""How a planned cancel leaves the connection, by cancel_mode."""
LINGERING = frozenset({"half_close", "stall"})
