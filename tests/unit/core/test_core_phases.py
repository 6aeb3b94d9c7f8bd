"""Phases: their arithmetic by hand, what they refuse, and that a scenario without them stays what it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import config, phases
from harness.core.errors import ScenarioError

THREE = [
    {"name": "standard", "duration_s": 30},
    {"name": "overflow", "duration_s": 20, "users_ratio": 3},
    {"name": "recovery", "duration_s": 30, "users_ratio": 0.5},
]


def build(steps: list[dict[str, Any]] | None = None, given: Any = THREE, **load: Any) -> config.Scenario:
    tree = {
        "schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "faults": steps or [],
        "load": {"users": [{"class": "ChatUser", "count": 5}], "phases": given, **load},
    }  # fmt: skip
    return config.build(tree, "t.yaml")


def step(**more: Any) -> dict[str, Any]:
    return {"id": "k", "fault": "process.kill", "select": {"role": "worker"}, "at_s": 5, **more}


def refused(*args: Any, **load: Any) -> str:
    with pytest.raises(ScenarioError) as caught:
        build(*args, **load)
    return str(caught.value)


def test_duration_is_the_sum_and_spans_follow_each_other() -> None:
    load = build().load
    assert load.duration_s == 80
    assert [(s.name, s.start_s, s.end_s) for s in phases.spans(load)] == [
        ("standard", 0, 30), ("overflow", 30, 50), ("recovery", 50, 80),
    ]  # fmt: skip
    assert phases.stretch(load, "overflow") == (30, 50) and phases.stretch(load, None) == (0, 80)


@pytest.mark.parametrize(
    ("t_s", "name"),
    [
        (-5, "standard"),
        (0, "standard"),
        (29.9, "standard"),
        (30, "overflow"),
        (50, "recovery"),
        (99, "recovery"),
    ],
)
def test_warm_up_is_like_the_first_phase_and_the_end_like_the_last(t_s: float, name: str) -> None:
    span = phases.at(build().load, t_s)
    assert span is not None and span.name == name


def test_users_come_and_go_with_the_phases() -> None:
    load = build().load
    user = load.users[0]
    assert [phases.active(user, phase) for phase in load.phases] == [5, 15, 3]  # 2.5 rounded up
    assert phases.peak(load, user) == 15 and phases.active_users(load, 40) == 15
    assert phases.next_start_s(load, user, 2, 60) == 60  # active
    assert phases.next_start_s(load, user, 4, 60) is None  # never again
    assert phases.next_start_s(load, user, 14, 3) == 30  # comes with the overflow
    assert phases.next_start_s(load, user, 14, 49.9) == 49.9


def test_without_phases_everybody_is_always_active() -> None:
    load = build(given=[], duration_s=10).load
    assert phases.at(load, 3) is None and phases.peak(load, load.users[0]) == 5
    assert phases.next_start_s(load, load.users[0], 4, 3) == 3 and phases.active_users(load, 3) == 5


@given(
    st.lists(st.sampled_from([0, 0.3, 1, 2.5]), min_size=1, max_size=5), st.integers(0, 12), st.floats(-5, 99)
)
def test_a_user_is_let_in_exactly_where_it_is_active(ratios: list[float], rank: int, t_s: float) -> None:
    load = build(
        given=[{"name": f"p{n}", "duration_s": 10, "users_ratio": r} for n, r in enumerate(ratios)]
    ).load
    user = load.users[0]
    start_s = phases.next_start_s(load, user, rank, t_s)
    if start_s is None:
        assert all(rank >= phases.active(user, span.phase) for span in phases.spans(load) if span.end_s > t_s)
        return
    assert start_s >= t_s
    span = phases.at(load, start_s)
    assert span is not None and rank < phases.active(user, span.phase)
    if start_s > t_s:  # nothing earlier would have done
        skipped = [s for s in phases.spans(load) if s.end_s > t_s and s.start_s < start_s]
        assert skipped and all(rank >= phases.active(user, s.phase) for s in skipped)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"duration_s": 60}, "load.duration_s: 60 contradicts load.phases, which last 80 s"),
        ({"given": [{"name": "a b", "duration_s": 1}]}, "load.phases[0].name: 'a b' can't name a window"),
        ({"given": [{"name": "a", "duration_s": 1}] * 2}, "load.phases[1].name: 'a' is used twice"),
        ({"given": [{"name": "a", "duration_s": 0}, *THREE]}, "load.phases[0].duration_s: must be above 0"),
        (
            {"given": [{"name": "a", "duration_s": 1, "users_ratio": -1}]},
            "load.phases[0].users_ratio: got -1",
        ),
        ({"given": [{"name": "a", "duration_s": 1, "users_ratio": 1e9}]}, "load.phases[0].users_ratio"),
        ({"given": [{"name": "a", "duration": 1}]}, "load.phases[0]"),
        ({"given": [{"name": "a", "duration_s": "1"}]}, "load.phases[0].duration_s"),
        ({"given": "standard"}, "load.phases"),
        ({"steps": [step(phase="overfow")]}, "faults[0].phase: load.phases has no 'overfow'"),
        (
            {"steps": [step(phase="overflow", at_s=21)]},
            "faults[0].at_s: 21 is outside phase 'overflow' of 20 s",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, Any], text: str) -> None:
    assert text in refused(**change) and refused(**change).startswith("t.yaml: ")


def test_a_misspelt_phase_is_told_the_nearest() -> None:
    assert "overflow" in refused([step(phase="overfow")]).partition("overfow")[2]


def test_resolved_and_read_again_it_is_the_same() -> None:
    one = build([step(phase="overflow")])
    plain = config.to_plain(one)
    assert plain["load"]["duration_s"] == 80 and plain["faults"][0]["phase"] == "overflow"
    assert config.build(plain, "again") == one


def test_a_scenario_without_phases_keeps_its_hashes() -> None:
    one = build([step()], [], duration_s=10)
    assert set(config.to_plain(one)["load"]) == {"duration_s", "users", "warmup_s", "drain_s", "timeout_s"}
    assert not {"weight", "conversation", "prefix", "retry"} & set(config.to_plain(one)["load"]["users"][0])
    assert "phases" not in config.to_plain(one)["load"] and "phase" not in config.to_plain(one)["faults"][0]
    assert config.trace_sha256(build()) != config.trace_sha256(build(given=THREE[:1]))
