"""What `squall doctor` says about the network: tried, not guessed."""

from __future__ import annotations

import pytest

from harness import doctor
from harness.platforms import network


def lines() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor._queues()}


@pytest.mark.netns
def test_queues_are_tried_on_a_host_made_for_it() -> None:
    there = network.kernel_queues()
    assert {name for name, check in lines().items() if check.level == "ok"} == there


def test_a_queue_that_is_not_there_is_said_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "refusal", lambda: None)
    monkeypatch.setattr(network, "kernel_queues", lambda: frozenset({"htb", "tbf"}))
    found = lines()
    assert [found[name].level for name in ("htb", "tbf", "netem")] == ["ok", "ok", "absent"]
    assert "sch_netem (network.delay, which is refused without it)" in found["netem"].text


def test_without_root_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "refusal", lambda: "needs root")
    assert all(check.level == "absent" and "needs root" in check.text for check in lines().values())
    monkeypatch.setattr(network, "refusal", lambda: None)

    def fails() -> frozenset[str]:
        raise OSError("no more namespaces")

    monkeypatch.setattr(network, "kernel_queues", fails)
    assert all("no more namespaces" in check.text for check in lines().values())
