"""A raw TCP server whose every byte and pause a test dictates."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Sequence

Step = bytes | float | str
"""Bytes to send | seconds to wait | "close" | "rst" | "hang" | "eof": wait until the client sends no more |
"fill": send comments until the client's window is shut and nothing more fits."""
FILLING = b"a\r\n: filling\n\r\n" * 50


class ScriptedServer:
    """Answers the n-th request with the n-th script, on whichever connection it comes."""

    def __init__(self, scripts: Sequence[Sequence[Step]], family: int = socket.AF_INET,
                 context: ssl.SSLContext | None = None) -> None:  # fmt: skip
        self._scripts = list(scripts)
        self._context = context
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.requests: list[bytes] = []
        self.connections = 0
        self.endings: list[str] = []  # how clients ended connections: eof | reset
        self.ended = threading.Event()
        self.full = threading.Event()
        self.filled = 0  # bytes that "fill" sent
        self._listener = socket.socket(family)
        self._listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        host = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
        self.url = f"{'https' if context else 'http'}://{host}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(5)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            while self._one(sock):
                pass
        except ssl.SSLError as error:
            self._end(f"tls {error.reason}")
        except ConnectionError:
            self._end("reset")
        finally:
            sock.close()

    def _end(self, how: str) -> None:
        self.endings.append(how)
        self.ended.set()

    def _one(self, sock: socket.socket) -> bool:
        request = self._read_request(sock)
        if request is None:
            return False
        with self._lock:
            self.requests.append(request)
            script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
        return self._play(sock, script)

    def _play(self, sock: socket.socket, script: Sequence[Step]) -> bool:
        """False when the connection is over."""
        for step in script:
            if isinstance(step, bytes):
                sock.sendall(step)
            elif step == "close":
                return False
            elif step == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step == "hang":
                return self._hang(sock)
            elif step == "eof":
                self._hang(sock)
            elif step == "fill":
                self._fill(sock)
            elif self._stop.wait(float(step)):
                return False
        return True

    def _hang(self, sock: socket.socket) -> bool:
        while not self._stop.is_set():
            if select.select([sock], [], [], 0.05)[0] and not sock.recv(4096):
                self._end("eof")
                return False
        return False

    def _fill(self, sock: socket.socket) -> None:
        """Counts what was sent. Full: nothing fits for half a second."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        sock.setblocking(False)
        while not self._stop.is_set() and select.select([], [sock], [], 0.5)[1]:
            self.filled += sock.send(FILLING)
        sock.setblocking(True)
        self.full.set()

    def _read_request(self, sock: socket.socket) -> bytes | None:
        data = b""
        while True:
            head, found, rest = data.partition(b"\r\n\r\n")
            if found:
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))  # fmt: skip
                if len(rest) >= length:
                    return data
            while not select.select([sock], [], [], 0.05)[0]:
                if self._stop.is_set():
                    return None
            more = sock.recv(65536)
            if not more:
                self._end("eof")
                return None
            data += more


def chunked(*parts: bytes, end: bool = True) -> list[bytes]:
    """Each part as one chunk."""
    return [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + ([b"0\r\n\r\n"] if end else [])


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
