"""What Locust's own users do with a stream: HttpUser with iter_lines (requests), FastHttpUser with readline.

argv: URL, streams, requests a stream, tokens an answer, directory, requests | fasthttp. Each chunk is decoded
with json, as users' scripts do.
"""

from __future__ import annotations

from locust import FastHttpUser, HttpUser
from locust.env import Environment
from locust.exception import StopUser

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent

from benchmarks.clients import answers
from harness.core.clock import now_ns

BODY = {"model": "m", "messages": [{"role": "user", "content": "key: baba babe"}], "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
written: list[bytes] = []
numbers = iter(range(1 << 30))


def note(name: str, start_ns: int, lines: Iterator[bytes]) -> None:
    """Read a stream to its end; the times of its tokens."""
    times: list[int] = []
    for line in lines:
        if line.startswith(b"data: {"):
            at = now_ns()
            if json.loads(line[6:])["choices"]:
                times.append(at)
        elif line.startswith(b"data: [DONE]"):
            break
    written.append(answers.pack(name, start_ns, times))


def headers(name: str) -> dict[str, str]:
    return {"X-Request-Id": name}


def requests_loop(user: Any) -> None:
    number = next(numbers)
    for k in range(int(sys.argv[3])):
        name, start_ns = f"{number}-{k}", now_ns()
        with user.client.post("/v1/chat/completions", json=BODY, headers=headers(name), stream=True, catch_response=True) as response:  # fmt: skip
            note(name, start_ns, response.iter_lines())
    raise StopUser


def fast_loop(user: Any) -> None:
    number = next(numbers)
    for k in range(int(sys.argv[3])):
        name, start_ns = f"{number}-{k}", now_ns()
        with user.client.post("/v1/chat/completions", json=BODY, headers=headers(name), stream=True, catch_response=True) as response:  # fmt: skip
            raw = response._response
            note(name, start_ns, iter(lambda raw=raw: bytes(raw.readline(b"\n")).rstrip(), None))
            raw.read()
    raise StopUser


class Requests(HttpUser):  # type: ignore[misc]
    tasks = (requests_loop,)


class Fast(FastHttpUser):  # type: ignore[misc]
    tasks = (fast_loop,)


def main() -> None:
    url, streams, place, which = sys.argv[1], int(sys.argv[2]), Path(sys.argv[5]), sys.argv[6]
    user_class = {"requests": Requests, "fasthttp": Fast}[which]
    environment: Any = Environment(user_classes=[user_class], host=url)
    runner = environment.create_local_runner()
    user_class.fixed_count = streams
    runner.start(streams, spawn_rate=streams)
    while len(written) < streams * int(sys.argv[3]):
        gevent.sleep(0.05)
    runner.stop()
    place.mkdir(parents=True, exist_ok=True)
    (place / "answers").write_bytes(b"".join(written))


if __name__ == "__main__":
    main()
