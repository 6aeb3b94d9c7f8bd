"""Planned cancels, mode by mode: what the peer sees, what is recorded, and when."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gevent
import pytest
from streams import event, witness
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import clock
from harness.core.clock import NS
from harness.core.config import Cancel, Generator, Load, Scenario, Sut, UserClass
from harness.core.records import RequestRecord
from harness.core.sutfile import SutState
from harness.core.words import find_key
from harness.traffic.client import Client
from harness.traffic.context import LiveCounters, TrafficContext
from harness.traffic.hub import Connection

N = 30


class Lab:
    """A traffic context against one scripted server."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.records: list[RequestRecord] = []
        self.traffic: TrafficContext | None = None

    def clients(self, url: str, cancel: Cancel, users: int = 1, timeout_s: float = 10) -> list[Client]:
        spec = UserClass(
            user_class="CancellingUser", count=users, prompt_tokens=40, output_tokens=N, cancel=cancel
        )
        self.traffic = TrafficContext(
            scenario=Scenario(schema=1, name="t", sut=Sut(dynamo="1.6.1"), generator=self.generator,
                              load=Load(duration_s=1, users=[spec], timeout_s=timeout_s)),
            sut=SutState(sut_id="s", owner="run", oracle="witness", model="m", urls=[url]),
            run_id="run", anchor=clock.anchor_now(), worker_index=0, worker_count=1,
            sink=self.records.append, live=LiveCounters(), headers={},
        )  # fmt: skip
        return [Client(self.traffic, spec, user, lambda record: None) for user in range(users)]


@pytest.fixture
def lab(generator: Generator) -> Iterator[Lab]:
    made = Lab(generator)
    yield made
    if made.traffic is not None:
        made.traffic.close()


class Answering(ScriptedServer):
    """Its scripts are made from the request's key: `parts` of the right answer and steps between them."""

    def __init__(self, *plan: int | Step) -> None:
        super().__init__([[]])
        self._plan = plan

    def _one(self, sock: Any) -> bool:
        request = self._read_request(sock)
        if request is None:
            return False
        content = json.loads(request.partition(b"\r\n\r\n")[2])["messages"][0]["content"]
        key = find_key(content)
        assert key is not None
        left = iter(witness(key, N, 40))
        script: list[Step] = [HEAD]
        for one in self._plan:
            if isinstance(one, bool) or not isinstance(one, int):
                script.append(one)
            else:  # so many tokens, a little apart so that each is read alone
                for part in itertools.islice(left, one):
                    script += [*chunked(part, end=False), 0.01]
        return self._play(sock, script)


def go(lab: Lab, server: ScriptedServer, cancel: Cancel, **options: Any) -> RequestRecord:
    (client,) = lab.clients(server.url, cancel, **options)
    client.ask()
    client.close()
    (one,) = lab.records
    return one


@pytest.mark.parametrize(("mode", "seen"), [("fin", "eof"), ("rst", "reset"), ("timeout", "eof")])
def test_the_peer_sees_how_we_left(lab: Lab, mode: Any, seen: str) -> None:
    cancel = Cancel(mode=mode, after_ms=150) if mode == "timeout" else Cancel(mode=mode, after_tokens=3)
    with Answering(3, "hang") as server:
        one = go(lab, server, cancel)
        assert server.ended.wait(5) and server.endings == [seen]
    assert (one.outcome, one.violations, one.tokens_received, one.cancel_mode) == ("cancelled", [], 3, mode)
    assert one.cancel_after_tokens == cancel.after_tokens and one.user == 0
    assert one.t_cancel_ns is not None and one.t_start_ns < one.t_cancel_ns <= one.t_end_ns
    if mode == "timeout":
        assert one.t_cancel_ns - one.t_start_ns >= 150_000_000


