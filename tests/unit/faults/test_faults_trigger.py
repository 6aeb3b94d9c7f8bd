"""Triggers: hold at once, later, never, almost; a stop while waiting; what plan and scenario refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from faults import timeline
from faults.trigger import Trigger
from harness.core import clock
from harness.core.config import PastToken, When
from harness.core.errors import FaultError, ScenarioError
from tests.fixtures.faults_lab import scenario

ANCHOR = clock.anchor_now()


def trigger(
    value: Callable[[], float | None], stopping: threading.Event | None = None, **when: Any
) -> Trigger:
    condition = When(streams=3, **{"within_s": 0.2, **when})
    return Trigger(condition, clock.now_ns(), stopping or threading.Event(), value, ANCHOR)


def test_it_holds_at_once() -> None:
    one = trigger(lambda: 3)
    one.watch()
    assert one.wait() is False
    why = one.why()
    assert why["when"] == "streams >= 3" and why["value"] == 3
    assert 0 <= why["held_ns"] <= ANCHOR.t_ns() and why["delay_ms"] >= 0


def test_it_holds_later_and_is_not_asked_again() -> None:
    values = iter([None, 0, 2.9, 7])
    one = trigger(lambda: next(values), within_s=30)
    one.watch()
    assert one.wait() is False and one.why()["value"] == 7
    assert list(values) == []


def test_a_value_just_below_never_holds_and_is_named() -> None:
    one = trigger(lambda: 2.9)
    one.watch()
    with pytest.raises(
        FaultError, match=r"streams >= 3 never held within 0\.2 s; the highest value was 2\.9"
    ):
        one.wait()
    assert one.why() == {}


def test_unknown_is_not_held() -> None:
    one = trigger(lambda: None)
    one.watch()
    with pytest.raises(FaultError, match="it was never known"):
        one.wait()


def test_a_bug_in_what_it_counts_is_no_reason_to_strike() -> None:
    def broken() -> float:
        raise RuntimeError("bug")

    one = trigger(broken)
    one.watch()
    with pytest.raises(FaultError, match="its condition is unknown: RuntimeError: bug"):
        one.wait()


def test_a_stop_while_it_waits() -> None:
    stopping = threading.Event()

    def value() -> float:
        stopping.set()
        return 0

    one = trigger(value, stopping, within_s=600)
    one.watch()
    assert one.wait() is True and one.why() == {}


def test_not_before_its_time() -> None:
    stopping = threading.Event()
    stopping.set()
    one = Trigger(When(streams=1), clock.now_ns() + 600 * clock.NS, stopping, lambda: 9, ANCHOR)
    one.watch()
    assert one.wait() is True


def test_without_a_condition_it_is_the_time_alone() -> None:
    one = Trigger(None, clock.now_ns(), threading.Event(), lambda: 1 / 0, ANCHOR)
    one.watch()
    assert one.wait() is False and one.why() == {}


def step(fault_id: str = "kill", **more: Any) -> dict[str, Any]:
    return {
        "id": fault_id,
        "fault": "process.kill",
        "select": {"role": "worker", "index": [1]},
        "at_s": 5,
        **more,
    }


def plan(*steps: dict[str, Any]) -> timeline.Plan:
    return timeline.plan(scenario(list(steps), 60), {"worker": 2, "frontend": 1}, "t.yaml")


def test_the_plan_shows_condition_and_bound() -> None:
    one = plan(step(when={"past_token": {"token": 20, "streams": 4}, "within_s": 10}, restart_after_s=1))
    (injection,) = one.injections
    assert injection.when == When(past_token=PastToken(20, 4), within_s=10)
    assert (injection.earliest_s, injection.latest_s) == (5, 15)
    assert "from then on when streams past token 20 >= 4, within 10 s" in one.lines()[1]
    assert b'"past_token":{"streams":4,"token":20}' in one.to_json()
    assert one == plan(
        step(when={"past_token": {"token": 20, "streams": 4}, "within_s": 10}, restart_after_s=1)
    )


def test_overlaps_are_judged_by_the_worst_case() -> None:
    first = step("a", when={"streams": 2, "within_s": 10}, restart_after_s=1)
    with pytest.raises(ScenarioError, match="overlaps"):
        plan(first, step("b", at_s=15.5))
    assert len(plan(first, step("b", at_s=17)).injections) == 2


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({}, "exactly one of streams, past_token, queued and kv_use"),
        ({"streams": 1, "past_token": {"token": 3}}, "exactly one of streams, past_token, queued and kv_use"),
        ({"streams": 0}, r"when\.streams: got 0"),
        ({"past_token": {"token": 1, "streams": 0}}, r"past_token\.streams: got 0"),
        ({"past_token": {"token": -1}}, r"past_token\.token: got -1"),
        ({"streams": 1, "queued": 1}, "needs exactly one of .*, got streams, queued"),
        ({"queued": 0}, r"when\.queued: got 0"),
        ({"kv_use": 0}, r"when\.kv_use: got 0"),
        ({"kv_use": 1.5}, r"when\.kv_use: got 1\.5"),
        ({"queued": 2, "on_target": True}, r"when\.on_target: doesn't go with queued"),
        ({"past_token": {"token": 3}, "on_target": True}, r"when\.on_target: doesn't go with past_token"),
        ({"streams": 1, "within_s": 0}, r"when\.within_s: got 0"),
        ({"streams": 1, "within_s": 56}, r"when\.within_s: 56 .* after the end of the load"),
        ({"stream": 1}, "unknown key"),
    ],
)
def test_what_a_condition_may_not_say(when: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as error:
        plan(step(when=when))
    assert str(error.value).startswith("t.yaml: faults[0]")


def test_repetitions_and_a_condition_exclude_each_other() -> None:
    with pytest.raises(ScenarioError, match=r"every_s: 9.* doesn't go with `when`"):
        plan(step(when={"streams": 1}, every_s=9))


@pytest.mark.parametrize(
    ("when", "key"), [({"kv_use": 0.5}, "kv_use"), ({"streams": 2, "on_target": True}, "on_target")]
)
def test_a_frontend_has_no_kv_cache_and_no_streams_of_its_own(when: dict[str, Any], key: str) -> None:
    select = {"role": "frontend", "index": [1]}
    with pytest.raises(ScenarioError, match=rf"when\.{key}: is of an engine, and frontend is none"):
        plan({**step(when=when), "select": select})
    assert plan({**step(when={"queued": 2, "within_s": 5}), "select": select}).injections[0].when


@pytest.mark.parametrize(
    ("when", "text", "asked"),
    [
        (When(streams=3), "streams >= 3", False),
        (When(past_token=PastToken(9, 2)), "streams past token 9 >= 2", False),
        (When(streams=3, on_target=True), "streams on the target >= 3", True),
        (When(queued=5), "requests queued >= 5", True),
        (When(kv_use=0.75), "KV use >= 0.75", True),
    ],
)
def test_each_condition_has_words_and_a_place_to_look(when: When, text: str, asked: bool) -> None:
    assert (when.text, when.of_system) == (text, asked)
