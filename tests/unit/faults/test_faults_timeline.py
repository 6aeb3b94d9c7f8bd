"""The plan: a pure function of scenario and seed, and everything that it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import targets, timeline
from harness.core import config
from harness.core.errors import ScenarioError, UsageError
from tests.fixtures.faults_lab import scenario

COUNTS = {"worker": 4, "frontend": 1}


def step(fault_id: str = "kill", fault: str = "process.kill", **more: Any) -> dict[str, Any]:
    return {"id": fault_id, "fault": fault, "select": {"role": "worker"}, "at_s": 5, **more}


def plan(*steps: dict[str, Any], counts: dict[str, int] | None = None, **more: Any) -> timeline.Plan:
    return timeline.plan(scenario(list(steps), **{"duration_s": 60, **more}), counts or COUNTS, "t.yaml")


def refused(*steps: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UsageError) as error:
        plan(*steps, **more)
    assert str(error.value).startswith("t.yaml: faults[")
    return str(error.value)


def test_one_step() -> None:
    one = plan(step(restart_after_s=2, select={"role": "worker", "index": [3, 1]}))
    (injection,) = one.injections
    assert [target.name for target in injection.targets] == ["worker-1", "worker-3"]
    assert (injection.at_s, injection.lasts_s, injection.fault_id) == (5, 2, "kill")
    assert injection.build() == timeline.FAULTS["process.kill"](restart_after_s=2.0)  # type: ignore[call-arg]
    assert json.loads(one.to_json())["injections"][0]["targets"] == ["worker-1", "worker-3"]
    assert one.lines()[1].split() == [
        "5.000", "s", "kill", "process.kill", "worker-1,", "worker-3", "undone", "2", "s", "after", "its",
        "effect", "restart_after_s=2.0",
    ]  # fmt: skip


def test_hold_s_comes_from_the_step_and_may_be_missing_for_kill() -> None:
    assert plan(step(fault="process.pause", hold_s=8)).injections[0].lasts_s == 8
    assert plan(step(hold_s=8)).injections[0].lasts_s == 8
    endless = plan(step()).injections[0]
    assert endless.lasts_s is None and "until the run ends" in endless.line()


def test_repetitions_until_the_load_ends() -> None:
    one = plan(step(restart_after_s=1, at_s=10, every_s=20), counts={"worker": 1})
    assert [(i.fault_id, i.at_s) for i in one.injections] == [("kill", 10), ("kill-2", 30), ("kill-3", 50)]
    jittered = plan(step(restart_after_s=1, at_s=10, every_s=20, jitter_s=5), counts={"worker": 1})
    assert [i.fault_id for i in jittered.injections] == ["kill", "kill-2", "kill-3"]
    assert all(0 <= i.at_s - i.earliest_s <= 5 for i in jittered.injections)
    assert len({i.at_s - i.earliest_s for i in jittered.injections}) == 3


STEPS = st.lists(
    st.builds(
        lambda n, at, jitter, every, count: (at, jitter, every, count, n),
        st.integers(0, 9), st.integers(0, 20), st.sampled_from([0, 0.5]), st.sampled_from([None, 15]),
        st.integers(1, 3),
    ),
    min_size=1, max_size=4, unique_by=lambda item: item[4],
)  # fmt: skip


def build(items: list[tuple[Any, ...]], seed: int) -> dict[str, timeline.Injection] | None:
    """The plan of steps far apart on many targets; None when it is refused for an overlap."""
    steps = [
        step(
            f"s{n}",
            restart_after_s=0,
            at_s=at,
            jitter_s=jitter,
            every_s=every,
            select={"role": "worker", "count": c},
        )
        for at, jitter, every, c, n in items
    ]
    try:
        made = plan(*steps, counts={"worker": 200}, seed=seed)
    except ScenarioError:
        return None
    assert made.to_json() == plan(*steps, counts={"worker": 200}, seed=seed).to_json()
    return {one.fault_id: one for one in made.injections}


@given(STEPS, st.integers(0, 2**32))
def test_equal_seeds_equal_bytes_and_steps_do_not_shift_each_other(
    items: list[tuple[Any, ...]], seed: int
) -> None:
    whole = build(items, seed)
    for n in range(len(items)):
        less = build(items[:n] + items[n + 1 :], seed) if len(items) > 1 else None
        if whole is not None and less is not None:
            assert less == {key: whole[key] for key in less}


def test_another_seed_is_another_plan() -> None:
    plans = {plan(step(restart_after_s=1, jitter_s=3), seed=seed).to_json() for seed in range(20)}
    assert len(plans) == 20
    drawn = {plan(step(restart_after_s=1), seed=seed).injections[0].targets for seed in range(40)}
    assert len(drawn) == 4


def test_plans_ignore_what_is_not_theirs() -> None:
    assert plan(step()).to_json() == plan(step(), gates=[{"metric": "x", "max": 1}]).to_json()


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (step(fault="process.kil"), ["faults[0].fault", "'process.kil'", "did you mean `process.kill`?"]),
        (step(restart_after=2), ["faults[0].restart_after", "(value 2)", "did you mean `restart_after_s`?"]),
        (step(restart_after_ms=2), ["restart_after_ms", "`restart_after_s`? (the unit is part of the name)"]),
        (step(restart_after_s="2s"), ["faults[0].restart_after_s", "'2s'"]),
        (step(restart_after_s=True), ["faults[0].restart_after_s", "True"]),
        (step(restart_after_s=-1), ["restart_after_s must be 0 or more seconds, got -1"]),
        (step(restart_after_s=float("nan")), ["faults[0].restart_after_s", "nan"]),
        (step(fault="process.pause"), ["faults[0].hold_s", "is missing, process.pause needs it"]),
        (step(fault="process.pause", hold_s=1, restart_after_s=1), ["process.pause has no such parameter"]),
        (step(fault="process.terminate", signal="KILL"), ["faults[0].signal", "'KILL'"]),
        (step(hold_s=1, restart_after_s=1), ["faults[0].hold_s", "keep one of them"]),
        (
            step(select={"role": "prefill"}),
            ["faults[0].select.role", "'prefill'", "frontend (1), worker (4)"],
        ),
        (step(select={"role": "workers"}), ["did you mean `worker`?"]),
        (step(select={"role": "worker", "count": 5}), ["faults[0].select.count", "5", "has 4"]),
        (step(select={"role": "worker", "index": [5]}), ["worker-5 is not there", "worker-1 to worker-4"]),
        (step(select={"role": "worker", "index": [1, 1]}), ["names one twice"]),
        (step(at_s=58, jitter_s=3), ["faults[0].jitter_s", "after the end of the load"]),
        (step(every_s=0.001), ["faults[0].every_s", "more than 1000"]),
        (step(every_s=20, select={"role": "worker", "index": [1]}), ["'kill-2' at 25 s overlaps 'kill'"]),
    ],
)
def test_refused(bad: dict[str, Any], parts: list[str]) -> None:
    text = refused(bad)
    assert all(part in text for part in parts), text


ONE = {"role": "worker", "index": [1]}
TWO = {"role": "worker", "index": [2]}


@pytest.mark.parametrize(
    ("second", "ok"),
    [
        (step("b", at_s=20, restart_after_s=1, select=ONE), True),
        (step("b", at_s=8, restart_after_s=1, select=ONE), False),  # within the first
        (step("b", at_s=8, restart_after_s=1, select=TWO), True),  # another target
        (step("b", at_s=2, restart_after_s=2, select=ONE), True),
        (step("b", at_s=2, restart_after_s=2, jitter_s=1.5, select=ONE), False),  # in the worst case
        (step("b", at_s=2, select=ONE), False),  # without an end
    ],
)
def test_overlaps(second: dict[str, Any], ok: bool) -> None:
    first = step("a", fault="process.pause", hold_s=5, select=ONE)
    if ok:
        plan(first, second)
        return
    text = refused(first, second)
    assert "overlaps" in text and "worker-1" in text and "'a'" in text and "'b'" in text


def test_declared_pairs_may_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step("a", fault="process.pause", hold_s=5, select=ONE), step("b", select=ONE, at_s=6)]
    refused(*steps)
    monkeypatch.setattr(timeline, "COMPATIBLE", frozenset({frozenset({"process.pause", "process.kill"})}))
    assert len(plan(*steps).injections) == 2


def test_a_repetition_may_not_take_the_name_of_a_step() -> None:
    text = refused(
        step("a", restart_after_s=0, every_s=20, select=ONE), step("a-2", restart_after_s=0, select=TWO)
    )
    assert "'a-2'" in text and "rename" in text


def test_a_port_that_the_platform_lacks_is_refused() -> None:
    with pytest.raises(ScenarioError, match="needs processes, which platform 'local' doesn't offer"):
        timeline.plan(scenario([step()]), COUNTS, "t.yaml", frozenset())


OUTSIDE = {"url": "http://127.0.0.1:1", "model": "m", "targets": [{"role": "worker", "pid": 1}]}


@pytest.mark.parametrize("more", [{"restart_after_s": 1}, {"hold_s": 1}])
def test_outside_processes_can_not_be_started_again(more: dict[str, Any]) -> None:
    text = refused(step(**more), sut=OUTSIDE, counts={"worker": 1})
    assert next(iter(more)) in text and "can't start a process of an outside system again" in text
    plan(step(), sut=OUTSIDE, counts={"worker": 1})
    plan(step(fault="process.pause", hold_s=1), sut=OUTSIDE, counts={"worker": 1})


def test_counts_before_anything_is_started() -> None:
    assert targets.of_scenario(scenario([])) == {"frontend": 1, "worker": 2}
    assert targets.of_scenario(scenario([], sut=OUTSIDE)) == {"worker": 1}
    assert "no target has the role" in refused(step(), counts={"worker": 0})


def test_prefill_workers_are_targets_of_their_own() -> None:
    split = scenario([], sut={"dynamo": "1.6.1", "engine": "mocker", "workers": 1, "prefill_workers": 2})
    counts = targets.of_scenario(split)
    assert counts == {"frontend": 1, "worker": 1, "prefill": 2}
    one = plan(step(select={"role": "prefill", "index": [2]}, restart_after_s=1), counts=counts)
    assert [t.name for t in one.injections[0].targets] == ["prefill-2"]
    assert "no target has the role 'prefill'" in refused(step(select={"role": "prefill"}))


def test_only_faults_that_are_undone_without_each_other_may_overlap() -> None:
    def together(*names: str) -> timeline.Plan:
        steps = [
            step(name, f"process.{name}", select={"role": "worker", "index": [1]}, hold_s=5, at_s=5 + n)
            for n, name in enumerate(names)
        ]
        offers = frozenset({"processes", "cgroups"})
        return timeline.plan(scenario(steps, duration_s=60), COUNTS, "t.yaml", offers)

    assert len(together("slow", "memory", "pause").injections) == 3
    for pair in (("slow", "kill"), ("kill", "memory"), ("pause", "terminate")):
        with pytest.raises(ScenarioError, match="overlaps"):
            together(*pair)
    assert all(frozenset({"process.kill"}) & pair == frozenset() for pair in timeline.COMPATIBLE)


NETWORK = frozenset({"processes", "network"})


def cut(fault_id: str, fault: str = "network.partition", at_s: float = 5, **more: Any) -> dict[str, Any]:
    return step(fault_id, fault, **{"select": ONE, "at_s": at_s, "hold_s": 10, "peers": "frontend", **more})


def network_plan(*steps: dict[str, Any]) -> timeline.Plan:
    return timeline.plan(scenario(list(steps), 60), COUNTS, "t.yaml", NETWORK)


@pytest.mark.parametrize(
    ("second", "ok"),
    [
        (cut("b", at_s=8, peers="worker"), True),  # a table of its own, for other hosts
        (cut("b", at_s=8, peers=["frontend-1"]), False),  # its proof would see the first one's effect
        (cut("b", at_s=8, peers="all"), False),
        (cut("b", at_s=16), True),  # later
        (cut("b", at_s=8, select=TWO), True),  # another host
        (cut("b", "network.loss", at_s=8, peers="worker", ratio=0.1), True),
        (cut("b", "network.bandwidth", at_s=8, peers="worker", kbit_per_s=500), True),
        (step("b", "process.pause", at_s=8, select=ONE, hold_s=2), True),
        (step("b", at_s=8, select=ONE), False),
    ],
)
def test_network_faults_overlap_where_they_do_not_undo_each_other(second: dict[str, Any], ok: bool) -> None:
    if ok:
        assert len(network_plan(cut("a"), second).injections) == 2
        return
    with pytest.raises(ScenarioError, match="overlaps"):
        network_plan(cut("a"), second)


def test_one_device_has_one_queue() -> None:
    slow = cut("a", "network.bandwidth", kbit_per_s=500)
    with pytest.raises(ScenarioError, match="overlaps"):
        network_plan(slow, cut("b", "network.bandwidth", at_s=8, kbit_per_s=500, peers="worker"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (cut("a", peers="etcd"), r"faults\[0\].peers: no target has the role 'etcd'; this system has .*; or write `all`"),
        (cut("a", peers=["worker-1"]), r"faults\[0\].peers: worker-1 is the target itself; name others"),
        (cut("a", peers=["client"]), r"faults\[0\]: peers may not name `client`"),
        (cut("a", peers=3), r"faults\[0\].peers"),
        ({**cut("a"), "hold_s": None}, r"faults\[0\].hold_s: is missing, network.partition needs it"),
    ],
)  # fmt: skip
def test_peers_are_checked_before_a_run(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        network_plan(bad)


def test_a_kernel_without_netem_refuses_a_delay_before_a_run() -> None:
    with pytest.raises(ScenarioError, match=r"network.delay needs netem.*doesn't offer; see `squall doctor`"):
        network_plan(cut("a", "network.delay", ms=100))
    timeline.plan(scenario([cut("a", "network.delay", ms=100)]), COUNTS, "t.yaml", NETWORK | {"netem"})


def test_a_kill_of_connections_happens_at_once() -> None:
    once = {**cut("a", "network.reset", how="kill"), "hold_s": None}
    assert network_plan(once).injections[0].lasts_s == 0


PHASES = [{"name": "standard", "duration_s": 20}, {"name": "overflow", "duration_s": 10, "users_ratio": 3},
          {"name": "recovery", "duration_s": 30}]  # fmt: skip


def in_phases(*steps: dict[str, Any]) -> timeline.Plan:
    load = {"users": [{"class": "ChatUser", "count": 2}], "phases": PHASES}
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "load": load, "faults": list(steps)}
    return timeline.plan(config.build(tree, "t.yaml"), COUNTS, "t.yaml")


def test_a_step_in_a_phase_counts_from_its_start() -> None:
    inside, outside = in_phases(step(phase="overflow", at_s=6), step("other", at_s=6)).injections[::-1]
    assert (inside.fault_id, inside.at_s, inside.earliest_s, inside.latest_s) == ("kill", 26, 26, 26)
    assert outside.at_s == 6


def test_a_step_repeats_until_its_phase_ends() -> None:
    one = in_phases(
        step(phase="overflow", at_s=1, every_s=4, restart_after_s=0.5, select={"role": "frontend"})
    )
    assert [i.at_s for i in one.injections] == [21, 25, 29]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"jitter_s": 3},
            "faults[0].jitter_s: at_s 8.0 + jitter_s 3.0 is after the end of phase 'overflow', 10 s",
        ),
        ({"when": {"streams": 1, "within_s": 5}}, "faults[0].when.within_s"),
    ],
)
def test_a_step_that_may_miss_its_phase_is_refused(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        in_phases(step(phase="overflow", at_s=8, **more))
    assert text in str(caught.value)
    in_phases(step(phase="recovery", at_s=8, **more))  # where there is time enough