def test_tokens_that_came_before_a_timed_cancel_are_counted(lab: Lab) -> None:
    with Answering(5, "hang") as server:
        one = go(lab, server, Cancel(mode="rst", after_ms=400))
    assert (one.outcome, one.tokens_received, len(one.gaps_us), one.cancel_after_tokens) == (
        "cancelled", 5, 4, 0,
    )  # fmt: skip


def test_a_half_closed_stream_is_read_on_to_its_end(lab: Lab) -> None:
    """The server gets our FIN and goes on all the same: an answer that arrives whole is cancelled too."""
    with Answering(4, "eof", N + 2, b"0\r\n\r\n", "close") as server:
        one = go(lab, server, Cancel(mode="half_close", after_tokens=4, stall_s=5))
        assert server.endings == ["eof"]
    assert (one.outcome, one.violations, one.tokens_received) == ("cancelled", [], N)
    assert one.t_cancel_ns is not None and one.t_last_ns is not None
    assert one.t_cancel_ns < one.t_last_ns <= one.t_end_ns < one.t_cancel_ns + 5 * NS


def test_what_a_half_closed_stream_brings_is_still_checked(lab: Lab) -> None:
    """Tokens yes; an error event that answers our leaving is no violation, nor is a missing end."""
    lost = b"data: " + b'{"choices":[{"index":0,"delta":{"content":" zzz"}}]}\n\n'
    told = event({"error": {"message": "cancelled", "code": 499}})
    with Answering(4, "eof", 2, *chunked(lost, told, end=False), "close") as server:
        one = go(lab, server, Cancel(mode="half_close", after_tokens=4, stall_s=5))
    assert (one.outcome, one.violations, one.tokens_received) == ("cancelled", ["foreign_tokens"], 7)


def test_an_error_event_before_a_cancel_is_a_violation(lab: Lab) -> None:
    told = event({"error": {"message": "broken", "code": 500}})
    with Answering(2, *chunked(told, end=False), 2, "hang") as server:
        one = go(lab, server, Cancel(mode="half_close", after_tokens=4, stall_s=0.1))
    assert (one.outcome, one.violations) == ("cancelled", ["error_event"])


def test_a_half_closed_stream_that_hangs_is_closed_after_stall_s(lab: Lab) -> None:
    with Answering(4, "eof", 2.0, "close") as server:
        one = go(lab, server, Cancel(mode="half_close", after_tokens=4, stall_s=0.2))
        assert server.endings[0] == "eof"
    assert (one.outcome, one.tokens_received) == ("cancelled", 4)
    assert one.t_cancel_ns is not None and one.t_end_ns - one.t_cancel_ns >= 200_000_000


@pytest.mark.parametrize("cancel", [Cancel(mode="stall", after_tokens=4, stall_s=1.5),
                                    Cancel(mode="stall", after_ms=120, stall_s=1.5)])  # fmt: skip
def test_a_stalled_reader_shuts_the_window_and_leaves_by_reset(lab: Lab, cancel: Cancel) -> None:
    with Answering(4, 0.3, "fill", "hang") as server:
        one = go(lab, server, cancel)
        assert server.full.wait(5) and 0 < server.filled < 500_000
        assert server.ended.wait(5) and server.endings == ["reset"]
    assert (one.outcome, one.violations, one.tokens_received) == ("cancelled", [], 4)
    assert one.t_cancel_ns is not None and one.t_end_ns - one.t_cancel_ns >= 1_500_000_000


@pytest.mark.parametrize("mode", ["half_close", "stall"])
def test_timeout_drain_and_kill_end_an_open_cancel_as_cancelled(lab: Lab, mode: Any) -> None:
    with Answering(4, 20.0) as server:
        cancel = Cancel(mode=mode, after_tokens=4, stall_s=60)
        one, two, three = lab.clients(server.url, cancel, users=3, timeout_s=0.6)
        assert lab.traffic is not None
        users = [gevent.spawn(client.ask) for client in (one, two, three)]
        two.give_up_at(clock.now_ns() + 400_000_000)
        while len([x for x in lab.traffic.engine.open if x.cancel_ns]) < 3:
            gevent.sleep(0.005)
        users[2].kill()
        gevent.joinall(users)
        for client in (one, two, three):
            client.close()
    assert [r.outcome for r in lab.records] == ["cancelled"] * 3
    assert all(r.t_cancel_ns is not None and r.tokens_received == 4 for r in lab.records)
    assert not lab.traffic.engine.open


