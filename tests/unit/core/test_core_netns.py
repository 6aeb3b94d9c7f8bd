"""Network namespaces: real ones, made and removed; what can't be is an error that says why."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import clock, fetch, ids, netns, proc

pytestmark = pytest.mark.netns


@pytest.fixture
def start() -> Iterator[str]:
    """A prefix of namespaces that are gone after the test."""
    found = netns.prefix(ids.token())
    yield found
    netns.remove(found)
    assert netns.named(found) == []


def own() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def devices(name: str) -> list[str]:
    with netns.entered(name):
        return sorted(device for _, device in socket.if_nameindex())


def test_a_prefix_follows_from_the_id() -> None:
    assert netns.prefix("one") == netns.prefix("one") != netns.prefix("other")
    assert netns.prefix("one").endswith("-")


def test_made_listed_entered_removed(start: str) -> None:
    netns.add(f"{start}a")
    netns.add(f"{start}b")
    assert netns.named(start) == [f"{start}a", f"{start}b"]
    mine = own()
    assert netns.inside(f"{start}a") is False
    with netns.entered(f"{start}a"):
        assert netns.inside(f"{start}a") is True and netns.inside(f"{start}b") is False
    assert own() == mine
    assert devices(f"{start}a") == ["lo"]
    assert netns.remove(start) == ([f"{start}a", f"{start}b"], [])
    assert netns.remove(start) == ([], [])
    assert netns.inside(f"{start}a") is False


def test_removing_leaves_other_namespaces(start: str) -> None:
    netns.add(f"{start}a")
    assert netns.remove(netns.prefix("somebody else")) == ([], [])
    assert netns.named(start) == [f"{start}a"]


def test_one_that_was_only_half_made_is_removed(start: str) -> None:
    (netns.DIRECTORY / f"{start}torn").touch()
    assert netns.remove(start) == ([f"{start}torn"], [])


def test_entering_one_that_is_not_there_changes_nothing(start: str) -> None:
    mine = own()
    with pytest.raises(FileNotFoundError), netns.entered(f"{start}none"):
        pass
    with pytest.raises(RuntimeError), netns.entered(_made(f"{start}a")):
        raise RuntimeError
    assert own() == mine


def test_only_this_thread_enters(start: str) -> None:
    name = _made(f"{start}a")
    seen: list[bool] = []
    now = threading.Event()

    def look() -> None:
        now.wait(10)
        seen.append(netns.inside(name))

    thread = threading.Thread(target=look)
    thread.start()
    with netns.entered(name):
        now.set()
        thread.join()
        seen.append(netns.inside(name))
    assert seen == [False, True]


def test_sockets_stay_where_they_were_made(start: str) -> None:
    name = _made(f"{start}a")
    with netns.socket_in(name) as server, pytest.raises(ConnectionRefusedError):
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        with netns.connect(name, address, 2) as client:
            assert client.getpeername() == address
        netns.connect(None, address, 2)  # here nobody listens


def test_a_page_is_asked_from_within(start: str) -> None:
    name = _made(f"{start}a")
    with netns.socket_in(name) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/health"

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve)
        thread.start()
        assert fetch.get(url, {}, 5, name).json() == {}
        thread.join()
        with pytest.raises(ConnectionRefusedError):
            fetch.get(url, {}, 5)


def test_a_command_runs_in_it_as_the_very_process(start: str, tmp_path: Path) -> None:
    name = _made(f"{start}a")
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    argv = netns.command(name, [sys.executable, "-S", "-c", code])
    who = proc.spawn_detached(argv, {"PATH": os.defpath, "MARK": "1"}, tmp_path / "log", tmp_path)
    try:
        assert clock.wait_until(lambda: (tmp_path / "pid").exists(), 10), proc.tail(tmp_path / "log")
        assert clock.wait_until(lambda: (tmp_path / "pid").read_text() == str(who.pid), 5)
        assert proc.alive(who) and proc.environ(who.pid)["MARK"] == "1"
        assert "nsenter" not in proc.command_line(who.pid)
        there = Path(f"/proc/{who.pid}/ns/net").stat().st_ino
        assert there == (netns.DIRECTORY / name).stat().st_ino
    finally:
        proc.stop_all([who], 0)
        proc.collect([who])
    assert netns.command(None, ["true"]) == ["true"]


def test_who_shares_our_network(start: str, tmp_path: Path) -> None:
    argv = netns.command(_made(f"{start}a"), ["sleep", "60"])
    who = proc.spawn_detached(argv, {"PATH": os.defpath}, tmp_path / "log")
    try:
        assert netns.shared(os.getppid()) is True
        assert clock.wait_until(lambda: netns.shared(who.pid) is False, 5)
        assert netns.shared(1 << 22) is False
    finally:
        proc.stop_all([who], 0)
        proc.collect([who])


def test_what_ip_says_is_in_the_error(start: str) -> None:
    _made(f"{start}a")
    with pytest.raises(OSError, match=rf"`ip netns add {start}a`: .*File exists"):
        netns.add(f"{start}a")


def test_a_trial_leaves_nothing() -> None:
    assert netns.trial() is None
    assert netns.named(netns.prefix(f"trial of {os.getpid()}")) == []


def _made(name: str) -> str:
    netns.add(name)
    return name
