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
from harness.traffic import prompts
from harness.traffic.context import TrafficContext
from harness.traffic.exchange import Exchange
from harness.traffic.hub import Connection
from harness.traffic.integrity import Reader
from harness.traffic.transcript import Expectation, Findings, Transcript

PAUSE_AFTER_FAILURE_NS = 100_000_000
"""A user whose request was refused or shed waits at least this long: a dead server answers within
microseconds, and users that ask again at once would measure nothing but themselves."""
STALL_BYTES = 4096  # receive buffer of a client that will stop reading: it is full after some 20 tokens
READ_AT_ONCE = 512  # parts of a body read between two looks at the sockets

OnRecord = Callable[[RequestRecord], None]


@dataclass(frozen=True)
class _Planned:
    """A request that is ready to be sent."""

    request_id: str
    asked: prompts.Prompt
    data: bytes


class Client:
    """Requests 0, 1, 2, ... of user number `user`. `on_record` is told of each, after the sink."""

    def __init__(self, traffic: TrafficContext, spec: UserClass, user: int, on_record: OnRecord) -> None:
        self._traffic, self._spec, self._user, self._on_record = traffic, spec, user, on_record
        sut = traffic.sut
        self._route = prompts.ROUTES[spec.user_class]
        self._url = sut.urls[user % len(sut.urls)]
        self._base_tokens = prompts.shortest(self._route)
        stalls = spec.cancel is not None and spec.cancel.mode == "stall"
        self._connection = Connection(traffic.engine, self._url, receive_bytes=STALL_BYTES if stalls else 0)
        self._k = 0
        self._planned = self._plan()
        self.due_ns = clock.now_ns()  # when this user is ready to send again, CLOCK_MONOTONIC

    def ask(self) -> None:
        """Send the next request and wait until its answer is over. The record is written a little later."""
        traffic, planned, due_ns = self._traffic, self._planned, self.due_ns
        want = self._expectation(planned.asked)
        reader = Reader(want)
        one = Exchange(planned.data)
        calls = self._arrange(one, reader)
        traffic.live.started()
        try:
            self._connection.exchange(one, clock.now_ns() + int(traffic.scenario.load.timeout_s * clock.NS))
        finally:
            for call in calls:
                call()
            if self._planned is planned:  # nothing was sent (refused), so the next one isn't planned yet
                self._planned = self._plan()
            traffic.lag.sent(due_ns, one.start_ns, one.sent_ns)
            self.due_ns = one.over_ns() + self._pause_ns(one)
            traffic.engine.defer(partial(self._conclude, one, reader, planned, want, due_ns))

    def give_up_at(self, at_ns: int) -> None:
        """A stream that is open at `at_ns` (CLOCK_MONOTONIC) ends there as timed out."""
        self._traffic.engine.timer.call_at(at_ns, self._connection.give_up)

    def close(self) -> None:
        """Close the connection, and wait for the records that are being written."""
        self._connection.close()
        self._traffic.engine.flush()

    def _plan(self) -> _Planned:
        """Make the next request's bytes; done while the last answer is on its way."""
        traffic, k = self._traffic, self._k
        self._k += 1
        request_id = ids.request_id(traffic.run_id, self._user, k)
        asked = prompts.prompt(traffic.scenario.seed, self._spec, self._user, k, self._base_tokens)
        dynamo = traffic.sut.owner != "outside" or traffic.sut.oracle == "witness"
        content = prompts.body(asked, self._route, traffic.sut.model, dynamo, self._spec.stream)
        data = prompts.request(
            self._url, self._route, traffic.headers, request_id, content, self._spec.stream
        )
        return _Planned(request_id, asked, data)

    def _expectation(self, asked: prompts.Prompt) -> Expectation:
        sut = self._traffic.sut
        foreign = sut.owner == "outside" and sut.oracle != "witness"
        return Expectation(
            tokens_expected=asked.output_tokens,
            key=asked.key if sut.oracle == "witness" else None,
            prompt_tokens=None if foreign else asked.tokens,
            overload_codes=frozenset(self._traffic.scenario.overload_codes),
            stream=self._spec.stream,
        )

    def _arrange(self, one: Exchange, reader: Reader) -> list[Callable[[], None]]:
        """Plan the cancel, and the next request's bytes; what to call when the exchange is over."""
        calls: list[Callable[[], None]] = []
        cancel, connection = self._spec.cancel, self._connection

        def after_send() -> None:
            if cancel is not None and cancel.after_tokens == 0:
                leave = partial(connection.cancel, cancel.mode, int(cancel.stall_s * clock.NS))
                at_ns = self._cancel_ns(cancel, one.sent_ns)
                calls.append(self._traffic.engine.timer.call_at(at_ns, leave).cancel)
            self._planned = self._plan()

        def watch(index: int, body: bytes) -> bool:
            reader.feed(index, body)
            return cancel is not None and one.cancel_ns is None and reader.tokens >= cancel.after_tokens

        one.after_send = after_send
        if cancel is not None and cancel.after_tokens:
            one.watch, one.cancel_mode, one.stall_ns = watch, cancel.mode, int(cancel.stall_s * clock.NS)
        return calls

    def _cancel_ns(self, cancel: Cancel, sent_ns: int) -> int:
        """When a stream that doesn't wait for a token is left: after_ms, or at the next storm."""
        if cancel.storm_every_s is None:
            return sent_ns + int(cancel.after_ms * clock.MS)
        every_ns, zero = int(cancel.storm_every_s * clock.NS), self._traffic.anchor.mono_ns
        return zero + ((sent_ns - zero) // every_ns + 1) * every_ns

    def _pause_ns(self, one: Exchange) -> int:
        think_ns = int(self._spec.think_s * clock.NS)
        served = one.response.status == 200 and one.end in ("complete", "cancelled", "timeout", "drain")
        return think_ns if served or one.end == "cancelled" else max(think_ns, PAUSE_AFTER_FAILURE_NS)

    def _conclude(
        self, one: Exchange, reader: Reader, planned: _Planned, want: Expectation, due_ns: int
    ) -> None:
        """Judge the answer and write the record; runs beside the traffic."""
        traffic = self._traffic
        transcript = one.transcript()
        if one.watch is None:
            for number, (index, part) in enumerate(transcript.bodies):
                reader.feed(index, part)
                if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                    traffic.engine.turn()
        found = reader.finish(transcript)
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
        cancel = self._spec.cancel if found.outcome == "cancelled" else None
        columns = msgspec.structs.asdict(found)
        for name in ("token_events", "coalesced_late"):
            del columns[name]
        for name in ("t_first_ns", "t_last_ns"):
            if columns[name] is not None:
                columns[name] -= zero
        return RequestRecord(
            request_id=planned.request_id,
            worker_index=self._traffic.worker_index,
            user_class=self._spec.user_class,
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
