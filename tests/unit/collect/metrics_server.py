"""A small real HTTP server for the collector's tests, which can refuse, hang, lie, drip and restart."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Target:
    """What the server answers now; tests change it while it runs."""

    health: tuple[int, bytes] = (200, b'{"status":"healthy"}')
    metrics: tuple[int, str] = (200, "# TYPE dynamo_x_total counter\ndynamo_x_total 1\n")
    hang: threading.Event = field(default_factory=threading.Event)  # set: accepts, answers nothing
    release: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def instances(self, **ports: int) -> None:
        """Answer as a frontend that lists these instance ids at these ports."""
        listed = [
            {"endpoint": "generate", "instance_id": i, "transport": {"tcp": f"127.0.0.1:{p}/x"}}
            for i, p in ports.items()
        ]
        self.health = (200, json.dumps({"status": "healthy", "instances": listed}).encode())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextlib.contextmanager
def serving(target: Target, port: int = 0) -> Iterator[Target]:
    """Serve `target` until the block ends; then its port refuses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target.requests.append((self.path, dict(self.headers)))
            if target.hang.is_set():
                target.release.wait(30)
                return
            if self.path.startswith("/metrics"):
                status, text = target.metrics
                body = text.encode()
            else:
                status, body = target.health
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = _Server(("127.0.0.1", port), Handler)
    target.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        target.release.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def raw(answer: bytes, drip_s: float | None = None, reset: bool = False) -> Iterator[str]:
    """A server that sends exactly these bytes (one each drip_s) and closes; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                conn.recv(65536)
                if reset:
                    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                for n in range(len(answer)) if drip_s else ():
                    conn.sendall(answer[n : n + 1])
                    if done.wait(drip_s):
                        return
                if not drip_s:
                    conn.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/health"
    finally:
        done.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
