"""One user's client: asks the next question, times and judges the answer, writes exactly one record.

Knows nothing of Locust. A request that was started always ends in a record, also when the user's
greenlet is killed while it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from harness.core import clock, ids
from harness.core.config import Cancel, UserClass
from harness.core.records import RequestRecord
from harness.core.trace import Row
from harness.traffic import prompts, retry
from harness.traffic.context import TrafficContext
from harness.traffic.exchange import Exchange
from harness.traffic.hub import Connection
from harness.traffic.integrity import finish
from harness.traffic.pieces import Like
from harness.traffic.reading import Reader
from harness.traffic.script import Script
from harness.traffic.transcript import Expectation, Findings, Transcript

PAUSE_AFTER_FAILURE_NS = 100_000_000
"""A user whose request was refused or shed waits at least this long: a dead server answers within
microseconds, and users that ask again at once would measure nothing but themselves."""
STALL_BYTES = 4096  # receive buffer of a client that will stop reading: it is full after some 20 tokens

OnRecord = Callable[[RequestRecord], None]


@dataclass(frozen=True)
class _Planned:
    """A request that is ready to be sent."""

    k: int
    attempt: int
    request_id: str
    asked: prompts.Prompt
    data: bytes
    retry_of: str | None = None  # the request_id of the first attempt


@dataclass(frozen=True)
class Single:
    """An arrival of the open loop: its first request is due at due_ns (CLOCK_MONOTONIC), and the user is
    gone after one question or one conversation. The connection is somebody else's to close."""

    due_ns: int
    connection: Connection
    row: Row | None = None
    block: int = 0


