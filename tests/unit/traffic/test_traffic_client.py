from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gevent
import msgspec
import pytest
from streams import witness
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import clock, ids, words
from harness.core.config import Cancel, Generator, Load, Scenario, Sut, UserClass
from harness.core.records import RequestRecord
from harness.core.sutfile import SutState
from harness.traffic import prompts
from harness.traffic.client import PAUSE_AFTER_FAILURE_NS, Client
from harness.traffic.context import LiveCounters, TrafficContext
from harness.traffic.exchange import Exchange
from harness.traffic.hub import Connection
from harness.traffic.measure import Meter

N = 10
SPEC = UserClass(user_class="ChatUser", count=1, prompt_tokens=40, output_tokens=N)


def key_of(seed: int, spec: UserClass, user: int, k: int) -> tuple[int, int]:
    return prompts.prompt(seed, spec, user, k, prompts.shortest(prompts.ROUTES[spec.user_class])).key


def script(spec: UserClass = SPEC, k: int = 0, end: bool = True) -> list[Step]:
    return [HEAD, *chunked(*witness(key_of(1, spec, 0, k), N, 40), end=end)]


Make = Callable[..., TrafficContext]


@pytest.fixture
def make(generator: Generator) -> Any:
    made: list[TrafficContext] = []

    def build(url: str, records: list[RequestRecord], spec: UserClass = SPEC, **sut: Any) -> TrafficContext:
        scenario = Scenario(
            schema=1, name="t", sut=Sut(dynamo="1.6.1"), generator=generator,
            load=Load(duration_s=1, users=[spec], timeout_s=sut.pop("timeout_s", 10)),
        )  # fmt: skip
        state = SutState(
            **{"sut_id": "s", "owner": "run", "oracle": "witness", "model": "m", "urls": [url], **sut}
        )
        made.append(TrafficContext(
            scenario=scenario, sut=state, run_id="run", anchor=clock.anchor_now(), worker_index=0, worker_count=1,
            sink=records.append, live=LiveCounters(), headers={"X-Extra": "1"},
        ))  # fmt: skip
        return made[-1]

    yield build
    for one in made:
        one.close()


def go(make: Make, scripts: Sequence[Sequence[Step]], spec: UserClass = SPEC, times: int = 1, **sut: Any) -> tuple[list[RequestRecord], TrafficContext, ScriptedServer]:  # fmt: skip
    records: list[RequestRecord] = []
    with ScriptedServer(scripts) as server:
        traffic = make(server.url, records, spec, **sut)
        client = Client(traffic, spec, 0, lambda record: None)
        for _ in range(times):
            traffic.engine.timer.wait_until(client.due_ns)
            client.ask()
        client.close()
    return records, traffic, server


def test_one_record_with_every_column(make: Make) -> None:
    records, traffic, server = go(make, [script(k=0), script(k=1)], times=2)
    assert [r.outcome for r in records] == ["ok", "ok"] and server.connections == 1
    one, two = records
    assert one.request_id == ids.request_id("run", 0, 0) and two.request_id == ids.request_id("run", 0, 1)
    assert (one.user_class, one.route, one.worker_index, one.attempt) == ("ChatUser", "chat", 0, 0)
    assert (one.prompt_tokens, one.tokens_expected, one.tokens_received) == (40, N, N)
    assert (one.usage_prompt_tokens, one.finish_reason, one.status) == (40, "length", 200)
    assert (
        0 <= one.t_due_ns <= one.t_start_ns <= (one.t_first_ns or 0) <= (one.t_last_ns or 0) <= one.t_end_ns
    )
    assert two.t_due_ns == one.t_end_ns  # think_s 0: ready when the answer is over
    assert (one.cancel_mode, one.cancel_after_tokens, one.retry_of, one.migrated) == (None, None, None, None)
    live = traffic.live
    assert (live.sent, live.ok, live.in_flight, live.tokens, live.failed) == (2, 2, 0, 2 * N, 0)
    assert len(traffic.lag.send_ns) == 2 and traffic.lag.chunks == 2 * N
    msgspec.json.encode(records)


