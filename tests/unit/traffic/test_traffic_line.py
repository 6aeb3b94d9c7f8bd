"""The line in front of max_in_flight: first come first served, and nobody who leaves it takes a place along."""

from __future__ import annotations

import gevent
import gevent.event
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.traffic.dispatch import Line, places


def test_first_come_first_served_and_told_since_when() -> None:
    line, order = Line(1), []
    assert line.enter() == 0  # at once

    def stand(name: str) -> None:
        since_ns = line.enter()
        order.append((name, since_ns > 0))
        line.leave()

    greenlets = [gevent.spawn(stand, name) for name in "abc"]
    gevent.idle()
    assert order == []
    line.leave()
    gevent.joinall(greenlets, raise_error=True)
    assert order == [("a", True), ("b", True), ("c", True)]
    assert line.enter() == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.lists(st.sampled_from(["come", "kill", "leave", "turn"]), max_size=40))
def test_places_are_neither_lost_nor_made(most: int, steps: list[str]) -> None:
    line = Line(most)
    inside: list[gevent.Greenlet] = []
    standing: list[gevent.Greenlet] = []
    over = {}

    def one(end: gevent.event.Event) -> None:
        line.enter()
        inside.append(gevent.getcurrent())
        try:
            end.wait()
        finally:
            inside.remove(gevent.getcurrent())
            line.leave()

    for step in steps:
        if step == "come":
            end = gevent.event.Event()
            standing.append(gevent.spawn(one, end))
            over[standing[-1]] = end
        elif step == "kill" and standing:
            standing.pop(len(standing) // 2).kill(block=False)
        elif step == "leave" and inside:
            over[inside[0]].set()
        else:
            gevent.idle()
        assert len(inside) <= most
    gevent.killall(list(over))
    assert not inside
    assert [line.enter() for _ in range(most)] == [0] * most  # all of them are free again
    with gevent.Timeout(0.01, False):
        line.enter()
        pytest.fail("one place too many")


def test_without_a_limit_nobody_waits() -> None:
    line = Line(None)
    assert [line.enter() for _ in range(100)] == [0] * 100


def test_processes_share_the_places() -> None:
    assert [places(7, n, 3) for n in range(3)] == [3, 2, 2] and places(None, 0, 3) is None
