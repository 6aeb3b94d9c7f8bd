"""What `squall doctor` says about the network: tried, not guessed."""

from __future__ import annotations

import pytest

from harness import doctor, preflight
from harness.core import config
from harness.core.errors import ScenarioError, UsageError
from harness.platforms import network
from harness.traffic import engine
from harness.traffic.reactor import native


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


def test_the_engine_that_auto_takes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", lambda: "no compiler")
    check = next(check for check in doctor._generator() if check.name == "client engine")
    assert (check.level, check.text) == ("absent", "auto = hub (pure Python): no compiler")
    assert engine.choose("auto") == "hub" and engine.choose("reactor") == "reactor"
    monkeypatch.setattr(native, "why_not", lambda: None)
    check = next(check for check in doctor._generator() if check.name == "client engine")
    assert check.level == "ok" and "auto = reactor" in check.text
    assert engine.choose("auto") == "reactor" and engine.choose("hub") == "hub"


def test_a_reactor_that_is_not_there_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "load": load, "generator": {"engine": "reactor"}}  # fmt: skip
    monkeypatch.setattr(native, "why_not", lambda: "no compiler")
    with pytest.raises(ScenarioError, match=r"t\.yaml: generator\.engine: no compiler"):
        preflight.check(config.build(tree, "t.yaml"), "t.yaml")
    with pytest.raises(UsageError, match="no compiler"):
        engine.HubEngine("reactor")


def test_a_reactor_of_other_sources_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.why_not() is not None:
        pytest.skip(str(native.why_not()))
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    assert "built from other sources" in str(native.why_not()) and engine.choose("auto") == "hub"
