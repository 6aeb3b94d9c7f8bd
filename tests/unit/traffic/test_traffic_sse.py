from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.traffic.sse import MAX_EVENT, Event, Parser


def parse(data: bytes, cuts: list[int] | None = None) -> list[Event]:
    parser, events, last = Parser(), [], 0
    for cut in [*sorted(cuts or []), len(data)]:
        events += parser.feed(data[last:cut])
        last = max(last, cut)
    return events


def reference(data: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm over the whole text, written as it reads there."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\r|\n", data)[:-1]  # the last has no end
    events, buffer, name = [], b"", b""
    for line in lines:
        if not line:
            if buffer or name:
                events.append((buffer[:-1] if buffer.endswith(b"\n") else buffer, name or b"message"))
            buffer, name = b"", b""
        elif line.startswith(b":"):
            pass
        else:
            field, colon, value = line.partition(b":")
            if colon and value.startswith(b" "):
                value = value[1:]
            if field == b"data":
                buffer += value + b"\n"
            elif field == b"event":
                name = value
    return events


@pytest.mark.parametrize(("text", "data"), [
    (b"data: a\n\n", [b"a"]), (b"data:a\r\n\r\n", [b"a"]), (b"data: a\r\r", [b"a"]), (b"data:  a\n\n", [b" a"]),
    (b"data: a\ndata: b\n\n", [b"a\nb"]), (b"data\n\n", [b""]), (b"data\ndata\n\n", [b"\n"]), (b": hi\n\ndata: a\n\n", [b"a"]),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]), (b"id: 1\nretry: 5\nfoo: x\ndata: a\n\n", [b"a"]), (b"data: a\n", []),
    (b"data: a", []), (b"\n\n\ndata: a\n\n\n", [b"a"]), (b" data: a\n\n", []), (b"DATA: a\n\n", []), (b"data: a:b\n\n", [b"a:b"]),
])  # fmt: skip
def test_data(text: bytes, data: list[bytes]) -> None:
    assert [event.data for event in parse(text)] == data


def test_names_comments_and_ids() -> None:
    parser = Parser()
    assert parser.feed(b"event: error\n: went wrong\nid: 7\nid: 8\0\n\n") == [
        Event(b"", b"error", b"went wrong")
    ]
    assert parser.last_id == b"7"
    assert parser.feed(b"event: error\ndata: x\n\ndata: y\n\n") == [Event(b"x", b"error"), Event(b"y")]


def test_cr_dispatches_at_once_and_lf_after_it_is_swallowed() -> None:
    parser = Parser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\n\r") == [Event(b"a")]
    assert parser.feed(b"\ndata: b\r\n") == []
    assert parser.feed(b"\r\n") == [Event(b"b")]


def test_single_is_the_same_as_feed() -> None:
    parser = Parser()
    assert parser.single(b"\xef\xbb\xbfdata: a\n\n") is None  # a byte order mark
    assert parser.single(b"data: a\n\n") == b"a"
    assert parser.feed(b"\xef\xbb\xbfdata: b\n\n") == []  # none here any more: a field that nobody knows
    parser.feed(b": hi\n\n")
    assert parser.single(b"data: a\n\n") == b"a"
    parser.feed(b"data: x\n")
    assert parser.single(b"data: a\n\n") is None  # it belongs to the event that is open


def test_unfinished_and_overflow() -> None:
    parser = Parser()
    parser.feed(b"data: a\n")
    assert parser.unfinished
    parser.feed(b"\n")
    assert not parser.unfinished
    assert parser.feed(b"data: " + b"x" * MAX_EVENT) == [] and parser.overflow
    assert parser.feed(b"\n\ndata: a\n\n") == []


alphabet = st.lists(st.sampled_from([b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"event", b"x", b"\xef\xbb\xbf", b"\xef",
                                     b"id", b"\0", b"data: a\n\n", b"\n\n"]), max_size=30).map(b"".join)  # fmt: skip


@given(alphabet, st.data())
@example(b"data: a\r\n\r\ndata: b\n\n", None)
def test_equals_the_standard_wherever_it_is_cut(text: bytes, data: st.DataObject | None) -> None:
    want = reference(text)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6)) if data else [3]
    for chosen in ([], cuts, list(range(len(text)))):
        assert [(e.data, e.name) for e in parse(text, chosen)] == want


@given(alphabet, st.data())
def test_the_short_way_is_exact(text: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    slow, quick, last = parse(text, cuts), [], 0
    parser = Parser()
    for cut in [*sorted(cuts), len(text)]:
        piece, last = text[last:cut], max(last, cut)
        one = parser.single(piece)
        quick += parser.feed(piece) if one is None else [Event(one)]
    assert quick == slow


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_any_bytes_never_raise(parts: list[bytes]) -> None:
    parser = Parser()
    for part in parts:
        parser.feed(part)
