"""The open loop: requests go out when the schedule says, each in a greenlet of its own.

One dispatcher a process takes every n-th arrival of the whole schedule. Calls on the timer start them, so
a busy greenlet delays nothing but itself; the next ones are made ready ahead. Over max_in_flight they wait
in line, which the record shows (t_start - t_due). Knows nothing of Locust.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import gevent
from gevent.event import AsyncResult, Event

from harness.core import arrivals, clock, ids
from harness.core.arrivals import USERS_FROM, Arrival
from harness.core.config import Scenario, UserClass
from harness.traffic import replay, sharing
from harness.traffic.client import Client, OnRecord, Single, receive_bytes, url_of
from harness.traffic.context import TrafficContext
from harness.traffic.hub import Connection

AHEAD = 32  # requests that are made ready before they are due
AHEAD_S = 5.0  # and not earlier than this


class Pool:
    """Connections that no arrival uses now, the last used one first, as HTTP clients keep them."""

    def __init__(self, traffic: TrafficContext) -> None:
        self._traffic = traffic
        self._idle: dict[tuple[str, int], list[Connection]] = {}

    def take(self, url: str, receive: int) -> Connection:
        idle = self._idle.setdefault((url, receive), [])
        while idle:
            if (one := idle.pop()).connected:
                return one
        return Connection(self._traffic.engine, url, receive_bytes=receive)

    def give(self, url: str, receive: int, connection: Connection) -> None:
        self._idle.setdefault((url, receive), []).append(connection)

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class Line:
    """At most `places` at once, first come first served; None = no limit."""

    def __init__(self, places: int | None) -> None:
        self._free = places
        self._waiting: deque[AsyncResult[None]] = deque()

    def enter(self) -> int:
        """Wait for a place; since when there was one (CLOCK_MONOTONIC), 0 = at once."""
        if self._free is None:
            return 0
        if self._free > 0:
            self._free -= 1
            return 0
        turn: AsyncResult[None] = AsyncResult()
        self._waiting.append(turn)
        try:
            turn.get()
        except BaseException:  # killed: the place, if it was given meanwhile, goes to the next
            if turn.ready():
                self.leave()
            else:
                self._waiting.remove(turn)
            raise
        return clock.now_ns()

    def leave(self) -> None:
        """Give the place to the next in line."""
        if self._free is None:
            return
        if self._waiting:
            self._waiting.popleft().set(None)
        else:
            self._free += 1


@dataclass(frozen=True)
class _Ready:
    """An arrival whose first request is made."""

    due_ns: int
    client: Client
    url: str
    receive: int
    connection: Connection


class Dispatcher:
    """Share number `index` of `count` of the schedule. `start` it, wait for `ended`, `close` it."""

    def __init__(self, traffic: TrafficContext, index: int, count: int, on_record: OnRecord) -> None:
        load = traffic.scenario.load
        assert load.arrivals is not None
        self._traffic, self._on_record = traffic, on_record
        self._entries = [user for user in load.users if user.weight is not None]
        self._block = sharing.block_words(load.arrivals.length_ratio)
        self._schedule = share(traffic.scenario, index, count)
        self._line = Line(places(load.arrivals.max_in_flight, index, count))
        self._pool = Pool(traffic)
        self._ahead: deque[_Ready] = deque()
        self._upcoming: Arrival | None = None
        self._filling = self._stopped = False
        self._give_up_ns: int | None = None
        self._call = traffic.engine.timer.call_at(0, lambda: None)
        self._running: dict[gevent.Greenlet, Client] = {}
        self.ended = Event()

    def start(self) -> None:
        """Begin with the schedule."""
        self._fill()
        self._plan_call()

    def drain(self, at_ns: int) -> None:
        """No new arrivals, and no further requests of those that are here; streams that are open at `at_ns`
        end there."""
        self._stopped, self._give_up_ns = True, at_ns
        self._call.cancel()
        for greenlet, client in list(self._running.items()):
            if client.asking:
                client.give_up_at(at_ns)
            else:  # it thinks, waits to ask again, or stands in line
                greenlet.kill(block=False)
        self._end_if_done()

    def close(self) -> None:
        """End what is open; every record is written when this returns."""
        self._stopped = True
        self._call.cancel()
        gevent.killall(list(self._running))
        self._traffic.engine.flush()
        self._pool.close()

    # Ahead of time

    def _fill(self) -> None:
        """Make one more request ready, and come back for the next while there is room."""
        self._filling = False
        if self._stopped or len(self._ahead) >= AHEAD:
            return
        upcoming = self._upcoming = self._upcoming or next(self._schedule, None)
        if upcoming is None or (self._ahead and self._due_ns(upcoming) > clock.now_ns() + AHEAD_S * clock.NS):
            return
        self._upcoming = None
        self._ahead.append(self._ready(upcoming))
        self._fill_later()

    def _fill_later(self) -> None:
        if not self._filling:
            self._filling = True
            self._traffic.engine.defer(self._fill)

    def _due_ns(self, arrival: Arrival) -> int:
        return self._traffic.anchor.mono_ns + round(arrival.due_s * clock.NS)

    def _ready(self, arrival: Arrival) -> _Ready:
        traffic, user = self._traffic, USERS_FROM + arrival.index
        spec = entry(self._entries, traffic.scenario.seed, arrival.index)
        url, receive, due_ns = url_of(traffic, user), receive_bytes(spec), self._due_ns(arrival)
        connection = self._pool.take(url, receive)
        single = Single(due_ns, connection, arrival.row, self._block)
        return _Ready(due_ns, Client(traffic, spec, user, self._on_record, single), url, receive, connection)

    # At its time: in the hub

    def _plan_call(self) -> None:
        if not self._ahead and self._upcoming is None:
            self._upcoming = next(self._schedule, None)
        if self._ahead:
            at_ns = self._ahead[0].due_ns
        elif self._upcoming is not None:
            at_ns = self._due_ns(self._upcoming)
        else:
            return
        self._call = self._traffic.engine.timer.call_at(at_ns, self._due)

    def _due(self) -> None:
        """Start everything that is due."""
        now_ns = clock.now_ns()
        while not self._stopped:
            if not self._ahead:
                self._upcoming = self._upcoming or next(self._schedule, None)
                if self._upcoming is None or self._due_ns(self._upcoming) > now_ns:
                    break
                upcoming, self._upcoming = self._upcoming, None
                self._ahead.append(self._ready(upcoming))
            if self._ahead[0].due_ns > now_ns:
                break
            ready = self._ahead.popleft()
            greenlet = gevent.Greenlet(self._serve, ready)
            self._running[greenlet] = ready.client
            greenlet.link(self._gone)
            greenlet.start()
        if not self._stopped:
            self._fill_later()
            self._plan_call()

    # In a greenlet of its own

    def _serve(self, ready: _Ready) -> None:
        """One user, from its arrival to its last answer."""
        client = ready.client
        try:
            while not client.over and not self._stopped:
                self._traffic.engine.timer.wait_until(client.due_ns)
                self._ask(client)
        finally:
            self._pool.give(ready.url, ready.receive, ready.connection)

    def _ask(self, client: Client) -> None:
        ready_ns = self._line.enter()
        try:
            client.ask(ready_ns)
        finally:
            self._line.leave()

    def _gone(self, greenlet: gevent.Greenlet) -> None:
        self._running.pop(greenlet, None)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._stopped and not self._running:
            self.ended.set()


def share(scenario: Scenario, index: int, count: int) -> Iterator[Arrival]:
    """Every `count`-th arrival from number `index` on."""
    whole = arrivals.schedule(scenario.load, scenario.seed, replay.rows(scenario, "scenario.yaml"))
    return (arrival for arrival in whole if arrival.index % count == index)


def places(most: int | None, index: int, count: int) -> int | None:
    """A process's part of max_in_flight."""
    return None if most is None else most // count + (index < most % count)


def entry(entries: list[UserClass], seed: int, index: int) -> UserClass:
    """The load entry of arrival `index`, drawn by the weights."""
    point = ids.rng(seed, "mix", index).random() * sum(one.weight or 0 for one in entries)
    for one in entries[:-1]:
        point -= one.weight or 0
        if point < 0:
            return one
    return entries[-1]
