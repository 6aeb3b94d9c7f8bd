"""Prefill and decode on mockers of their own: registered, ready, listed, and both take part in an answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sutclient import VERSIONS, System

from faults.ports import Target
from harness.platforms import local
from harness.sut import ready

pytestmark = [pytest.mark.sut, pytest.mark.timeout(120)]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_is_made_by_a_prefill_and_a_decode_worker(
    start: Callable[..., System], version: str
) -> None:
    system = start(dynamo=version, engine="mocker", workers=1, prefill_workers=1)
    assert [(p.name, p.role) for p in system.state.processes] == [
        ("frontend-1", "frontend"), ("worker-1", "worker"), ("prefill-1", "prefill"),
    ]  # fmt: skip
    ids = ready.instances(system.state)
    assert set(ids) == {"worker-1", "prefill-1"}
    reply = system.ask("baba beba", 20)
    assert len(reply.text.split()) == 20
    made_by = next(event["nvext"]["worker_id"] for event in reply.events if "nvext" in event)
    assert str(made_by["prefill_worker_id"]) == ids["prefill-1"]
    assert str(made_by["decode_worker_id"]) == ids["worker-1"]
    signs = local.ports(system.run, 15).processes.serving(Target("prefill", 1))
    assert (signs.healthy, signs.listed, signs.requests) == (True, True, 1)