def test_what_is_sent(make: Make) -> None:
    _, _, server = go(make, [script()])
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    sent = json.loads(body)
    assert words.find_key(sent["messages"][0]["content"]) == key_of(1, SPEC, 0, 0)
    assert b"X-Extra: 1" in head and ids.request_id("run", 0, 0).encode() in head
    assert sent["nvext"] and sent["max_tokens"] == N


@pytest.mark.parametrize("mode", ["fin", "rst"])
def test_cancel_after_tokens(make: Make, mode: Any) -> None:
    spec = UserClass(
        user_class="CancellingUser",
        count=1,
        prompt_tokens=40,
        output_tokens=N,
        cancel=Cancel(after_tokens=4, mode=mode),
    )
    steps = script(spec, end=False)
    slow = [s for step in steps[:6] for s in (step, 0.01)]
    records, traffic, _server = go(make, [[*slow, "hang"]], spec)
    one = records[0]
    assert (one.outcome, one.violations, one.tokens_received) == ("cancelled", [], 4)
    assert (one.cancel_mode, one.cancel_after_tokens, traffic.live.cancelled) == (mode, 4, 1)


def test_cancel_during_prefill_and_too_late(make: Make) -> None:
    spec = UserClass(
        user_class="CancellingUser", count=1, prompt_tokens=40, output_tokens=N, cancel=Cancel(after_ms=400)
    )
    records, _, _ = go(make, [["hang"], script(spec, 1)], spec, times=2)
    assert [r.outcome for r in records] == ["cancelled", "ok"]
    assert records[0].t_end_ns - records[0].t_start_ns >= 400_000_000 and records[0].tokens_received == 0
    assert (records[0].cancel_mode, records[1].cancel_mode) == ("rst", None)
    late = UserClass(
        user_class="CancellingUser",
        count=1,
        prompt_tokens=40,
        output_tokens=N,
        cancel=Cancel(after_tokens=N + 5),
    )
    records, _, _ = go(make, [script(late)], late)
    assert (records[0].outcome, records[0].cancel_mode) == ("ok", None)


