from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.traffic.http1 import MAX_CHUNK_LINE, MAX_HEAD, Response


def read(data: bytes, cuts: list[int] | None = None, eof: bool = False) -> tuple[Response, bytes]:
    response, body, last = Response(), b"", 0
    for cut in [*sorted(cuts or []), len(data)]:
        body += response.feed(data[last:cut])
        last = max(last, cut)
    if eof:
        response.eof()
    return response, body


def summary(response: Response, body: bytes) -> tuple[object, ...]:
    return (response.status, response.reason, response.headers, response.framing, response.complete,
            response.error is None, response.surplus if response.error is None else None, response.keep_alive, body)  # fmt: skip


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\na: 2\r\n\r\n"


def test_chunked_with_extensions_and_trailers() -> None:
    r, body = read(
        CHUNKED + b'4;a="b"\r\nWiki\r\n00005 \r\npedia\r\nA\r\n0123456789\r\n0\r\nX: y\r\nZ: q\r\n\r\n'
    )
    assert (body, r.complete, r.error, r.surplus) == (b"Wikipedia0123456789", True, None, 0)
    assert r.header("A") == "1, 2" and r.keep_alive


def test_content_length_leaves_the_surplus() -> None:
    r, body = read(b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhelloXX")
    assert (body, r.complete, r.surplus, r.keep_alive) == (b"hello", True, 2, False)


@pytest.mark.parametrize("cut", [0, 3])
def test_close_delimited(cut: int) -> None:
    r, body = read(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nabc", [cut])
    assert not r.complete
    r.eof()
    assert (body, r.complete, r.keep_alive) == (b"abc", True, False)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_no_body(status: bytes) -> None:
    r, body = read(b"HTTP/1.1 " + status + b"\r\nContent-Length: 9\r\n\r\n")
    assert r.complete and body == b"" and r.keep_alive


def test_interim_responses_are_skipped() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    r, _ = read(data)
    assert (r.status, r.complete, r.header("link")) == (200, True, None)


def test_keep_alive_is_what_the_server_says() -> None:
    assert not read(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")[0].keep_alive
    assert not read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")[0].keep_alive
    assert read(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")[0].keep_alive
    both = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n"
    r, body = read(both)
    assert body == b"a" and r.complete and not r.keep_alive


def test_obsolete_folding_and_lone_lf_in_the_head() -> None:
    r, _ = read(b"HTTP/1.1 200\nA: b\n  c\nContent-Length: 0\n\n")
    assert r.header("a") == "b c" and r.complete


@pytest.mark.parametrize("data", [
    b"hello\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * MAX_HEAD, b"HTTP/1.1 103 E\r\n\r\n" * 20, b" HTTP/1.1 200 OK\r\n\r\n",
])  # fmt: skip
def test_malformed_head(data: bytes) -> None:
    r, body = read(data)
    assert r.error and not r.complete and not r.head_complete and body == b""


@pytest.mark.parametrize("field", [b"Content-Length: 5, 6", b"Content-Length: -1", b"Content-Length: +5",
                                   b"Content-Length: x", b"Transfer-Encoding: gzip, chunked"])  # fmt: skip
def test_malformed_framing(field: bytes) -> None:
    r, _ = read(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")
    assert r.error and r.head_complete and r.status == 200


@pytest.mark.parametrize("body", [
    b"zz\r\n", b"-1\r\n", b"0x5\r\n", b"1_0\r\n", b"\r\n", b"5\r\nhelloXX", b"5\r\nhello\nX", b"5\n\r\n", b"ffffffffffffffff\r\n",
    b"1" * (MAX_CHUNK_LINE + 2), b"0\r\nbad trailer\r\n\r\n", b"0\r\n" + b"A: b\r\n" * 20_000,
])  # fmt: skip
def test_malformed_chunks(body: bytes) -> None:
    r, _ = read(CHUNKED + body)
    assert r.error and not r.complete and not r.keep_alive


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, CHUNKED + b"5\r\nhel", CHUNKED + b"1\r\na\r\n0\r\n",
                                  b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"])  # fmt: skip
def test_early_close(data: bytes) -> None:
    r, _ = read(data, eof=True)
    assert r.error and "ended before" in r.error and not r.complete


heads = st.sampled_from([CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
                         b"HTTP/1.1 100 C\r\n\r\n" + CHUNKED, b""])  # fmt: skip
pieces = st.lists(
    st.sampled_from([b"0\r\n\r\n", b"\r\n", b"\n", b"\r", b"5\r\nhello\r\n", b"a;x\r\n0123456789\r\n", b"0\r\nA: b\r\n\r\n", b"3\r\nabc"])
    | st.binary(max_size=6), max_size=12).map(b"".join)  # fmt: skip


@given(heads, pieces, st.data())
def test_cuts_change_nothing(head: bytes, rest: bytes, data: st.DataObject) -> None:
    message = head + rest
    cuts = data.draw(st.lists(st.integers(0, len(message)), max_size=8))
    every = list(range(len(message)))
    whole = summary(*read(message, eof=True))
    assert summary(*read(message, cuts, eof=True)) == whole
    assert summary(*read(message, every, eof=True)) == whole


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_bytes_never_raise(parts: list[bytes]) -> None:
    r = Response()
    for part in parts:
        r.feed(part)
    r.eof()
    assert r.complete or r.error


@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=6), st.data())
def test_what_was_chunked_comes_back(parts: list[bytes], data: st.DataObject) -> None:
    message = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(message)), max_size=8))
    r, body = read(message, cuts)
    assert body == b"".join(parts) and r.complete and r.surplus == 0
