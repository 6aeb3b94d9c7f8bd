"""Reading the SUT's pages: a small HTTP server plays frontend and worker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from harness.core import proc
from harness.core.errors import ProvisionError
from harness.core.sutfile import Process, SutState
from harness.sut import ready


@pytest.fixture
def pages() -> Iterator[dict[str, Any]]:
    """Path to (status, body); "port" is where they are served, by this process."""
    found: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = found.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found["port"] = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def system(port: int, pid: int | None = None) -> SutState:
    """One frontend and one worker, both this process (or another pid)."""
    who = proc.identify(pid or os.getpid())
    assert who is not None

    def process(role: str) -> Process:
        base = f"http://127.0.0.1:{port}"
        return Process(name=f"{role}-1", role=role, index=1, pid=who.pid, start_ticks=who.start_ticks,
                       port=port, health=[f"{base}/{role}"], metrics=f"{base}/metrics")  # fmt: skip

    return SutState(sut_id="s", owner="run", oracle="witness", model="m", urls=[],
                    processes=[process("frontend"), process("worker")])  # fmt: skip


def healthy(pages: dict[str, Any]) -> SutState:
    """A system with everything in order."""
    here = {"endpoint": "generate", "instance_id": 2**63 + 5,
            "transport": {"tcp": f"127.0.0.1:{pages['port']}/5/generate"}}  # fmt: skip
    body = {"status": "healthy", "instances": [here, {**here, "endpoint": "other", "instance_id": 1}]}
    pages["/frontend"] = (200, json.dumps(body).encode())
    pages["/worker"] = (200, b'{"status":"ready"}')
    pages["/v1/models"] = (200, b'{"data":[{"id":"m"}]}')
    return system(pages["port"])


def test_ready_when_all_say_so(pages: dict[str, Any]) -> None:
    state = healthy(pages)
    ready.wait(state, 5)
    assert ready.instances(state) == {"worker-1": str(2**63 + 5)}


@pytest.mark.parametrize(
    ("path", "status", "body", "why"),
    [
        ("/worker", 503, b'{"status":"notready"}', "503"),
        ("/worker", 200, b'{"status":"notready"}', "notready"),
        ("/worker", 200, b"ready", "200 ready"),
        ("/frontend", 200, b'{"status":"unhealthy"}', "unhealthy"),
        ("/frontend", 200, b'{"status":"healthy","instances":[]}', "does not list worker-1"),
        ("/v1/models", 200, b'{"data":[]}', "offers no model, not m"),
        ("/v1/models", 200, b'{"data":[{"id":"other"}]}', r"offers \['other'\], not m"),
    ],
)
def test_one_that_is_not_ready_is_named_with_what_it_said(
    pages: dict[str, Any], path: str, status: int, body: bytes, why: str
) -> None:
    state = healthy(pages)
    pages[path] = (status, body)
    with pytest.raises(ProvisionError, match=f"not ready after 0 s.*\n.*{why}"):
        ready.wait(state, 0)


def test_an_answer_from_another_process_is_no_answer(pages: dict[str, Any]) -> None:
    healthy(pages)
    state = system(pages["port"], pid=os.getppid())
    why = ready.problem(state.process("worker-1"), state)
    assert why is not None
    assert "answered by another process" in why


def test_a_process_that_ended_is_named_at_once(pages: dict[str, Any]) -> None:
    state = healthy(pages)
    state.process("worker-1").start_ticks += 1
    with pytest.raises(ProvisionError, match="worker-1 ended while starting"):
        ready.wait(state, 60)


def test_request_counts(pages: dict[str, Any]) -> None:
    worker = system(pages["port"]).process("worker-1")
    assert ready.request_count(worker) is None  # no page: not zero
    pages["/metrics"] = (200, b"# HELP x\n")
    assert ready.request_count(worker) == 0
    pages["/metrics"] = (200, (
        b'dynamo_component_requests_total{dynamo_endpoint="generate",model="m"} 12\n'
        b'dynamo_component_requests_total{dynamo_endpoint="other"} 100\n'
        b'dynamo_component_requests_total_other{dynamo_endpoint="generate"} 7\n'
    ))  # fmt: skip
    assert ready.request_count(worker) == 12


def test_nobody_answering_lists_nobody(pages: dict[str, Any]) -> None:
    state = system(pages["port"])
    assert ready.listed_by(state.process("frontend-1"), state) is None
    assert ready.instances(state) == {}


def test_a_prefill_worker_must_be_listed_too(pages: dict[str, Any]) -> None:
    state = healthy(pages)
    prefill = state.process("worker-1")
    prefill.name, prefill.role = "prefill-1", "prefill"
    assert ready.instances(state) == {"prefill-1": str(2**63 + 5)}
    pages["/frontend"] = (200, b'{"status":"healthy","instances":[]}')
    why = ready.problem(state.process("frontend-1"), state)
    assert why is not None and "does not list prefill-1" in why