def test_who_asks_waits_while_too_many_answers_are_unjudged(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.traffic.engine.MOST_JOBS", 5)
    records: list[RequestRecord] = []
    judged: list[int] = []
    before: list[int] = []  # judged before the request was sent
    exchange = Connection.exchange

    def noting(self: Connection, one: Exchange, timeout_ns: int) -> None:
        before.append(len(judged))
        exchange(self, one, timeout_ns)

    monkeypatch.setattr(Connection, "exchange", noting)
    with ScriptedServer([script()]) as server:
        traffic = make(server.url, records)
        client = Client(traffic, SPEC, 0, lambda record: None)
        for job in range(20):
            traffic.engine.defer(partial(judged.append, job))
        client.ask()
        client.close()
    assert [r.outcome for r in records] == ["ok"]
    assert before[0] >= 15  # 5 may wait


def test_failures_are_counted_and_followed_by_a_pause(make: Make) -> None:
    shed: list[Step] = [b"HTTP/1.1 529 Overloaded\r\nContent-Length: 0\r\n\r\n"]
    records, traffic, _ = go(make, [shed, [HEAD[:5], "close"], script(k=2)], times=3)
    assert [r.outcome for r in records] == ["shed", "transport_error", "ok"]
    assert (traffic.live.shed, traffic.live.failed, traffic.live.ok, traffic.live.sent) == (1, 1, 1, 3)
    for before, after in itertools.pairwise(records):
        assert after.t_due_ns >= before.t_end_ns + PAUSE_AFTER_FAILURE_NS


def test_refused_requests_are_requests_of_their_own(make: Make) -> None:
    with ScriptedServer([["hang"]]) as server:
        url = server.url
    records: list[RequestRecord] = []
    client = Client(make(url, records), SPEC, 0, lambda record: None)  # nobody listens there any more
    for _ in range(3):
        client.ask()
    client.close()
    assert [r.outcome for r in records] == ["transport_error"] * 3
    assert len({r.request_id for r in records}) == 3


def test_timeout(make: Make) -> None:
    records, _, _ = go(make, [[*script(end=False)[:4], "hang"]], timeout_s=0.1)
    assert (records[0].outcome, records[0].tokens_received) == ("timed_out", 3)
    assert records[0].violations == ["short_stream", "missing_finish", "missing_done"]


def test_a_killed_user_leaves_exactly_one_record(make: Make) -> None:
    records: list[RequestRecord] = []
    with ScriptedServer([[*script(end=False)[:4], "hang"]]) as server:
        traffic = make(server.url, records)
        client = Client(traffic, SPEC, 0, lambda record: None)
        user = gevent.spawn(client.ask)
        while not any(one.pieces for one in traffic.engine.open):
            gevent.sleep(0.005)
        user.kill()
        client.close()
    assert [(r.outcome, r.tokens_received) for r in records] == [("timed_out", 3)]
    assert (traffic.live.sent, traffic.live.failed, traffic.live.in_flight) == (1, 1, 0)


def test_drain(make: Make) -> None:
    records: list[RequestRecord] = []
    with ScriptedServer([["hang"]]) as server:
        client = Client(make(server.url, records), SPEC, 0, lambda record: None)
        client.give_up_at(clock.now_ns() + 30_000_000)
        client.ask()
        client.close()
    assert records[0].outcome == "timed_out" and "drain_s" in (records[0].error or "")


def test_an_outside_system_gets_no_nvext_and_no_tokenizer(make: Make) -> None:
    records, _, server = go(make, [script()], owner="outside", oracle="count")
    assert b"nvext" not in server.requests[0]
    assert (records[0].prompt_tokens, records[0].outcome, records[0].foreign_tokens) == (None, "ok", 0)
    records, _, server = go(make, [script()], owner="outside", oracle="witness")
    assert b"nvext" in server.requests[0] and records[0].prompt_tokens == 40


def test_several_frontends_share_the_users(make: Make) -> None:
    with ScriptedServer([script()]) as a, ScriptedServer([script()]) as b:
        traffic = make(a.url, [], urls=[a.url, b.url])
        for user in range(4):
            client = Client(traffic, SPEC, user, lambda record: None)
            client.ask()
            client.close()
        assert (a.connections, b.connections) == (2, 2)
        for turn in range(4):  # numbers of one class are all even: their turns are not
            client = Client(traffic, SPEC, 4 * turn, lambda record: None, turn=turn)
            client.ask()
            client.close()
        assert (a.connections, b.connections) == (4, 4)


def test_think_time(make: Make) -> None:
    spec = UserClass(user_class="ChatUser", count=1, prompt_tokens=40, output_tokens=N, think_s=0.05)
    records, _, _ = go(make, [script(k=0), script(k=1)], spec, times=2)
    assert records[1].t_due_ns == records[0].t_end_ns + 50_000_000
    assert records[1].t_start_ns >= records[1].t_due_ns


def test_meter(make: Make) -> None:
    records: list[RequestRecord] = []
    with ScriptedServer([script()]) as server:
        traffic = make(server.url, records)
        meter = Meter(traffic)
        assert not gc.isenabled()
        client = Client(traffic, SPEC, 0, lambda record: None)
        client.ask()
        gevent.sleep(0.02)
        result = meter.end()
        assert gc.isenabled() and gc.get_freeze_count() == 0
        client.close()
    assert len(records) == 1 and result["coalesced_ratio"] is not None
    assert {"send_lag_p99_ms", "hub_lag_p99_ms", "coalesced_ratio", "cpu_s"} <= set(result)
    assert result["hub_lag_p99_ms"] is not None and result["send_lag_p99_ms"] is not None
