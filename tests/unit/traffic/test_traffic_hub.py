from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from streams import witness
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import clock, proc
from harness.traffic.engine import HubEngine
from harness.traffic.exchange import Exchange
from harness.traffic.hub import Connection
from harness.traffic.integrity import judge
from harness.traffic.transcript import Expectation, Findings

KEY, N = (5, 7), 8
WANT = Expectation(tokens_expected=N, key=KEY)
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = witness(KEY, N)
PERFECT: list[Step] = [HEAD, *chunked(*EVENTS)]


def ask(connection: Connection, timeout_s: float = 10, **fields: Any) -> Exchange:
    one = Exchange(REQUEST)
    for name, value in fields.items():
        setattr(one, name, value)
    connection.exchange(one, clock.now_ns() + int(timeout_s * clock.NS))
    return one


def read(one: Exchange, want: Expectation = WANT) -> Findings:
    return judge(one.transcript(), want)


def test_a_perfect_answer_and_the_connection_is_kept(engine: HubEngine) -> None:
    with ScriptedServer([PERFECT]) as server:
        connection = Connection(engine, server.url)
        for _ in range(3):
            one = ask(connection)
            found = read(one)
            assert (one.end, found.outcome, found.violations) == ("complete", "ok", [])
            assert connection.connected
        assert server.connections == 1 and server.requests == [REQUEST] * 3
        connection.close()


def test_times_lie_between_send_and_read(engine: HubEngine) -> None:
    with ScriptedServer([[HEAD, *[s for c in chunked(*EVENTS) for s in (c, 0.002)]]]) as server:
        connection = Connection(engine, server.url)
        one = ask(connection)
        transcript, found = one.transcript(), read(one)
        assert engine.kernel_stamps and all(piece[0] for piece in one.pieces)
        assert one.start_ns <= transcript.times[0] and list(transcript.times) == sorted(transcript.times)
        assert all(at <= piece[2] for at, piece in zip(transcript.times, one.pieces, strict=True))
        assert transcript.end_ns == transcript.times[-1] == one.over_ns()
        assert found.coalesced or all(gap >= 1000 for gap in found.gaps_us)  # the server waits 2 ms
        connection.close()


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50, 1000])
def test_wherever_the_bytes_are_cut(engine: HubEngine, cut: int) -> None:
    data = b"".join(s for s in PERFECT if isinstance(s, bytes))
    with ScriptedServer([[data[k : k + cut] for k in range(0, len(data), cut)]]) as server:
        connection = Connection(engine, server.url)
        assert [read(ask(connection)).outcome for _ in range(2)] == ["ok", "ok"]
        connection.close()
        assert server.connections == 1


BODY = b"".join(EVENTS)


