"""Passing over like pieces changes nothing: the same findings as reading each one, whatever the stream."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import DONE, event, token, usage, witness, word
from traffic_server import HEAD, chunked

from harness.traffic.exchange import Exchange
from harness.traffic.integrity import judge
from harness.traffic.pieces import Like, Pieces
from harness.traffic.reading import Reader
from harness.traffic.transcript import Expectation, Findings

KEY, N = (17, 4001), 12
WANT = Expectation(tokens_expected=N, key=KEY, prompt_tokens=30)
COUNT = Expectation(tokens_expected=N, prompt_tokens=30)


def exchange(pieces: Any) -> Exchange:
    """An answer that is over; reads come 10 ms apart."""
    return over(Exchange(b""), pieces)


def over(one: Exchange, pieces: Any) -> Exchange:
    one.pieces = pieces
    one.end, one.end_ns = "closed", 10**10
    one.frame()
    one.response.eof()
    if one.response.complete:
        one.end = "complete"
    return one


def filled(data: list[bytes]) -> Pieces:
    return Pieces(([], piece, 10**7 * (k + 1)) for k, piece in enumerate(data))


def plainly(data: list[bytes], want: Expectation) -> Findings:
    """The same with every read framed and fed as it is."""
    one = Exchange(b"", watch=lambda index, body: False)
    return judge(over(one, filled(data)).transcript(), want)


def glued(data: list[bytes], reads: list[int]) -> list[bytes]:
    """So many of the pieces in each of the first reads, one in each of the others."""
    found, at = [], 0
    for count in reads:
        found.append(b"".join(data[at : at + count]))
        at += count
    return [read for read in [*found, *data[at:]] if read]


EVENTS = st.one_of(
    st.integers(0, N + 1).map(lambda i: token(word(KEY, i))),
    st.integers(0, N + 1).map(lambda i: token(word(KEY, i) + word(KEY, i + 1))),
    st.sampled_from([
        DONE, usage(30, N), token(""), token(" zzzz"), token(word(KEY, 0), "stop"), token(word(KEY, 1), id="other"),
        token('"\\'), token("ä"), event({"error": {"message": "x"}}), b"data: {\n\n", b": comment\n\n", b"data: a\ndata: b\n\n",
        b'data: {"x":" ' + word(KEY, 3).strip().encode() + b'","choices":[{"delta":{"content":"' + word(KEY, 3).encode() + b'"}}]}\n\n',
    ]),
)  # fmt: skip
STREAMS = st.one_of(
    st.lists(EVENTS, max_size=2 * N),
    st.tuples(st.integers(0, N), st.lists(EVENTS, max_size=3), st.integers(0, N)).map(
        lambda t: [*witness(KEY, N)[: t[0]], *t[1], *witness(KEY, N)[t[2] :]]
    ),
)


@given(
    STREAMS,
    st.sampled_from([WANT, COUNT]),
    st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b"]),
    st.lists(st.integers(1, 4)),
)
def test_findings_are_those_of_reading_each_piece(events: list[bytes], want: Expectation, size: bytes, reads: list[int]) -> None:  # fmt: skip
    chunks = [size % len(e) + b"\r\n" + e + b"\r\n" for e in events]
    data = [HEAD, *glued([*chunks, b"0\r\n\r\n"], reads)]
    one = exchange(filled(data)).transcript()
    assert msgspec.to_builtins(judge(one, want)) == msgspec.to_builtins(plainly(data, want))


@pytest.mark.parametrize("want", [WANT, COUNT])
def test_most_events_of_a_usual_stream_are_not_decoded(want: Expectation, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    fed: list[int] = []
    feed = Reader.feed

    def noting(self: Reader, index: int, body: bytes) -> None:
        fed.append(index)
        feed(self, index, body)

    monkeypatch.setattr(Reader, "feed", noting)
    found = judge(exchange(filled([HEAD, *chunked(*witness(KEY, N))])).transcript(), want)
    assert (found.outcome, found.tokens_received, len(found.gaps_us)) == ("ok", N, N - 1)
    assert fed == [1, N, N + 1, N + 2]  # the first, finish, usage, [DONE]


def test_run_follows_the_words_and_stops_at_the_first_that_is_none() -> None:
    pieces = filled(chunked(*witness(KEY, N), end=False))
    before, after = token(word(KEY, 0))[6:-2].split(word(KEY, 0).encode())
    like = Like(before + b" ", after, (KEY[0] + 2 * KEY[1]) % 8093, KEY[1], N)
    assert pieces.run(2, N, like) == N - 1 - 2  # the last has a finish reason
    assert pieces.run(2, 5, like) == 3
    assert pieces.run(2, N, like._replace(limit=4)) == 4
    assert pieces.run(3, N, like) == 0
    assert pieces.run(2, N, Like(before, after)) == N - 1 - 2
    assert pieces.whole(0) == len(pieces)


def test_a_read_of_several_chunks_is_as_many_pieces() -> None:
    chunks = chunked(*witness(KEY, N))
    data = [HEAD, *glued(chunks, [1, 3, 1, 2, N - 8, 4])]  # in the last: a token, usage, [DONE], the end
    one = exchange(filled(data))
    assert [piece[1] for piece in one.pieces] == [HEAD, *chunks]
    assert one.bodies[0] == (1, N + 2)
    assert one.pieces.joined() == [2, 3, 6, *range(8, N - 1), N, N + 1]
    found = judge(one.transcript(), WANT)
    assert (found.outcome, found.tokens_received) == ("ok", N)
    assert (found.coalesced, found.time_error_us) == (2 + 1 + N - 9, 10_000)
    later = [True, False, False, True, True, False, True, *[False] * (N - 9), True]
    assert [gap > 0 for gap in found.gaps_us] == later


def test_a_read_that_ends_within_a_chunk_is_joined_with_its_beginning() -> None:
    chunks = chunked(*witness(KEY, N))
    data = [HEAD, chunks[0] + chunks[1][:20], chunks[1][20:], *chunks[2:]]
    one = exchange(filled(data))
    assert [piece[1] for piece in one.pieces] == [HEAD, chunks[0], chunks[1][:20], *data[2:]]
    assert one.pieces.joined() == [1]
    found = judge(one.transcript(), WANT)
    assert (found.outcome, found.coalesced, found.time_error_us) == ("ok", 0, 10_000)
