"""How many Locust processes a scenario gets."""

from __future__ import annotations

import os
from typing import Any

import pytest

from harness import locust_process
from harness.core import config


def scenario(processes: int, **load: Any) -> config.Scenario:
    load = {"duration_s": 9, "users": [{"class": "ChatUser", "count": 3}], **load}
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "load": load}
    return config.build({**tree, "generator": {"processes": processes}}, "t.yaml")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.usefixtures("cores")
def test_as_many_as_it_says_or_as_there_are_cores_but_none_without_a_user() -> None:
    assert [locust_process.processes(scenario(n)) for n in (1, 2, 3)] == [1, 2, 3]
    assert locust_process.processes(scenario(0)) == 3
    many = scenario(0, users=[{"class": "ChatUser", "count": 30}])
    assert locust_process.processes(many) == 8
    arriving = scenario(0, users=[{"class": "ChatUser", "weight": 1}], arrivals={"rate_per_s": 5})
    assert locust_process.processes(arriving) == 8
