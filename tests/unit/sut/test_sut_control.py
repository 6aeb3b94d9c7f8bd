"""The control socket: both sides over a real connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import SquallError, TargetError
from harness.core.sutfile import Process
from harness.sut import control as client
from harness.sut.witness import control as server


def handle(command: dict[str, Any]) -> dict[str, Any]:
    if command.get("command") != "status":
        raise ValueError("unknown command")
    return {"pid": 7}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A running control server."""
    ready: threading.Event = threading.Event()
    box: dict[str, Any] = {}

    async def main() -> None:
        listening = await server.serve(0, "secret", handle)
        box["port"] = listening.sockets[0].getsockname()[1]
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await box["stop"].wait()
        listening.close()
        await listening.wait_closed()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(10)
    yield box["port"]
    box["loop"].call_soon_threadsafe(box["stop"].set)
    thread.join(10)


def worker(port: int | None) -> Process:
    return Process(name="worker-1", role="worker", index=1, pid=1, start_ticks=1, control_port=port)


def test_a_command_with_the_token_is_answered(port: int) -> None:
    assert client.call(worker(port), "secret", {"command": "status"}) == {"pid": 7}


def test_a_wrong_token_is_refused(port: int) -> None:
    for wrong in ("", "secreT", "secret ", "sécret"):
        with pytest.raises(SquallError, match="wrong token"):
            client.call(worker(port), wrong, {"command": "status"})


def test_a_bad_command_is_refused(port: int) -> None:
    with pytest.raises(SquallError, match="unknown command"):
        client.call(worker(port), "secret", {"command": "dance"})


def test_nobody_there_is_a_target_error() -> None:
    with pytest.raises(TargetError, match="has no control socket"):
        client.call(worker(None), "secret", {"command": "status"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(TargetError, match="control socket"):
            client.call(worker(free.getsockname()[1]), "secret", {"command": "status"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.one_of(st.binary(max_size=200), st.sampled_from([b"[]", b"1", b"{" * 5000, b'{"token": 1}'])))
def test_rubbish_never_gets_an_ok(port: int, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(line.replace(b"\n", b"") + b"\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert b'"ok":false' in answer
    assert b'"ok":true' not in answer
    assert client.call(worker(port), "secret", {"command": "status"}) == {"pid": 7}
