"""What a process shows while it drains, channel by channel; no answer is None and never a number."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from faults.ports import Progress, Target
from harness.core import clock, proc, rundir, sutfile
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState
from harness.platforms.draining import DrainView
from harness.sut.witness import control
from tests.fixtures.faults_lab import system

F1, W1 = Target("frontend", 1), Target("worker", 1)
FRONTEND = """dynamo_frontend_requests_started_total{endpoint="a",model="m"} 7
dynamo_frontend_requests_started_total{endpoint="b",model="m"} 2
dynamo_frontend_output_tokens_total{model="m"} 300
dynamo_frontend_inflight_requests{model="m"} 4
"""


@pytest.fixture
def pages() -> Iterator[dict[str, Any]]:
    """Path to (status, body), served by this process; "port" says where."""
    found: dict[str, Any] = {}

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = found.get(self.path, (404, ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    found["port"] = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def view(tmp_path: Path, process: Process, token: str | None = None) -> DrainView:
    run = rundir.create(tmp_path / "run")
    state = SutState(sut_id="s", owner="run", oracle="count", model="m", urls=[], processes=[process], control_token=token)  # fmt: skip
    sutfile.save(run, state)
    return DrainView(RunDir(run.path))


def process(role: str, port: int, **more: Any) -> Process:
    base = f"http://127.0.0.1:{port}"
    return Process(name=f"{role}-1", role=role, index=1, pid=1, start_ticks=1, health=[f"{base}/health"],
                   metrics=f"{base}/metrics", **more)  # fmt: skip


def test_a_draining_frontend_is_alive_and_not_healthy(tmp_path: Path, pages: dict[str, Any]) -> None:
    pages |= {"/health": (503, "{}"), "/live": (200, "{}"), "/metrics": (200, FRONTEND)}
    one = view(tmp_path, process("frontend", pages["port"]))
    assert one.pages(F1) == (503, 200)
    assert one.progress(F1) == Progress(9, 300, 4)
    pages["/metrics"] = (503, "")
    assert one.progress(F1) == Progress() and one.listed_by(F1) == {}


def test_a_worker_counts_requests_and_nothing_is_made_up(tmp_path: Path, pages: dict[str, Any]) -> None:
    one = view(tmp_path, process("worker", pages["port"]))
    assert one.pages(W1) == (404, 404) and one.progress(W1) == Progress()
    pages["/metrics"] = (200, 'dynamo_component_requests_total{dynamo_endpoint="generate"} 5\n')
    assert one.progress(W1) == Progress(5, None, None)


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        proc.send(lab.who("worker-1"), signal.SIGKILL)
        one = DrainView(lab.run)
        assert clock.wait_until(lambda: one.pages(W1) == (None, None), 5)
        assert one.progress(W1) == Progress() and one.listed_by(W1) == {}


def test_the_witness_counts_its_tokens(tmp_path: Path) -> None:
    import asyncio

    said = {"requests": 3, "tokens": 120, "running": 2, "waiting": 1}

    async def ask() -> None:
        server = await control.serve(0, "t", lambda _: said)
        port = server.sockets[0].getsockname()[1]
        one = view(tmp_path, process("worker", 1, control_port=port), token="t")
        assert await asyncio.to_thread(one.progress, W1) == Progress(3, 120, 3)
        server.close()
        assert await asyncio.to_thread(one.progress, W1) == Progress()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("role", "env", "grace_s"),
    [
        ("worker", {}, 5),
        ("worker", {"DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "0"}, 0),
        ("worker", {"DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "x"}, 5),
        ("frontend", {"DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS": "9"}, 9),
        ("etcd", {}, None),
    ],
)
def test_the_grace_period_is_what_the_process_was_told(
    tmp_path: Path, role: str, env: dict[str, str], grace_s: float | None
) -> None:
    one = view(tmp_path, process(role, 1, argv=["x"], env=env))
    assert one.grace_s(Target(role, 1)) == grace_s


def test_an_outside_process_has_an_unknown_grace_period(tmp_path: Path) -> None:
    assert view(tmp_path, process("worker", 1)).grace_s(W1) is None


def test_each_frontend_is_asked_for_its_list(tmp_path: Path) -> None:
    with system(tmp_path, workers=2, frontend=[]) as lab:
        one = DrainView(lab.run)
        assert one.listed_by(W1) == {"frontend-1": True}
        proc.send(lab.who("worker-1"), signal.SIGKILL)
        assert clock.wait_until(lambda: one.listed_by(W1) == {"frontend-1": False}, 5)
        assert one.listed_by(Target("worker", 2)) == {"frontend-1": True}
        assert json.dumps(dict(one.listed_by(W1)))