class Client:
    """Requests 0, 1, 2, ... of user number `user`. `on_record` is told of each, after the sink.

    Frontends are taken in `turn`, by default the user's number.
    """

    def __init__(
        self, traffic: TrafficContext, spec: UserClass, user: int, on_record: OnRecord,
        single: Single | None = None, turn: int | None = None,
    ) -> None:  # fmt: skip
        self._traffic, self.spec, self._user, self._on_record = traffic, spec, user, on_record
        self._route = prompts.ROUTES[spec.user_class]
        self._url = url_of(traffic, user if turn is None else turn)
        base_tokens = prompts.shortest(self._route, prompts.shape(spec))
        seed = traffic.scenario.seed
        if single is None:
            self._connection = Connection(traffic.engine, self._url, receive_bytes=receive_bytes(spec))
            self._script = Script(seed, spec, user, base_tokens)
        else:
            self._connection = single.connection
            self._script = Script(seed, spec, user, base_tokens, single.row, single.block, once=True)
        self._fresh = self._plan()  # what to ask next
        self._again: _Planned | None = None  # what to ask before that once more
        # When this user is ready to send again, CLOCK_MONOTONIC.
        self.due_ns = clock.now_ns() if single is None else single.due_ns

    @property
    def over(self) -> bool:
        """It has nothing more to ask."""
        return self._again is None and self._fresh is None

    @property
    def asking(self) -> bool:
        """A request is on its way, or its answer."""
        return self._connection.busy

    def ask(self, ready_ns: int = 0) -> None:
        """Send the next request and wait until its answer is over. The record is written a little later.

        ready_ns: until then something other than the generator held the request back.
        """
        traffic, due_ns = self._traffic, self.due_ns
        traffic.engine.wait_for_room()
        planned, self._again = self._again or self._fresh, None
        assert planned is not None
        want = self._expectation(planned.asked)
        reader = Reader(want)
        one = Exchange(planned.data)
        calls = self._arrange(one, reader, planned)
        traffic.live.started()
        try:
            self._connection.exchange(one, clock.now_ns() + int(traffic.scenario.load.timeout_s * clock.NS))
        finally:
            for call in calls:
                call()
            if self._fresh is planned:  # nothing was sent (refused), so the next one isn't planned yet
                self._fresh = self._plan()
            traffic.lag.sent(max(due_ns, ready_ns), one.start_ns, one.sent_ns)
            self.due_ns = one.over_ns() + self._pause_ns(one, planned)
            traffic.engine.defer(partial(self._conclude, one, reader, planned, want, due_ns))

    def give_up_at(self, at_ns: int) -> None:
        """A stream that is open at `at_ns` (CLOCK_MONOTONIC) ends there as timed out."""
        self._traffic.engine.timer.call_at(at_ns, self._connection.give_up)

    def close(self) -> None:
        """Close the connection, and wait for the records that are being written."""
        self._connection.close()
        self._traffic.engine.flush()

    def _plan(self) -> _Planned | None:
        """Make the next request's bytes; done while the last answer is on its way."""
        found = self._script.next()
        return None if found is None else self._made(*found)

    def _made(self, k: int, asked: prompts.Prompt, attempt: int = 0, retry_of: str | None = None) -> _Planned:
        traffic = self._traffic
        request_id = ids.request_id(traffic.run_id, self._user, k, attempt)
        dynamo = traffic.sut.owner != "outside" or traffic.sut.oracle == "witness"
        content = prompts.body(
            asked, self._route, traffic.sut.model, dynamo, self.spec.stream, self.spec.chunk_usage
        )
        data = prompts.request(self._url, self._route, traffic.headers, request_id, content, self.spec.stream)
        return _Planned(k, attempt, request_id, asked, data, retry_of)

    def _expectation(self, asked: prompts.Prompt) -> Expectation:
        sut = self._traffic.sut
        foreign = sut.owner == "outside" and sut.oracle != "witness"
        return Expectation(
            tokens_expected=asked.output_tokens,
            key=asked.key if sut.oracle == "witness" else None,
            prompt_tokens=None if foreign else asked.tokens,
            overload_codes=frozenset(self._traffic.scenario.overload_codes),
            stream=self.spec.stream,
            route=self._route,
            shape=asked.shape,
        )

    def _arrange(self, one: Exchange, reader: Reader, planned: _Planned) -> list[Callable[[], None]]:
        """Plan the cancel, and the next request's bytes; what to call when the exchange is over."""
        calls: list[Callable[[], None]] = []
        cancel, connection = self.spec.cancel, self._connection

        def after_send() -> None:
            if cancel is not None and cancel.after_tokens == 0:
                leave = partial(connection.cancel, cancel.mode, int(cancel.stall_s * clock.NS))
                at_ns = self._cancel_ns(cancel, one.sent_ns)
                calls.append(self._traffic.engine.timer.call_at(at_ns, leave).cancel)
            if self._fresh is planned:
                self._fresh = self._plan()

        def watch(index: int, body: bytes) -> bool:
            reader.feed(index, body)
            return cancel is not None and one.cancel_ns is None and reader.tokens >= cancel.after_tokens

        def ahead() -> Like | None:
            like, left = reader.like(), cancel.after_tokens - reader.tokens if cancel is not None else 0
            return like._replace(limit=min(like.limit, left)) if like is not None and left > 0 else None

        one.after_send = after_send
        if cancel is not None and cancel.after_tokens:
            one.ahead = ahead
            one.watch, one.cancel_mode, one.stall_ns = watch, cancel.mode, int(cancel.stall_s * clock.NS)
        return calls

    def _cancel_ns(self, cancel: Cancel, sent_ns: int) -> int:
        """When a stream that doesn't wait for a token is left: after_ms, or at the next storm."""
        if cancel.storm_every_s is None:
            return sent_ns + int(cancel.after_ms * clock.MS)
        every_ns, zero = int(cancel.storm_every_s * clock.NS), self._traffic.anchor.mono_ns
        return zero + ((sent_ns - zero) // every_ns + 1) * every_ns

    def _pause_ns(self, one: Exchange, planned: _Planned) -> int:
        """How long after the answer the next request is due; decides, too, whether it is the same again."""
        think_ns = int(self.spec.think_s * clock.NS)
        wait_s = self._retry_s(one, planned)
        if wait_s is not None:
            first = planned.retry_of or planned.request_id
            self._again = self._made(planned.k, planned.asked, planned.attempt + 1, first)
            return int(wait_s * clock.NS)
        whole = one.response.status == 200 and one.end == "complete"
        if self.spec.conversation is not None and not whole:
            self._script.abandon(planned.k)
            self._fresh = self._plan()
        served = one.response.status == 200 and one.end in ("complete", "cancelled", "timeout", "drain")
        return think_ns if served or one.end == "cancelled" else max(think_ns, PAUSE_AFTER_FAILURE_NS)

    def _retry_s(self, one: Exchange, planned: _Planned) -> float | None:
        """Seconds until the same is asked again; None: it isn't."""
        policy, scenario = self.spec.retry, self._traffic.scenario
        if policy is None:
            return None
        budget = self._traffic.budget(self.spec)
        if planned.attempt == 0:
            budget.earn()
        overloaded = frozenset(scenario.overload_codes)
        if (
            planned.attempt + 1 >= policy.max_attempts
            or not retry.wanted(one, overloaded)
            or not budget.take()
        ):
            return None
        return retry.wait_s(policy, one, planned.attempt, scenario.seed, self._user, planned.k)

    def _conclude(
        self, one: Exchange, reader: Reader, planned: _Planned, want: Expectation, due_ns: int
    ) -> None:
        """Judge the answer and write the record; runs beside the traffic."""
        traffic = self._traffic
        transcript = one.transcript()
        if one.watch is None:
            reader.read(transcript.pieces, transcript.bodies, traffic.engine.turn)
        found = finish(reader, transcript)
        traffic.lag.answered(found)
        record = self._record(found, transcript, planned, want, due_ns)
        try:
            traffic.sink(record)
        finally:
            traffic.live.ended(record.outcome, record.tokens_received)
        self._on_record(record)

    def _record(
        self, found: Findings, transcript: Transcript, planned: _Planned, want: Expectation, due_ns: int
    ) -> RequestRecord:
        zero = self._traffic.anchor.mono_ns
        cancel = self.spec.cancel if found.outcome == "cancelled" else None
        columns = msgspec.structs.asdict(found)
        del columns["coalesced_late"]
        for name in ("t_first_ns", "t_last_ns"):
            if columns[name] is not None:
                columns[name] -= zero
        return RequestRecord(
            request_id=planned.request_id,
            attempt=planned.attempt,
            retry_of=planned.retry_of,
            worker_index=self._traffic.worker_index,
            user_class=self.spec.user_class,
            route=self._route,
            t_due_ns=due_ns - zero,
            t_start_ns=transcript.start_ns - zero,
            t_end_ns=transcript.end_ns - zero,
            cancel_mode=cancel.mode if cancel is not None else None,
            cancel_after_tokens=cancel.after_tokens
            if cancel is not None and not cancel.storm_every_s
            else None,
            prompt_tokens=want.prompt_tokens,
            tokens_expected=want.tokens_expected,
            stream=want.stream,
            user=self._user,
            t_cancel_ns=transcript.cancel_ns - zero if cancel is not None and transcript.cancel_ns else None,
            **columns,
        )


def url_of(traffic: TrafficContext, turn: int) -> str:
    """The frontend that a user talks to: one after the other."""
    return traffic.sut.urls[turn % len(traffic.sut.urls)]


def receive_bytes(spec: UserClass) -> int:
    """The receive buffer of a user's connection; 0: as the kernel likes."""
    return STALL_BYTES if spec.cancel is not None and spec.cancel.mode == "stall" else 0
