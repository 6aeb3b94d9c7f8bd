"""One epoll for all sockets, and when it looks in rounds."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from harness.core import clock
from harness.traffic.sockets import ROUND_NS, Pace, Sockets
from harness.traffic.timer import TimerFd

MANY = Pace.BUSY_READY + 1


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


class Reader:
    """Reads one end of a pair of sockets."""

    def __init__(self, sockets: Sockets) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.sockets, self.got, self.fails = sockets, b"", False
        self.enough, self.wanted = Event(), 0
        sockets.watch(self.near.fileno(), self.read)

    def read(self) -> bool:
        if self.fails:
            raise RuntimeError("this reader is broken")
        data = os.read(self.near.fileno(), 100)
        self.got += data
        if len(self.got) >= self.wanted:
            self.enough.set()
        return False

    def wait(self, size: int) -> bytes:
        self.wanted = size
        if len(self.got) < size:
            self.enough.clear()
            assert self.enough.wait(10)
        return self.got

    def close(self) -> None:
        self.sockets.forget(self.near.fileno())
        self.near.close()
        self.far.close()


def test_each_reads_its_own_and_what_is_forgotten_is_left_alone(sockets: Sockets) -> None:
    a, b = Reader(sockets), Reader(sockets)
    a.far.send(b"one")
    b.far.send(b"two")
    assert (a.wait(3), b.wait(3)) == (b"one", b"two")
    sockets.forget(a.near.fileno())
    sockets.forget(a.near.fileno())  # a second time changes nothing
    a.far.send(b"more")
    b.far.send(b"more")
    assert b.wait(7) == b"twomore" and a.got == b"one"
    for one in (a, b):
        one.close()


def test_one_that_fails_does_not_stop_the_others(sockets: Sockets, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = Reader(sockets), Reader(sockets)
    a.fails = True
    a.far.send(b"x")
    b.far.send(b"x")
    assert b.wait(1) == b"x"
    b.far.send(b"y")
    assert b.wait(2) == b"xy"
    assert capfd.readouterr().err.count("failed with RuntimeError") == 1  # it isn't called again
    a.close()
    b.close()


def test_one_that_is_forgotten_by_another_of_the_same_look_is_not_called(sockets: Sockets) -> None:
    a, b = Reader(sockets), Reader(sockets)
    called: list[Reader] = []

    def first_come(one: Reader, other: Reader) -> bool:
        called.append(one)
        sockets.forget(other.near.fileno())
        return one.read()

    for one, other in ((a, b), (b, a)):
        sockets.forget(one.near.fileno())
        sockets.watch(one.near.fileno(), lambda one=one, other=other: first_come(one, other))  # type: ignore[misc]
        one.far.send(b"x")
    gevent.wait([a.enough, b.enough], timeout=10, count=1)
    assert len(called) == 1
    a.close()
    b.close()


def test_closed_by_one_that_it_called(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets, looks = Sockets(), []
    reader = Reader(sockets)
    monkeypatch.setattr(Pace, "looked", lambda self, *counts: looks.append(counts))
    monkeypatch.setattr(reader, "read", lambda: (sockets.close(), reader.enough.set(), False)[2])
    sockets.forget(reader.near.fileno())
    sockets.watch(reader.near.fileno(), reader.read)
    reader.far.send(b"x")
    assert reader.enough.wait(10)
    gevent.sleep(0)
    assert looks == []  # what is closed is not begun again
    reader.near.close()
    reader.far.close()


def test_rounds_and_back_lose_nothing(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "SPAN_NS", 0)  # each look decides
    states: list[bool] = []
    looked, calm = Pace.looked, Event()

    def noting(self: Pace, at_ns: int, ready: int, joined: int) -> bool:
        changed = looked(self, at_ns, ready, joined)
        states.append(self.busy)
        if not self.busy:
            calm.set()
        return changed

    monkeypatch.setattr(Pace, "looked", noting)
    readers = [Reader(sockets) for _ in range(100 * MANY)]
    for turn in range(1, 4):
        calm.clear()
        for one in readers:
            one.far.send(b"x")
        for one in readers:
            assert one.wait(turn) == b"x" * turn
        assert calm.wait(10)  # with nothing to read the rounds end
    assert True in states
    readers[0].far.send(b"y")
    assert readers[0].wait(4) == b"xxxy"  # at once again: the epoll is watched
    for one in readers:
        one.close()


class Looks:
    """A pace and its clock."""

    def __init__(self) -> None:
        self.pace, self.at_ns = Pace(0), 0

    def busy(self, spans: int, ready: int, joined: int = 0, every_ns: int = ROUND_NS) -> bool:
        """Is it busy after so many spans with a look each round?"""
        for _ in range(spans * (Pace.SPAN_NS // every_ns)):
            self.at_ns += every_ns
            self.pace.looked(self.at_ns, ready, joined)
        return self.pace.busy


def test_busy_is_above_some_ready_sockets_a_round() -> None:
    looks = Looks()
    assert not looks.busy(2, Pace.BUSY_READY)
    assert looks.busy(1, MANY)
    assert not looks.busy(1, 0)


def test_a_change_is_said_once() -> None:
    pace = Pace(0)
    assert pace.looked(Pace.SPAN_NS, 10_000, 0)
    assert not pace.looked(2 * Pace.SPAN_NS, 10_000, 0)
    assert not pace.looked(2 * Pace.SPAN_NS + 1, 0, 0)  # not before a span is over
    assert pace.looked(3 * Pace.SPAN_NS, 0, 0)


def test_rounds_that_make_chunks_arrive_together_are_left_off_for_a_while() -> None:
    looks = Looks()
    assert looks.busy(1, MANY)
    assert not looks.busy(1, MANY, joined=1)
    assert not looks.busy(Pace.QUIET_NS // Pace.SPAN_NS - 1, MANY, joined=1)
    assert looks.busy(1, MANY, joined=1)  # tried again
    assert not looks.busy(1, MANY, joined=1)


def test_late_looks_say_nothing_about_rounds() -> None:
    looks = Looks()
    assert looks.busy(1, MANY)
    assert looks.busy(1, 10 * MANY, joined=1, every_ns=2 * ROUND_NS)


def test_what_is_read_came_after_the_look_before(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    reader = Reader(sockets)
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda: (seen.append(sockets.since_ns), read())[1])
    sockets.forget(reader.near.fileno())
    sockets.watch(reader.near.fileno(), reader.read)
    between = [0]
    for size in (1, 2, 3):
        reader.far.send(b"x")
        reader.wait(size)
        gevent.sleep(0)  # the look is over
        between.append(clock.now_ns())
    assert seen[0] == 0  # before the first look nobody knows
    assert all(before < since < after for before, since, after in zip(between, seen[1:], between[1:], strict=False))  # fmt: skip
    monkeypatch.setattr("harness.traffic.sockets.MOST_READY", 1)
    for _ in range(2):  # the second look can't trust the first, which may not have shown all
        reader.far.send(b"x")
        size += 1
        reader.wait(size)
        gevent.sleep(0)
    assert seen[-1] == 0
    reader.close()


def test_a_stopped_timerfd_does_not_fire() -> None:
    fd = TimerFd()
    fd.set(clock.now_ns(), 1000)
    fd.stop()
    fd.read()
    clock.sleep_s(0.005)
    assert fd.read() == 0
    fd.set(clock.now_ns())
    clock.sleep_s(0.005)
    assert fd.read() == 1
    fd.close()
