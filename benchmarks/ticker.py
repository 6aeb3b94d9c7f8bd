"""A server that streams answers, as cheaply as Python can: all open streams get a chunk at each tick.

`python -m benchmarks.ticker PORT TICK_MS`. No parsing beyond the end of a request's head and body, one
canned answer of `max_tokens` 100 for everybody: it is there to load a client, not to be tested.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys

from harness.core import clock

TOKENS = 100
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _frame(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    return _frame(json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}], **more,
    }).encode())  # fmt: skip


TOKEN = _chunk({"role": "assistant", "content": " word"})
USAGE = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
TAIL = _chunk({}, "length") + _chunk({}, usage=USAGE) + _frame(b"[DONE]") + b"0\r\n\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()


class Ticker:
    """One thread, one epoll; a stream is a socket and the tokens that it still gets."""

    def __init__(self, port: int, tick_ns: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._heard: dict[int, bytes] = {}
        self._left: dict[int, int] = {}
        self._tick_ns = tick_ns

    def run(self) -> None:
        due_ns = clock.now_ns()
        while True:
            due_ns += self._tick_ns
            while (wait_ns := due_ns - clock.now_ns()) > 0:
                for fd, _ in self._epoll.poll(wait_ns / clock.NS):
                    self._accept() if fd == self._listener.fileno() else self._read(fd)
            for fd, left in list(self._left.items()):
                self._send(fd, left)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except BlockingIOError:
                return
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[one.fileno()] = one
            self._heard[one.fileno()] = b""
            self._epoll.register(one, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        try:
            data = self._sockets[fd].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(fd)
            return
        heard = self._heard[fd] = self._heard[fd] + data
        head, end, body = heard.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"GET"):
            reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            self._sockets[fd].send(reply % (len(MODELS), MODELS))
        elif b"}" not in body[-1:]:
            return
        else:
            self._sockets[fd].send(HEAD)
            self._left[fd] = TOKENS
        self._heard[fd] = b""

    def _send(self, fd: int, left: int) -> None:
        try:
            self._sockets[fd].send(TOKEN if left else TAIL)
        except OSError:
            self._close(fd)
            return
        if left:
            self._left[fd] = left - 1
        else:
            del self._left[fd]

    def _close(self, fd: int) -> None:
        self._left.pop(fd, None)
        self._heard.pop(fd, None)
        self._sockets.pop(fd).close()


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Ticker(int(sys.argv[1]), int(float(sys.argv[2]) * clock.MS)).run()
