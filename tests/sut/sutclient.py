"""A plain client for tests: whole responses, nothing hidden, no part of squall's own client."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.core import config, netns, proc, words
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState
from harness.sut import control

VERSIONS = ["1.6.1", "1.4.2"]


def scenario_of(**sut: Any) -> Scenario:
    """A scenario around a `sut` mapping."""
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    return config.build({"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1", **sut}, "load": load}, "t.yaml")


@dataclass
class Reply:
    """One whole HTTP response."""

    request_id: str
    raw: bytes
    took_s: float

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in re.findall(rb"data: (\{[^\r\n]*)", self.raw)]

    @property
    def text(self) -> str:
        return "".join(
            (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            for event in self.events
            for choice in event.get("choices", [])
        )

    @property
    def usage(self) -> dict[str, Any] | None:
        return next((event["usage"] for event in self.events if event.get("usage")), None)

    @property
    def finish(self) -> str | None:
        found = [c.get("finish_reason") for event in self.events for c in event.get("choices", [])]
        return next((reason for reason in found if reason), None)

    @property
    def ids(self) -> set[str]:
        return {event["id"] for event in self.events if "id" in event}

    @property
    def done(self) -> bool:
        return b"data: [DONE]" in self.raw

    def positions(self, a: int, b: int) -> list[int]:
        """Position of each received word in the chain (a, b), -1 for none."""
        inverse = words.inverse(b)
        return [words.position(words.INDEX.get(w, words.P), a, inverse) for w in self.text.split()]


@dataclass
class System:
    """A running system and how to talk to it."""

    state: SutState
    run: RunDir

    def ask(
        self, prompt: str, n: int, route: str = "chat", on_data: Callable[[bytes], bool] | None = None
    ) -> Reply:
        """Send and read to the end, or until on_data(everything so far) is True: then hang up."""
        host, _, port = self.state.urls[0].removeprefix("http://").rpartition(":")
        body: dict[str, Any] = {
            "model": self.state.model, "max_tokens": n, "stream": True,
            "stream_options": {"include_usage": True}, "nvext": {"extra_fields": ["worker_id"]},
        }  # fmt: skip
        if route == "chat":
            body["messages"], path = [{"role": "user", "content": prompt}], "/v1/chat/completions"
        else:
            body["prompt"], path = prompt, "/v1/completions"
        data = json.dumps(body).encode()
        request_id = str(uuid.uuid4())
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\nx-dynamo-request-id: {request_id}\r\n\r\n"
        )
        raw, began = b"", time.monotonic()
        with netns.connect(self.state.vantage, (host, int(port)), 30) as connection:
            connection.sendall(head.encode() + data)
            while part := connection.recv(65536):
                raw += part
                if on_data is not None and on_data(raw):
                    break
        return Reply(request_id, raw, time.monotonic() - began)

    def many(self, count: int, send: Callable[[int], Reply]) -> list[Callable[[], Reply]]:
        """Start send(0..count-1) at once; call the results to wait for them."""
        results: dict[int, Reply] = {}
        threads = [
            threading.Thread(target=lambda k=k: results.__setitem__(k, send(k)), daemon=True)
            for k in range(count)
        ]
        for thread in threads:
            thread.start()

        def wait(k: int) -> Reply:
            threads[k].join(40)
            return results[k]

        return [lambda k=k: wait(k) for k in range(count)]

    def command(self, **command: Any) -> list[dict[str, Any]]:
        """The same control command to every living worker."""
        token = self.state.control_token or ""
        living = [worker for worker in self.state.role("worker") if proc.alive(worker.identity)]
        return [control.call(worker, token, command) for worker in living]

    def lies(self, kind: str) -> tuple[int, set[str]]:
        """How often and to which requests a misbehaviour happened, over all workers."""
        found = [status["lies"].get(kind) for status in self.command(command="status")]
        known = [one for one in found if one]
        return sum(one["count"] for one in known), {i for one in known for i in one["request_ids"]}

    def segments(self, request_id: str) -> list[dict[str, Any]]:
        """The request's lines in all workers' segment files, by time."""
        lines = []
        for worker in self.state.role("worker"):
            path = self.run.segments(worker.name)
            lines += [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return sorted((s for s in lines if s["request_id"] == request_id), key=lambda s: s["t_mono_ns"])
