"""Locust's users: chat, completions, responses and cancelling ones, each a closed loop around its own client.

The only module of traffic that imports Locust. How users live: a stop lets an open stream end within
drain_s and ends thinking users at once; a kill ends the stream, and its record is written all the same.
"""

from __future__ import annotations

from locust import User
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_WAITING

from typing import Any

from harness.core import clock, phases
from harness.core.config import Scenario, UserClass
from harness.core.records import FAILED, RequestRecord
from harness.traffic.client import Client
from harness.traffic.context import TrafficContext

# The order is part of every user's number.
CLASSES = ("ChatUser", "CompletionUser", "CancellingUser", "ResponsesUser")
NEVER_S = 10_000_000.0  # four months; for the timer, which wants an instant
STOP_MARGIN_S = 0.5  # streams give up so long before Locust would kill their users


def configure(environment: Any, scenario: Scenario) -> None:
    """Tell Locust how many users of each class the scenario wants; classes without an entry get none."""
    for user_class in environment.user_classes:
        name = user_class.__name__
        if name in CLASSES:
            entries = (e for e in scenario.load.users if e.user_class == name)
            user_class.fixed_count = sum(phases.peak(scenario.load, e) for e in entries)
            user_class.weight = 0


def entry(scenario: Scenario, user_class: str, slot: int) -> tuple[UserClass, int]:
    """The load entry of the slot-th user of a class, and its rank there: the entries' users (as many as
    their busiest phase has) one after the other, and again."""
    load = scenario.load
    entries = [e for e in load.users if e.user_class == user_class]
    slot %= sum(phases.peak(load, e) for e in entries)
    for one in entries:
        if slot < phases.peak(load, one):
            return one, slot
        slot -= phases.peak(load, one)
    raise AssertionError("a slot below the sum of the counts is in one of the entries")


def start(user: Any) -> None:
    """Number the user and make its client."""
    traffic: TrafficContext | None = user.environment.squall.traffic
    if traffic is None:
        raise RuntimeError("a user started outside a test: test_start has made no TrafficContext")
    name = type(user).__name__
    slot = traffic.numbering.next(name)
    index = CLASSES.index(name)
    spec, user.squall_rank = entry(traffic.scenario, name, slot)
    user.squall_client = Client(
        traffic, spec, slot * len(CLASSES) + index, lambda record: report(user, record),
        turn=slot + index,  # numbers of one class are all even, or all odd: they would share a frontend
    )  # fmt: skip


def loop(user: Any) -> None:
    """Request after request until Locust asks to stop."""
    client: Client = user.squall_client
    traffic: TrafficContext = user.environment.squall.traffic
    timer = traffic.engine.timer
    while user._state == LOCUST_STATE_RUNNING:
        if traffic.scenario.load.phases:
            await_phase(traffic, client, user.squall_rank)
        if client.due_ns > clock.now_ns():
            user._state = LOCUST_STATE_WAITING  # a stop now kills at once: nothing is open
            timer.wait_until(client.due_ns)
            user._state = LOCUST_STATE_RUNNING
        client.ask()


def await_phase(traffic: TrafficContext, client: Client, rank: int) -> None:
    """A user that isn't active in the phase at which it is due is due at the start of its next one."""
    load = traffic.scenario.load
    zero_ns = traffic.anchor.mono_ns + int(load.warmup_s * clock.NS)
    due_s = (client.due_ns - zero_ns) / clock.NS
    start_s = phases.next_start_s(load, client.spec, rank, due_s)
    if start_s is None:
        start_s = NEVER_S
    if start_s > due_s:
        client.due_ns = zero_ns + int(start_s * clock.NS)


def begin_drain(user: Any, force: bool) -> None:
    """From now on an open stream has drain_s left."""
    if not force and user.squall_client is not None:
        user.squall_client.give_up_at(drain_at_ns(user))


def drain_at_ns(user: Any) -> int:
    """When a stream that is still open ends, if the user is asked to stop now (CLOCK_MONOTONIC)."""
    environment = user.environment
    drain_s = environment.squall.traffic.scenario.load.drain_s
    if environment.stop_timeout:
        drain_s = max(0.0, min(drain_s, environment.stop_timeout - STOP_MARGIN_S))
    return clock.now_ns() + int(drain_s * clock.NS)


def finish(user: Any) -> None:
    """The user's end: its last record is written."""
    if user.squall_client is not None:
        user.squall_client.close()


def report(user: Any, record: RequestRecord) -> None:
    """Tell Locust's statistics. Cancelled and shed requests are no failures there, but have their own name."""
    outcome = record.outcome
    name = f"{record.route} {outcome}" if outcome in ("cancelled", "shed") else record.route
    problem = None
    if outcome in FAILED:
        details = ", ".join(record.violations) or (
            f"HTTP {record.status}" if record.status else "no response"
        )
        problem = RuntimeError(f"{outcome}: {details}")
    user.environment.events.request.fire(
        request_type="STREAM" if record.stream else "UNARY",
        name=name,
        response_time=(record.t_end_ns - record.t_start_ns) / clock.MS,
        response_length=record.tokens_received,
        exception=problem,
        context={},
    )


def streaming(user_class: type[User]) -> type[User]:
    """What the classes share: a client of their own, one endless task, a stop that drains."""

    def stop(self: Any, force: bool = False) -> bool:
        begin_drain(self, force)
        return bool(User.stop(self, force))

    user_class.squall_client, user_class.squall_rank = None, 0
    user_class.tasks = [loop]
    user_class.on_start = start
    user_class.stop = stop
    user_class.on_stop = finish
    return user_class


@streaming
class ChatUser(User):  # type: ignore[misc]
    """Asks for chat completions, streamed, one after the other."""


@streaming
class CompletionUser(User):  # type: ignore[misc]
    """Asks for text completions, streamed, one after the other."""


@streaming
class CancellingUser(User):  # type: ignore[misc]
    """Asks for chat completions and closes the connection in the middle, as its load entry says."""


@streaming
class ResponsesUser(User):  # type: ignore[misc]
    """Asks for /v1/responses, streamed, one after the other."""
