"""One GET with one deadline: complete answers come through, everything else is an error."""

from __future__ import annotations

import socket
import threading
from http.client import HTTPException

import pytest
from metrics_server import Target, free_port, raw, serving

from harness.core import fetch


def get(url: str, timeout_s: float = 5) -> fetch.Answer:
    return fetch.get(url, {"X-Test": "yes"}, timeout_s)


def test_answer_is_status_and_body_and_headers_are_sent() -> None:
    with serving(Target(health=(503, b"body"))) as target:
        assert get(target.url("/health?deep=1")) == (503, b"body")
        [(path, headers)] = target.requests
    assert path == "/health?deep=1"
    assert (headers["X-Test"], headers["Connection"]) == ("yes", "close")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
    ],
)
def test_every_framing_is_read(answer: bytes) -> None:
    with raw(answer) as url:
        assert get(url) == (200, b"abcde")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    ],
)
def test_half_an_answer_is_none(answer: bytes) -> None:
    with raw(answer) as url, pytest.raises((HTTPException, OSError)) as caught:
        get(url)
    assert fetch.error_text(caught.value) not in ("timeout", "refused")


def test_dripped_bytes_do_not_extend_the_deadline() -> None:
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
    # 2 s for all of it, 0.05 s for each receive
    with raw(slow, drip_s=0.05) as url, pytest.raises(TimeoutError) as caught:
        get(url, 0.4)
    assert fetch.error_text(caught.value) == "timeout"


def test_refusal_reset_and_bad_addresses_have_names() -> None:
    with pytest.raises(ConnectionRefusedError) as refused:
        get(f"http://127.0.0.1:{free_port()}/health")
    assert fetch.error_text(refused.value) == "refused"
    with raw(b"", reset=True) as url, pytest.raises(OSError, match="reset") as reset:
        get(url)
    assert fetch.error_text(reset.value) == "reset"
    for url in ("http://127.0.0.1:99999/", "http://:x/", f"http://{'a' * 70}.{'é' * 70}/"):
        with pytest.raises((HTTPException, OSError)) as bad:
            get(url)
        assert fetch.error_text(bad.value)


def test_a_post_carries_its_body() -> None:
    received = bytearray()

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            while b'{"a":1}' not in received and (data := connection.recv(4096)):
                received.extend(data)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v3/x"
        assert fetch.post(url, b'{"a":1}', {"Content-Type": "application/json"}, 5) == (200, b"{}")
        thread.join()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v3/x HTTP/1.1\r\n") and body == b'{"a":1}'
    assert b"Content-Length: 7" in head and b"Content-Type: application/json" in head
