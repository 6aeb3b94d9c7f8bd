"""Whose an instance is: by the port of its transport, else by the id in the worker's own metrics."""

from __future__ import annotations

import os

from metrics_server import Target, free_port, serving

from harness.core import proc
from harness.core.owners import Owners
from harness.core.sutfile import Process

ID = 5081212085928332618
SAYS_ID = f'dynamo_component_inflight_requests{{dynamo_endpoint="generate",worker_id="{ID:x}"}} 0\n'
SUBJECT = {"nats_tcp": f"dynamo_backend.generate-{ID:x}"}


def worker(metrics: str, role: str = "worker", start: int = 0) -> Process:
    """This process, which listens on what the test serves."""
    who = proc.identify(os.getpid())
    assert who is not None
    return Process(
        name=f"{role}-1",
        role=role,
        index=1,
        pid=who.pid,
        start_ticks=who.start_ticks + start,
        metrics=metrics,
    )


def test_a_tcp_transport_is_known_by_its_port() -> None:
    with serving(Target()) as page:
        mine = [worker("http://127.0.0.1:9/never-asked")]
        assert Owners().name(mine, "5", {"tcp": f"127.0.0.1:{page.port}/c54d/generate"}) == "worker-1"
        assert Owners().name(mine, "5", {"tcp": f"127.0.0.1:{free_port()}/c54d/generate"}) is None


def test_a_subject_is_known_by_the_id_in_the_metrics_and_asked_once() -> None:
    with serving(Target(metrics=(200, SAYS_ID))) as page:
        owners, mine = Owners(), [worker(page.url("/metrics"))]
        for _ in range(3):
            assert owners.name(mine, str(ID), SUBJECT) == "worker-1"
        assert owners.name(mine, str(ID + 1), SUBJECT) is None
        assert len(page.requests) == 1
    assert owners.name(mine, str(ID), SUBJECT) == "worker-1"  # it doesn't answer now, as if stopped
    assert Owners().name(mine, str(ID), SUBJECT) is None


def test_a_dead_process_and_a_server_have_no_instance() -> None:
    with serving(Target(metrics=(200, SAYS_ID))) as page:
        assert Owners().name([worker(page.url("/metrics"), start=1)], str(ID), SUBJECT) is None
        assert Owners().name([worker(page.url("/metrics"), role="nats")], str(ID), SUBJECT) is None
        assert page.requests == []


def test_metrics_without_an_id_are_asked_again() -> None:
    with serving(Target(metrics=(200, "other 1\n"))) as page:
        owners, mine = Owners(), [worker(page.url("/metrics"))]
        assert owners.name(mine, str(ID), SUBJECT) is None
        page.metrics = (200, SAYS_ID)
        assert owners.name(mine, str(ID), SUBJECT) == "worker-1"
