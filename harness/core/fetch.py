"""One HTTP request on a connection of its own, with one deadline for all of it.

A fresh connection each time, so that a refusal is seen at once; a peer that drips bytes doesn't
extend the deadline, which the usual clients' timeouts (per receive) allow.
"""

from __future__ import annotations

import io
import json
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from harness.core import clock, netns

MAX_BYTES = 16 << 20


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as plain data, None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _Stream(io.RawIOBase):
    """A socket that stops giving at the deadline."""

    def __init__(self, sock: socket.socket, deadline_ns: int) -> None:
        self._sock, self._deadline_ns = sock, deadline_ns

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_left_s(self._deadline_ns))
        return self._sock.recv_into(buffer)


class _Source:
    """What HTTPResponse wants of a socket: a file."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._stream)


def get(url: str, headers: Mapping[str, str], timeout_s: float, vantage: str | None = None) -> Answer:
    """GET `url`. Raises TimeoutError after `timeout_s` in all, OSError, HTTPException (bad answer).

    `vantage`: the network namespace to ask from (the URL's host is a numeric address then); None: ours.
    """
    return _exchange(url, "GET", b"", headers, timeout_s, vantage)


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, vantage: str | None = None
) -> Answer:
    """POST `body` to `url`. Otherwise as `get`."""
    length = {"Content-Length": str(len(body))}
    return _exchange(url, "POST", body, {**headers, **length}, timeout_s, vantage)


def _exchange(
    url: str, method: str, body: bytes, headers: Mapping[str, str], timeout_s: float, vantage: str | None
) -> Answer:
    deadline_ns = clock.now_ns() + int(timeout_s * clock.NS)
    parts = urlsplit(url)
    with _connect(parts, deadline_ns, vantage) as sock:
        sock.settimeout(_left_s(deadline_ns))
        sock.sendall(_head(parts, method, headers) + body)
        response = HTTPResponse(_Source(_Stream(sock, deadline_ns)))  # type: ignore[arg-type]
        with response:
            response.begin()
            content = response.read(MAX_BYTES)
            if response.length:  # a body cut short of its Content-Length is no answer
                raise HTTPException(f"{response.length} bytes of the body are missing")
            return Answer(response.status, content)


def error_text(error: OSError | HTTPException) -> str:
    """A short, stable name of what went wrong, for the `error` column."""
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case OSError():
            return error.strerror or type(error).__name__
    return f"bad answer: {type(error).__name__}"


def _connect(parts: SplitResult, deadline_ns: int, vantage: str | None) -> socket.socket:
    secure = parts.scheme == "https"
    try:
        address = (parts.hostname or "", parts.port or (443 if secure else 80))
    except ValueError as error:
        raise HTTPException(str(error)) from None
    try:
        sock = netns.connect(vantage, address, _left_s(deadline_ns))
    except UnicodeError as error:  # a host name that is none
        raise HTTPException(str(error)) from None
    if not secure:
        return sock
    try:
        sock.settimeout(_left_s(deadline_ns))
        return ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    except BaseException:
        sock.close()
        raise


def _head(parts: SplitResult, method: str, headers: Mapping[str, str]) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _left_s(deadline_ns: int) -> float:
    left = deadline_ns - clock.now_ns()
    if left <= 0:
        raise TimeoutError("deadline")
    return left / clock.NS
