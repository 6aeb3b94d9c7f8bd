"""The compiled parts against their models in Python: framing, pieces; and both engines on any bytes."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import DONE, token, usage, witness, word
from test_traffic_hub import EVENTS, KEY, PERFECT, WANT, N, ask
from test_traffic_pieces import STREAMS, exchange, filled, glued
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import words
from harness.traffic.engine import HubEngine
from harness.traffic.http1 import Response
from harness.traffic.hub import Connection
from harness.traffic.integrity import judge
from harness.traffic.pieces import Like, Pieces
from harness.traffic.reactor import native
from harness.traffic.transcript import Expectation

pytestmark = pytest.mark.reactor
WORDS = "".join(words.WORDS).encode()


def cut(data: bytes, at: list[int]) -> tuple[bytes, ...]:
    """The same bytes in pieces."""
    ends = sorted({min(a, len(data)) for a in at} | {len(data)})
    return tuple(data[a:b] for a, b in zip([0, *ends], ends, strict=False) if b > a)


SPOILT = st.sampled_from([
    b"\r\n", b"\n", b"\r", b"0\r\n\r\n", b"0\r\n", b"\n\n", b"5;a=b\r\nhello\r\n", b"ffffffffff\r\n", b"content-length: 3\r\n", b"xyz",
    b"Transfer-Encoding: chunked\r\n", b" folded\r\n", b"\0", b"transfer-encoding: gzip\r\n", b"00\r\n\r\n", b"trailer: 1\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200 OK\r\n", b"A" * 300,
])  # fmt: skip


@st.composite
def answers(draw: st.DrawFn, least: int = 0) -> bytes:
    """A right answer, spoilt in up to three places, perhaps cut short."""
    data = b"".join([HEAD, *chunked(*witness(KEY, draw(st.integers(0, 4))))])
    for _ in range(draw(st.integers(least, 3))):
        at = draw(st.one_of(st.integers(0, len(HEAD) + 8), st.integers(0, len(data))))
        data = (
            data[:at] + draw(st.one_of(SPOILT, st.binary(max_size=4))) + data[at + draw(st.integers(0, 3)) :]
        )
    return data[: draw(st.sampled_from([-7, 150, len(data), len(data), len(data)]))]


CUTS = st.one_of(st.just([]), st.lists(st.integers(0, 2000), max_size=12), st.just(list(range(2000))))


@given(st.one_of(answers(), st.binary(max_size=60)), CUTS)
@settings(max_examples=400)
def test_the_thread_is_never_silent_where_the_answer_is_over(data: bytes, at: list[int]) -> None:
    pieces, response = cut(data, at), Response()
    for piece, look in zip(pieces, native.load().looks(pieces), strict=True):
        response.feed(piece)
        if response.complete or response.error is not None:
            assert look
            return


def test_a_usual_answer_is_looked_at_once() -> None:
    pieces = (HEAD, *chunked(*EVENTS))
    assert native.load().looks(pieces) == [False] * (len(pieces) - 1) + [True]
    data = b"".join(pieces)
    looks = native.load().looks(cut(data, list(range(len(data)))))
    assert looks == [n < len(HEAD) - 1 or n == len(data) - 1 for n in range(len(data))]


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 E\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", b"HTTP/1.1 200 OK\ntransfer-encoding: chunked\r\n\r\n",
])  # fmt: skip
def test_whatever_else_is_left_to_python(head: bytes) -> None:
    assert native.load().looks((head, *chunked(*EVENTS))) == [True] * (len(EVENTS) + 2)


def captured(data: list[bytes]) -> Any:
    """The pieces of `filled`, in C, taken apart where the thread does it. No head: between two chunks."""
    capture, response = native.load().Capture(WORDS, words.P), Response()
    headless = not b"".join(data).startswith(b"HTTP/")
    for k, piece in enumerate(data):
        capture.append(piece, 0, 10**7 * (k + 1), headless or response.between_chunks)
        response.feed(piece)
    return capture


@given(STREAMS, st.booleans(), st.sampled_from([b"%x", b"%X", b"0%x"]), CUTS)
@settings(max_examples=200)
def test_findings_from_a_capture(events: list[bytes], keyed: bool, size: bytes, at: list[int]) -> None:
    want = Expectation(tokens_expected=12, key=(17, 4001) if keyed else None, prompt_tokens=30)
    chunks = [size % len(e) + b"\r\n" + e + b"\r\n" for e in events]
    data = [HEAD, *chunks, b"0\r\n\r\n"]
    if at:
        data = list(cut(b"".join(data), at))
    c, python = exchange(captured(data)), exchange(filled(data))
    assert c.bodies == python.bodies and c.end == python.end
    assert b"".join(data) == b"".join(piece[1] for piece in c.pieces)
    assert msgspec.to_builtins(judge(c.transcript(), want)) == msgspec.to_builtins(judge(python.transcript(), want))  # fmt: skip


LIKES = st.builds(
    Like, st.sampled_from([b"", b"a", b'{"c":"']), st.sampled_from([b"", b"z", b'"}']), st.integers(0, words.P - 1),
    st.sampled_from([0, 1, 4001]), st.integers(0, 5),
)  # fmt: skip
TEXTS = st.one_of(st.sampled_from(words.WORDS).map(str.encode), st.binary(max_size=6), st.just(b""))


@given(
    st.lists(st.tuples(LIKES, TEXTS), max_size=6), LIKES, st.integers(0, 7), st.integers(0, 7),
    st.lists(st.integers(1, 3), max_size=3),
)  # fmt: skip
def test_runs_of_a_capture(
    parts: list[tuple[Like, bytes]], like: Like, index: int, end: int, reads: list[int]
) -> None:
    data = chunked(*(b"data: " + one.before + text + one.after + b"\n\n" for one, text in parts), end=False)
    data = glued(data, reads)
    c, python = captured(data), filled(data)
    python.whole(0)  # which makes pieces of the reads
    assert [c[n][1:] for n in range(len(c))] == [piece[1:] for piece in python]
    assert list(c.joined()) == python.joined()
    data = [piece[1] for piece in python]
    assert [c.whole(n) for n in range(len(data) + 1)] == [python.whole(n) for n in range(len(data) + 1)]
    if like.step == 0:
        like = like._replace(limit=1 << 62)
    end = min(end, len(data))
    assert c.run(index, end, like) == python.run(index, end, like)
    assert [c.body(n) for n in range(len(data))] == [python.body(n) for n in range(len(data))]


@given(
    st.lists(st.tuples(st.integers(-(10**9), 10**10), st.integers(0, 10**10)), max_size=20),
    st.integers(-(10**9), 10**9), st.integers(0, 10**9),
)  # fmt: skip
def test_times_of_a_capture(values: list[tuple[int, int]], drift: int, start: int) -> None:
    offset, capture, pieces = 1_700_000_000 * 10**9, native.load().Capture(WORDS, words.P), Pieces()
    for (kernel, _), read in zip(values, sorted(read for _, read in values), strict=True):
        capture.append(b"x", offset + kernel, read)
        pieces.append(capture[len(capture) - 1])
    assert capture.times(start, offset, offset + drift) == pieces.times(start, offset, offset + drift)


def test_what_a_capture_refuses() -> None:
    module = native.load()
    with pytest.raises(ValueError, match="four letters"):
        module.Capture(b"baba", 2)
    capture = captured([b"x"])
    with pytest.raises(IndexError):
        capture[1]
    with pytest.raises(IndexError):
        capture.body(-1)
    with pytest.raises(ValueError, match="start below"):
        capture.run(0, 1, Like(b"", b"", words.P, 1))
    with pytest.raises(TypeError):
        capture.run(0, 1, ())
    with pytest.raises(ValueError, match="one read"):
        capture.append(b"x" * 20_000, 0, 0)


def test_a_reactor_that_is_closed_while_lines_are_open() -> None:
    engine = HubEngine("reactor")
    with ScriptedServer([PERFECT]) as server:
        connection = Connection(engine, server.url)
        assert ask(connection).end == "complete"
        engine.close()
        engine.close()
        connection.close()
    del connection, engine
    gc.collect()


SCRIPTS = st.tuples(
    st.one_of(answers(least=1), answers(least=1), STREAMS.map(lambda events: b"".join([HEAD, *chunked(*events)]))), CUTS
)  # fmt: skip


@given(SCRIPTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_both_engines_say_the_same_of_any_bytes(script: tuple[bytes, list[int]]) -> None:
    """The server closes in the end, so that no answer ends by a clock."""
    data, at = script
    steps: list[Step] = [*cut(data, at[:12]), "close"]
    found: list[dict[str, Any]] = []
    for kind in ("hub", "reactor"):
        engine = HubEngine(kind)
        with ScriptedServer([steps]) as server:
            connection = Connection(engine, server.url)
            one = ask(connection, 30)
            said = msgspec.to_builtins(judge(one.transcript(), WANT)) | {"end": one.end, "kept": connection.connected}  # fmt: skip
            connection.close()
        engine.close()
        for name in (
            "t_first_ns",
            "t_last_ns",
            "gaps_us",
            "coalesced",
            "coalesced_late",
            "time_error_us",
            "kept",
        ):
            said[name] = bool(said[name]) if name.startswith("t_") else None
        found.append(said)
    assert found[0] == found[1]


def test_pieces_that_differ_in_a_word_are_folded_and_come_out_as_they_were() -> None:
    data = [HEAD, *chunked(*witness(KEY, 200))]
    capture = captured(data)
    assert capture.kept() < len(HEAD) + 4 * max(len(piece) for piece in data[1:])
    assert [capture[n][1] for n in range(len(data))] == data
    close = chunked(
        b"data: aaaa bbbb\n\n", b"data: aaab bbbb\n\n", b"data: aaab bbbc\n\n", b"data: baaa bbbb\n\n"
    )
    capture = captured(close)
    assert [capture[n][1] for n in range(len(close))] == close


def test_usual_events_are_not_copied_out_of_the_capture() -> None:
    data = [HEAD, *chunked(*witness(KEY, N))]
    one = exchange(captured(data))
    assert one.bodies[0] == (1, N + 2)  # pieces that are one chunk each, and then the last chunk
    found = judge(one.transcript(), WANT)
    assert (found.outcome, found.tokens_received) == ("ok", N)
    assert [token(word(KEY, 0)), usage(30, N), DONE] == [one.pieces.body(n) for n in (1, N + 1, N + 2)]


def test_an_answer_that_is_over_keeps_little_memory() -> None:
    engine = HubEngine("reactor")
    with ScriptedServer([PERFECT]) as server:
        connection = Connection(engine, server.url)
        one = ask(connection)
        assert one.end == "complete" and one.pieces.room() <= one.pieces.kept() + 100 * len(one.pieces)  # type: ignore[attr-defined]
        assert captured([HEAD]).room() > 10_000, "one that goes on has room"
        connection.close()
    engine.close()