def test_an_answer_that_was_complete_first_is_no_cancel(lab: Lab) -> None:
    with Answering(N + 2, b"0\r\n\r\n") as server:
        one = go(lab, server, Cancel(mode="stall", after_tokens=0, after_ms=5000))
    assert (one.outcome, one.cancel_mode, one.t_cancel_ns) == ("ok", None, None)


def test_the_next_request_is_not_touched_by_the_last_ones_timers(lab: Lab) -> None:
    with Answering(4, "eof", "close") as server:
        (client,) = lab.clients(server.url, Cancel(mode="half_close", after_tokens=4, stall_s=0.4))
        for _ in range(4):
            client.ask()
        client.close()
    assert [r.tokens_received for r in lab.records] == [4] * 4
    assert all(r.outcome == "cancelled" and r.user == 0 for r in lab.records)


def cancelled(records: Sequence[RequestRecord]) -> list[int]:
    return [r.t_cancel_ns for r in records if r.t_cancel_ns is not None]


def test_a_storm_cancels_all_open_streams_at_one_instant_of_the_run(lab: Lab) -> None:
    with Answering(3, "hang") as server:
        clients = lab.clients(server.url, Cancel(mode="rst", storm_every_s=0.5), users=40)
        assert lab.traffic is not None
        late = clients.pop()

        def start_late() -> None:
            assert lab.traffic is not None
            lab.traffic.engine.timer.wait_until(lab.traffic.anchor.mono_ns + 700_000_000)
            late.ask()

        gevent.joinall([gevent.spawn(start_late), *(gevent.spawn(c.ask) for c in clients)], raise_error=True)
        for client in (*clients, late):
            client.close()
    assert [r.outcome for r in lab.records] == ["cancelled"] * 40
    assert {r.cancel_after_tokens for r in lab.records} == {None}
    storms = [at // (NS // 2) for at in cancelled(lab.records)]
    assert len(storms) == 40 and len(set(storms[:39])) == 1 and storms[39] > storms[0] >= 1


def test_cancel_is_harmless_when_nothing_is_open(lab: Lab) -> None:
    with Answering(N + 2, b"0\r\n\r\n") as server:
        (client,) = lab.clients(server.url, Cancel(after_tokens=N, mode="fin"))
        for mode in ("fin", "rst", "half_close", "stall", "timeout"):
            partial(client._connection.cancel, mode)()
        client.ask()
        client.close()
    assert len(lab.records) == 1


@pytest.mark.reactor
def test_the_reactor_wakes_the_hub_once_more_for_a_cancel_after_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    lab, looks, look = Lab(Generator(engine="reactor")), [], Connection.look

    def noting(self: Connection) -> None:
        looks.append(1)
        look(self)

    monkeypatch.setattr(Connection, "look", noting)
    with Answering(25, "hang") as server:
        one = go(lab, server, Cancel(mode="rst", after_tokens=25))
    assert (one.outcome, one.tokens_received, one.violations) == ("cancelled", 25, [])
    assert len(looks) <= 6  # the head, the first token, perhaps a join, the last
    assert lab.traffic is not None
    lab.traffic.close()


def test_a_cancel_after_many_tokens_of_which_one_is_not_as_expected(lab: Lab) -> None:
    strange = b'data: {"choices":[{"index":0,"delta":{"content":" zzz"}}]}\n\n'
    with Answering(6, *chunked(strange, end=False), 6, "hang") as server:
        one = go(lab, server, Cancel(mode="rst", after_tokens=10))
    assert (one.outcome, one.tokens_received, one.violations) == ("cancelled", 10, ["foreign_tokens"])