@pytest.mark.parametrize(("script", "end", "outcome", "kept"), [
    ([b"HTTP/1.1 100 Continue\r\n\r\n", *PERFECT], "complete", "ok", True),
    ([b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(BODY), BODY], "complete", "ok", True),
    ([b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", BODY, "close"], "closed", "ok", False),
    ([b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", BODY[:900], "close"], "closed", "truncated", False),
    ([HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), *chunked(*EVENTS), "close"], "complete", "ok", False),
    ([HEAD, *chunked(*EVENTS[:3], end=False), "close"], "closed", "truncated", False),
    ([HEAD, *chunked(*EVENTS[:3], end=False), 0.05, "rst"], "reset", "truncated", False),
    (["close"], "closed", "transport_error", False),
    (["rst"], "reset", "transport_error", False),
    ([HEAD[:30], "close"], "closed", "transport_error", False),
    ([b"SSH-2.0-OpenSSH\r\n\r\n"], "malformed", "transport_error", False),
    ([HEAD, *chunked(*EVENTS[:3], end=False), b"xyz\r\n\r\n"], "malformed", "truncated", False),
    ([b"HTTP/1.1 529 Overloaded\r\ncontent-length: 0\r\n\r\n"], "complete", "shed", True),
    ([b"HTTP/1.1 500 E\r\ncontent-length: 0\r\n\r\n"], "complete", "http_error", True),
    ([b"HTTP/1.1 204 No Content\r\n\r\n"], "complete", "http_error", True),
    ([HEAD, *chunked(*EVENTS), b"surplus"], "complete", "ok", False),
    ([b"".join([HEAD, *chunked(*EVENTS), b"surplus"])], "complete", "ok", False),
    ([HEAD, *chunked(*EVENTS), 0.02, b"surplus"], "complete", "ok", False),
])  # fmt: skip
def test_endings(engine: HubEngine, script: list[Step], end: str, outcome: str, kept: bool) -> None:
    with ScriptedServer([script]) as server:
        connection = Connection(engine, server.url)
        one = ask(connection)
        found = read(one, replace(WANT, overload_codes=frozenset({529})))
        assert (one.end, found.outcome) == (end, outcome)
        if b"surplus" in str(script).encode():  # may come in the same read or in a later one
            end_ns = clock.now_ns() + 5 * clock.NS
            while connection.connected and clock.now_ns() < end_ns:
                gevent.sleep(0.005)
        assert connection.connected == kept
        connection.close()


def test_refused_and_unknown_host(engine: HubEngine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = ask(Connection(engine, f"http://127.0.0.1:{port}"))
    assert (one.end, read(one).outcome) == ("refused", "transport_error")
    assert "refused" in (one.error or "")
    assert ask(Connection(engine, "http://a..b")).end == "refused"


@pytest.mark.parametrize(
    "script", [["hang"], [HEAD, "hang"], [HEAD, *chunked(*EVENTS[:2], end=False), "hang"]]
)
def test_timeout(engine: HubEngine, script: list[Step]) -> None:
    with ScriptedServer([script]) as server:
        connection = Connection(engine, server.url)
        one = ask(connection, 0.2)
        found = read(one)
        assert (one.end, found.outcome) == ("timeout", "timed_out")
        assert one.end_ns - one.start_ns >= 200_000_000 and not connection.connected
        assert {"missing_finish", "missing_done", "short_stream"} == set(found.violations)


@pytest.mark.parametrize("mode", ["fin", "rst"])
def test_cancel_after_k_tokens(engine: HubEngine, mode: str) -> None:
    script: list[Step] = [HEAD, *[s for c in chunked(*EVENTS[:3], end=False) for s in (c, 0.01)], "hang"]
    with ScriptedServer([script]) as server:
        connection = Connection(engine, server.url)
        seen: list[bytes] = []  # events, however many of them one read brings

        def watch(index: int, body: bytes) -> bool:
            seen.extend([body] * body.count(b"data: "))
            return len(seen) >= 3

        one = ask(connection, watch=watch, cancel_mode=mode)
        found = read(one)
        assert (one.end, found.outcome, found.violations, found.tokens_received) == (
            "cancelled",
            "cancelled",
            [],
            3,
        )
        assert not connection.connected
        assert server.ended.wait(5) and server.endings == ["eof" if mode == "fin" else "reset"]


def test_cancel_during_prefill(engine: HubEngine) -> None:
    with ScriptedServer([["hang"], PERFECT]) as server:
        connection = Connection(engine, server.url)
        engine.timer.call_at(clock.now_ns() + 30_000_000, partial(connection.cancel, "fin"))
        one = ask(connection)
        assert (one.end, read(one).outcome, read(one).tokens_received) == ("cancelled", "cancelled", 0)
        assert read(ask(connection)).outcome == "ok"  # the next request takes a new connection
        connection.close()


def test_fin_even_with_unread_bytes(engine: HubEngine) -> None:
    """Closing over unread bytes would send RST."""
    more = b": " + b"x" * 30_000 + b"\n\n"  # beyond one read; sent at once, so that the server isn't writing
    with ScriptedServer([[b"".join([HEAD, *chunked(*EVENTS[:2], more, end=False)]), "hang"]]) as server:
        connection = Connection(engine, server.url)
        one = ask(connection, watch=lambda index, body: True, cancel_mode="fin")
        assert one.end == "cancelled" and server.ended.wait(5)
        assert server.endings == ["eof"]


def test_a_killed_user_leaves_a_finished_exchange(engine: HubEngine) -> None:
    with ScriptedServer([[HEAD, *chunked(*EVENTS[:2], end=False), "hang"]]) as server:
        connection, one = Connection(engine, server.url), Exchange(REQUEST)
        user = gevent.spawn(connection.exchange, one, clock.now_ns() + 10 * clock.NS)
        while not one.pieces:
            gevent.sleep(0.005)
        user.kill()
        assert (one.end, read(one).outcome) == ("drain", "timed_out")
        assert not connection.connected and not engine.open


def test_give_up(engine: HubEngine) -> None:
    with ScriptedServer([["hang"]]) as server:
        connection = Connection(engine, server.url)
        connection.give_up()  # nothing is open: nothing happens
        engine.timer.call_at(clock.now_ns() + 20_000_000, connection.give_up)
        assert ask(connection).end == "drain"


def test_a_connection_closed_while_idle_is_replaced(engine: HubEngine) -> None:
    with ScriptedServer([[*PERFECT, "close"], PERFECT]) as server:
        connection = Connection(engine, server.url)
        assert read(ask(connection)).outcome == "ok"
        while connection.connected:
            gevent.sleep(0.005)
        assert read(ask(connection)).outcome == "ok"
        assert (server.connections, len(server.requests)) == (2, 2)
        connection.close()


@pytest.mark.parametrize("how", ["close", "rst"])
def test_a_stale_connection_is_tried_once_more(engine: HubEngine, how: str) -> None:
    with ScriptedServer([PERFECT, [how], PERFECT]) as server:
        connection = Connection(engine, server.url)
        assert [read(ask(connection)).outcome for _ in range(2)] == ["ok", "ok"]
        assert (server.connections, len(server.requests)) == (2, 3)
        connection.close()


@pytest.mark.parametrize("scripts", [[PERFECT, [0.15, "close"]], [PERFECT, ["close"], ["close"]], [["close"], PERFECT],
                                     [PERFECT, [HEAD[:5], "close"]]])  # fmt: skip
def test_what_is_not_stale_is_an_error(engine: HubEngine, scripts: list[list[Step]]) -> None:
    """Later than the window, twice, on a new connection, or after a byte of an answer."""
    with ScriptedServer(scripts) as server:
        connection = Connection(engine, server.url)
        outcomes = [read(ask(connection)).outcome for _ in range(2)]
        assert "transport_error" in outcomes
        connection.close()


def test_a_large_request_to_a_slow_reader(engine: HubEngine) -> None:
    body = b"x" * 2_000_000
    with ScriptedServer([PERFECT]) as server:
        one = Exchange(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        connection = Connection(engine, server.url)
        connection.exchange(one, clock.now_ns() + 20 * clock.NS)
        assert read(one).outcome == "ok" and len(server.requests[0]) == len(one.request)
        connection.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(engine: HubEngine) -> None:
    try:
        server = ScriptedServer([PERFECT], socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    with server:
        connection = Connection(engine, server.url)
        assert read(ask(connection)).outcome == "ok"
        connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    done = proc.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                     "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                     "-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem")])  # fmt: skip
    assert done.code == 0, done.err
    return path


def test_tls(engine: HubEngine, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with ScriptedServer(
        [PERFECT, [HEAD, *chunked(*EVENTS[:3], end=False), "close"]], context=context
    ) as server:
        connection = Connection(engine, server.url, trusting)
        one = ask(connection)
        assert (one.end, read(one).outcome, server.connections) == ("complete", "ok", 1)
        assert all(piece[0] for piece in one.pieces)  # kernel stamps
        assert read(ask(connection)).outcome == "truncated"
        refused = ask(Connection(engine, server.url))  # a certificate that nobody vouches for
        assert read(refused).outcome == "transport_error" and "TLS" in (refused.error or "")


def test_what_came_by_the_deadline_counts(engine: HubEngine) -> None:
    """Bytes after the message that look like an event hide its end from the quick look."""
    with ScriptedServer(
        [[HEAD, 0.05, b"".join([*chunked(*EVENTS), *chunked(EVENTS[0], end=False)])]]
    ) as server:
        one = ask(Connection(engine, server.url), 0.3)
        assert (one.end, read(one).outcome) == ("complete", "ok")


def test_many_streams_at_once_and_deferred_work_runs_beside_them(engine: HubEngine) -> None:
    script: list[Step] = [HEAD, *[s for c in chunked(*EVENTS) for s in (c, 0.003)]]
    found: list[Findings] = []

    def user(url: str) -> None:
        connection = Connection(engine, url)
        for _ in range(3):
            one = ask(connection)
            engine.defer(lambda one=one: found.append(read(one)))  # type: ignore[misc]
        connection.close()

    with ScriptedServer([script]) as server:
        gevent.joinall([gevent.spawn(user, server.url) for _ in range(20)], raise_error=True)
        engine.flush()
        assert [f.outcome for f in found] == ["ok"] * 60 and not engine.open


def test_a_job_that_fails_does_not_stop_the_others(
    engine: HubEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []

    def fails() -> None:
        raise ValueError("a job's own error")

    engine.defer(fails)
    engine.defer(lambda: done.append(1))
    engine.flush()
    assert done == [1] and "a job's own error" in capfd.readouterr().err


@pytest.mark.parametrize("failing", [(), (0,), tuple(range(0, 12, 2))])
def test_who_asks_waits_while_too_much_is_put_off(
    engine: HubEngine, monkeypatch: pytest.MonkeyPatch, failing: tuple[int, ...]
) -> None:
    monkeypatch.setattr("harness.traffic.engine.MOST_JOBS", 5)
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *error: None)
    done: list[int] = []

    def job(number: int) -> None:
        done.append(number)
        assert number not in failing

    for number in range(12):
        if number == 5:
            engine.wait_for_room()
            assert done == [], "there was room"
        engine.defer(partial(job, number))
    engine.wait_for_room()
    assert len(done) >= 7
    engine.flush()
    assert done == list(range(12))


def test_no_descriptor_is_left(engine: HubEngine) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ScriptedServer([[*PERFECT], ["rst"], ["hang"]]) as server:
        for timeout_s in (5.0, 5.0, 0.05):
            connection = Connection(engine, server.url)
            ask(connection, timeout_s)
            connection.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(0.01)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
