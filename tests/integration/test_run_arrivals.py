"""The open loop through the whole pipeline, on a server of our own: sheds a fifth, and says when to come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pipeline import SHORT, run

from harness.core import words
from harness.core.arrivals import USERS_FROM

pytestmark = [pytest.mark.load, pytest.mark.timeout(120)]
REQUESTS = count()


class Answers(BaseHTTPRequestHandler):
    """As many words as were asked for, 10 ms apart; every fifth request is shed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing to the terminal."""

    def do_GET(self) -> None:
        self._whole(200, b'{"status":"healthy"}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if next(REQUESTS) % 5 == 4:
            self._whole(529, b"{}")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        n = asked["max_tokens"]
        for i in range(n):
            finish = "length" if i == n - 1 else None
            self._event({"index": 0, "finish_reason": finish, "delta": {"content": " " + words.WORDS[i]}})
            time.sleep(0.01)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, choice: dict[str, Any]) -> None:
        event = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_limit_holds_requests_back_on_record(url: str, processes: int, tmp_path: Path) -> None:
    user = {
        "class": "ChatUser", "weight": 1, "prompt_tokens": 60, "output_tokens": 20,
        "retry": {"max_attempts": 3, "base_s": 0.05}, "conversation": {"turns": 2}, "think_s": 0.1,
    }  # fmt: skip
    load = {
        "duration_s": 6, "warmup_s": 1, "drain_s": 5, "users": [user],
        "arrivals": {"process": "poisson", "rate_per_s": 12, "max_in_flight": 2},
    }  # fmt: skip
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        json.dumps(
            {"schema": 1, "name": "held", "sut": {"url": url, "model": "m", "oracle": "count"}, "load": load}
        )
    )
    done = run(tmp_path / "run", *SHORT[-4:], f"generator.processes={processes}", scenario=scenario)
    assert done.code == 0, done.out + done.err
    assert "max_in_flight 2 held requests back" in done.out
    rows, counts = done.requests, done.json("manifest.json")["counts"]
    assert counts["sent"] == len(rows) == counts["ok"] + counts["shed"] and counts["lost"] == 0
    assert (rows.user >= USERS_FROM).all() and rows.worker_index.nunique() == processes
    for one in rows.itertuples():
        assert ((rows.t_start_ns <= one.t_start_ns) & (rows.t_end_ns > one.t_start_ns)).sum() <= 2
    waits_ms = (rows.t_start_ns - rows.t_due_ns) / 1e6
    assert (
        waits_ms.max() > 200 and done.json("manifest.json")["generator"]["send_lag_max_ms"] < waits_ms.max()
    )
    metrics = done.json("metrics.json")["all"]
    assert metrics["amplification_ratio"] > 1.1 and metrics["ttft_p99_due_ms"] > metrics["ttft_p99_ms"] + 200
    first = rows.set_index("request_id")
    assert all(first.loc[one.retry_of].outcome == "shed" for one in rows[rows.attempt > 0].itertuples())
    assert "Load asked for and sent" in (done.dir / "report" / "report.md").read_text()
