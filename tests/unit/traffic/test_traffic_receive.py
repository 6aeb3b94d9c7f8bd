"""The hub's way to read: what it says about reads of several events. What goes over a connection: test_traffic_hub.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from streams import token
from traffic_server import chunked

from harness.core import clock
from harness.traffic.exchange import Exchange
from harness.traffic.pieces import Pieces
from harness.traffic.receive import READ_BYTES, HubReceiver
from harness.traffic.sockets import Pace, Sockets

ONE = chunked(token("abcd"), end=False)[0]


class Line:
    """A receiver and the peer's end; it is also the connection that the receiver tells."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.sockets = Sockets()
        self.receiver = HubReceiver(self.sockets, self, self.near, None)
        self.one = Exchange(b"")
        self.receiver.begin(self.one)
        self.receiver.eager = False
        self.looks = 0

    def look(self) -> None:
        self.looks += 1

    def lost(self, end: str, reason: str) -> None:
        raise AssertionError(f"{end} {reason}")

    def send(self, data: bytes) -> None: ...

    def arrive(self, data: bytes) -> Pieces:
        """Let it be read."""
        before = len(self.one.pieces)
        self.far.send(data)
        while len(self.one.pieces) == before:
            gevent.sleep(0)
        gevent.sleep(0)  # the look is over
        assert isinstance(self.one.pieces, Pieces)
        return self.one.pieces

    def close(self) -> None:
        self.receiver.close()
        self.sockets.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def test_a_read_of_several_events_came_after_the_look_before(line: Line) -> None:
    line.arrive(ONE)
    before = clock.now_ns()
    line.sockets._look()  # as when another socket is ready
    after = clock.now_ns()
    pieces = line.arrive(ONE + ONE)
    assert before <= pieces.since(1) <= after
    line.arrive(ONE)
    assert (pieces.since(0), pieces.since(2)) == (0, 0)  # nobody asks about reads of one event
    pieces.whole(0)  # which makes pieces of the reads
    assert len(pieces) == 4 and pieces.since(1) == pieces.since(2) > 0 == pieces.since(3)


def test_what_a_full_read_left_was_there_before(line: Line) -> None:
    many = READ_BYTES // len(ONE) + 2
    line.far.send(ONE * many)
    pieces = line.arrive(b"")
    while sum(len(piece[1]) for piece in pieces) < many * len(ONE):
        gevent.sleep(0)
    assert len(pieces[0][1]) == READ_BYTES and pieces[1][1].count(ONE) >= 1
    assert pieces.since(1) == 0
    line.sockets._look()
    line.arrive(ONE + ONE)
    assert pieces.since(2) > 0


@pytest.mark.parametrize(("data", "joined", "looks"), [
    (ONE, 0, 0), (ONE + ONE, 1, 0), (ONE + ONE[:9], 0, 1), (ONE + b"0\r\n\r\n", 0, 1), (b"x", 0, 1),
])  # fmt: skip
def test_several_events_that_are_not_the_last_count_against_rounds(
    line: Line, monkeypatch: pytest.MonkeyPatch, data: bytes, joined: int, looks: int
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Pace, "looked", lambda self, at_ns, ready, joined: seen.append((ready, joined)))
    line.arrive(data)
    assert seen == [(1, joined)] and line.looks == looks
