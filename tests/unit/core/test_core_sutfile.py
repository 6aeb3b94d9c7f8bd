"""Who listens where: hosts may use the same port, so the address tells them apart."""

from __future__ import annotations

import os
import socket

from harness.core import sutfile
from harness.core.sutfile import Process


def process(name: str, pid: int, **more: str) -> Process:
    return Process(name=name, role="worker", index=1, pid=pid, start_ticks=1, **more)  # type: ignore[arg-type]


def test_the_same_port_on_two_hosts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, pid = server.getsockname()[1], os.getpid()
        both = [
            process("worker-1", pid, address="198.18.0.3", netns="one"),
            process("worker-2", pid, address="198.18.0.4", netns="two"),
        ]
        assert sutfile.listener(both, "198.18.0.4", port) == "worker-2"
        assert sutfile.listener(both, "198.18.0.3", port) == "worker-1"
        assert sutfile.listener(both, "198.18.0.5", port) is None
        assert sutfile.listener(both, "198.18.0.3", port + 1) is None


def test_on_our_own_host_any_address_is_its() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        here = [process("worker-1", 1 << 22), process("worker-2", os.getpid())]
        assert sutfile.listener(here, "10.1.2.3", port) == "worker-2"
        assert sutfile.listener(here[:1], "127.0.0.1", port) is None
