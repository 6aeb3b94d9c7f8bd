"""Streams past a token: counted from what has arrived, never too many, each piece read once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.traffic.exchange import Exchange
from harness.traffic.pieces import Pieces
from harness.traffic.progress import NOT_TOKENS, Progress

EVENT = b'data: {"choices":[]}\n\n'


def stream(*data: bytes) -> Exchange:
    one = Exchange(b"")
    one.pieces = Pieces(([], piece, 0) for piece in data)
    return one


def test_events_that_came_in_one_piece_all_count() -> None:
    events = NOT_TOKENS + 10
    one, progress = stream(EVENT * events), Progress()
    assert progress.past({one}, 9) == 1
    assert progress.past({one}, 10) == 0  # exactly 10 are not more than 10


def test_what_comes_later_is_added_and_what_ended_is_forgotten() -> None:
    one, other, progress = stream(), stream(EVENT * 50), Progress()
    assert progress.past({one, other}, 5) == 1
    one.pieces.append(([], EVENT * (NOT_TOKENS + 6), 0))
    assert progress.past({one, other}, 5) == 2
    assert progress.past({one}, 5) == 1 and progress.past(set(), 5) == 0


def test_a_stream_begun_anew_counts_from_zero() -> None:
    one, progress = stream(EVENT * 50), Progress()
    assert progress.past({one}, 5) == 1
    one.reset()
    one.pieces.append(([], EVENT, 0))
    assert progress.past({one}, 5) == 0


@given(st.integers(0, 40), st.lists(st.integers(0, 900), max_size=10), st.integers(0, 40))
def test_never_more_than_have_arrived(events: int, cuts: list[int], token: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\n\r\n" + EVENT * events
    ends = sorted(min(cut, len(whole)) for cut in cuts)
    pieces = [whole[a:b] for a, b in zip([0, *ends], [*ends, len(whole)], strict=True)]
    found = Progress().past({stream(*pieces)}, token)
    assert not found or events > token


def test_only_the_deltas_of_a_responses_stream_count() -> None:
    created = b'event: response.created\ndata: {"type":"response.created"}\n\n'
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n'
    one = Exchange(b"POST /v1/responses HTTP/1.1\r\n\r\n")
    one.pieces = Pieces(
        ([], piece, 0) for piece in (created * 20, delta * (NOT_TOKENS + 2), delta * 4, created)
    )
    assert (Progress().past({one}, 5), Progress().past({one}, 6)) == (1, 0)
