"""Faults on the control plane: what is proven beyond the process, on scripted views and real servers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faults import control_plane, outage, timeline
from faults.control_plane import EtcdAll, EtcdLeader, EtcdMember, Nats
from faults.ports import Ports, Target, Undo, View, named
from faults.scheduler import Scheduler
from harness.core import clock, proc
from harness.core.errors import FaultError, ScenarioError, TargetError
from harness.core.proc import Identity
from harness.core.rundir import RunDir
from harness.platforms.local import LocalProcesses
from tests.fixtures.faults_lab import scenario, step
from tests.fixtures.planes_lab import servers

LEADER = Target("etcd", 0, "leader")
ALL = frozenset({"etcd-1", "etcd-2", "etcd-3"})
OFFERS = frozenset({"processes", "control_plane"})
COUNTS = {"etcd": 3, "nats": 1, "frontend": 1, "worker": 2}


class Scripted:
    """A control plane that says what the test wants."""

    def __init__(self, views: Mapping[str, View | None]) -> None:
        self.views = dict(views)

    def servers(self, role: str) -> tuple[Target, ...]:
        return tuple(named(name) for name in sorted(self.views) if named(name).role == role)

    def view(self, target: Target) -> View | None:
        return self.views[target.name]


def ports(views: Mapping[str, View | None]) -> Ports:
    return Ports(processes=None, control_plane=Scripted(views), recover_timeout_s=0)  # type: ignore[arg-type]


def led(by: str | None, healthy: bool = True, members: frozenset[str] = ALL) -> View:
    return View(healthy, by, members)


def struck(*names: str, **saved: Any) -> Undo:
    return Undo((), Identity(1, 1), {"target": names[0], "members": list(names), **saved})


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "ELECTION_S", 0)


# --- who leads ------------------------------------------------------------------------------------


def test_the_leader_is_the_member_that_says_so_of_itself() -> None:
    views = {"etcd-1": led("etcd-2"), "etcd-2": led("etcd-2"), "etcd-3": None}
    assert control_plane._leader(ports(views), LEADER) == Target("etcd", 2)


@pytest.mark.parametrize(
    ("views", "why"),
    [
        ({"etcd-1": led("etcd-2"), "etcd-2": led(None)}, "no member leads: etcd-1 says etcd-2, etcd-2 says None"),
        ({"etcd-1": led("etcd-1"), "etcd-2": led("etcd-2")}, "more than one member leads"),
        ({"etcd-1": None}, "no member leads: etcd-1 says nothing"),
        ({}, "there is no member"),
    ],
)  # fmt: skip
def test_without_one_leader_nothing_is_struck(views: dict[str, View | None], why: str) -> None:
    with pytest.raises(FaultError, match=f"etcd-leader: .*{why}"):
        control_plane._leader(ports(views), LEADER)


def test_a_leader_that_changed_since_the_announcement_is_not_struck(tmp_path: Path) -> None:
    views = {"etcd-1": led("etcd-2"), "etcd-2": led("etcd-2")}
    plane = replace(ports(views), processes=LocalProcesses(RunDir(tmp_path)))
    myself = proc.identify(os.getpid())
    assert myself is not None
    lives = replace(struck("etcd-1"), identity=myself)
    with pytest.raises(
        FaultError, match="etcd-leader: etcd-1 led when the fault was announced, etcd-2 does now"
    ):
        EtcdLeader().inject(plane, LEADER, lives)  # would end otherwise: nobody is named in `parts`
    control_plane._still_leads(plane, LEADER, struck("etcd-2"))


@pytest.mark.parametrize(
    ("rest", "new"),
    [
        ({"etcd-2": led("etcd-3"), "etcd-3": led("etcd-3")}, "etcd-3"),
        ({"etcd-2": led(None), "etcd-3": None}, None),  # no quorum: nobody can lead
        ({}, None),
    ],
)
def test_deposed(rest: dict[str, View | None], new: str | None) -> None:
    _, facts = control_plane._deposed(ports({"etcd-1": None, **rest}), LEADER, struck("etcd-1"))
    assert facts["new_leader"] == new


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "rest",
    [
        {"etcd-2": led("etcd-1"), "etcd-3": led("etcd-1")},  # they follow it still: another one was struck
        {"etcd-2": led("etcd-3"), "etcd-3": led("etcd-1")},
        {"etcd-2": led(None), "etcd-3": led(None)},  # they could elect one, and haven't
        {"etcd-2": led("etcd-1"), "etcd-3": None},
    ],
)
def test_not_deposed(rest: dict[str, View | None]) -> None:
    with pytest.raises(FaultError, match="etcd-leader is etcd-1: no other leader after"):
        control_plane._deposed(ports({"etcd-1": None, **rest}), LEADER, struck("etcd-1"))


# --- whole again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "problems"),
    [
        ({}, []),
        ({"etcd-1": None}, ["etcd-1 does not answer"]),
        ({"etcd-1": led("etcd-2", healthy=False)}, ["etcd-1 is not healthy"]),
        ({"etcd-1": led("etcd-2", members=frozenset({"etcd-1"}))}, ["etcd-1 lists etcd-1"]),
        ({"etcd-1": led(None)}, ["etcd-1 knows no leader"]),
        ({"etcd-2": None}, ["etcd-2 does not answer"]),  # it was well before
        ({"etcd-3": None}, []),  # under another fault before ours began
    ],
)
def test_a_cluster_is_whole_when_all_who_were_well_are(
    views: dict[str, View | None], problems: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "_lives", lambda p, t: True)
    everyone = {name: led("etcd-2") for name in sorted(ALL)}
    undo = struck("etcd-1", well=["etcd-1", "etcd-2"])
    assert outage._cluster_problems(ports({**everyone, **views}), undo) == problems
    monkeypatch.setattr(outage, "_lives", lambda p, t: False)  # who was ended by somebody else isn't ours
    assert outage._cluster_problems(ports({**everyone, "etcd-2": None}), undo) == []


@pytest.mark.nats
def test_clients_that_live_must_be_connected_again(tmp_path: Path) -> None:
    with servers(tmp_path, nats=2) as lab:
        real = lab.ports()
        undo = struck("nats-1", clients=["nats-2"])  # nats-2 stands in for a worker that lives

        def problems(view: View | None) -> list[str]:
            return outage._client_problems(replace(real, control_plane=Scripted({"nats-1": view})), undo)

        assert problems(View(True, clients=frozenset({"nats-2"}))) == []
        assert problems(View(True)) == ["nats-2 is not connected"]
        assert problems(View(False)) == ["nats-1 is not healthy"]
        assert problems(None) == ["nats-1 does not answer"]
        proc.stop_all([lab.who("nats-2")], 0)
        assert problems(View(True)) == []


# --- scenario -------------------------------------------------------------------------------------


def planned(*faults: dict[str, Any]) -> timeline.Plan:
    return timeline.plan(scenario(list(faults)), COUNTS, offers=OFFERS)


def test_targets_that_faults_find_themselves_need_no_select() -> None:
    plan = planned(
        step("a", "control_plane.etcd_leader", select=None, at_s=1, restart_after_s=1),
        step("b", "control_plane.nats", select=None, at_s=1, restart_after_s=1),
        step("c", "control_plane.etcd_all", select=None, at_s=5, restart_after_s=1),
    )
    assert [one.targets[0].name for one in plan.injections] == ["etcd-leader", "nats-1", "etcd-all"]
    assert b'"targets":["etcd-leader"]' in plan.to_json()


@pytest.mark.parametrize(
    ("fault", "select", "error", "text"),
    [
        ("control_plane.etcd_member", None, ScenarioError, r"faults\[0\]\.select: is missing; add it"),
        ("process.kill", None, ScenarioError, r"faults\[0\]\.select: is missing; add it"),
        ("control_plane.etcd_leader", {"role": "etcd"}, ScenarioError, "finds its target itself; remove it"),
        ("control_plane.etcd_member", {"role": "worker"}, ScenarioError, "is for the role 'etcd', not 'worker'"),
        ("control_plane.nats", {"role": "etcd"}, ScenarioError, "is for the role 'nats', not 'etcd'; write nats"),
        ("control_plane.etcd_member", {"role": "etcd", "index": [4]}, TargetError, "etcd-4 is not there"),
    ],
)  # fmt: skip
def test_selects_that_do_not_fit(fault: str, select: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        planned(step("a", fault, select=select))


@pytest.mark.parametrize(
    "other",
    [
        step(
            "b", "control_plane.etcd_member", select={"role": "etcd", "index": [3]}, at_s=2, restart_after_s=1
        ),
        step("b", "process.pause", select={"role": "etcd", "index": [1]}, at_s=2, hold_s=1),
        step("b", "control_plane.etcd_all", select=None, at_s=2, restart_after_s=1),
    ],
)
def test_whoever_may_be_the_leader_overlaps_with_it(other: dict[str, Any]) -> None:
    first = step("a", "control_plane.etcd_leader", select=None, at_s=1, restart_after_s=3)
    with pytest.raises(ScenarioError, match=r"'b' at 2 s overlaps 'a' on etcd-leader"):
        planned(first, other)
    assert planned(first, {**other, "at_s": 9})


def test_two_members_at_one_time_do_not_overlap() -> None:
    both = [
        step(f"m{n}", "control_plane.etcd_member", select={"role": "etcd", "index": [n]}, at_s=1)
        for n in (1, 2)
    ]
    assert len(planned(*both).injections) == 2


def test_without_servers_of_ours_it_is_refused() -> None:
    one = scenario([step("a", "control_plane.nats", select=None)])
    with pytest.raises(
        ScenarioError, match="needs etcd members or NATS that squall starts, and there are none"
    ):
        timeline.plan(one, {"worker": 2})
    with pytest.raises(TargetError, match="no target has the role 'nats'; this system has etcd"):
        timeline.plan(one, {"etcd": 1}, offers=OFFERS)


@pytest.mark.parametrize("kind", [EtcdMember, EtcdLeader, EtcdAll, Nats])
def test_parameters_that_mean_nothing_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"restart_after_s is for `action: kill`"):
        kind(action="pause", restart_after_s=1)
    with pytest.raises(ValueError, match="hold_s must be 0 or more seconds"):
        kind(hold_s=-1)


# --- on real servers ------------------------------------------------------------------------------


@pytest.mark.etcd
@pytest.mark.parametrize("action", ["kill", "pause"])
def test_the_leader_of_three_is_journalled_by_name(tmp_path: Path, action: str) -> None:
    with servers(tmp_path, etcd=3) as lab:
        real, anchor = lab.ports(15), clock.anchor_now()
        leader = control_plane._leader(real, LEADER).name
        one = step("f", "control_plane.etcd_leader", select=None, at_s=0, action=action, hold_s=0.5)
        plan = timeline.plan(scenario([one]), {"etcd": 3}, offers=real.offers)
        Scheduler(plan, real, lab.journal(anchor), anchor, 0.0).run()
        assert lab.phases("f") == ["intent", "injected", "verified", "recovering", "recovered"], lab.lines()
        assert {line.target for line in lab.lines()} == {"etcd-leader"}
        assert lab.line("f", "intent").evidence["members"] == [leader]
        verified = lab.line("f", "verified").evidence
        assert verified["members"] == [leader] and verified["new_leader"] in ALL - {leader}
        back = lab.line("f", "recovered").evidence
        assert back["recovered_by"] == "undo" and "healthy, etcd-" in back["proof"]


@pytest.mark.etcd
def test_a_single_member_has_nobody_to_lead_after_it(tmp_path: Path) -> None:
    with servers(tmp_path, etcd=1) as lab:
        real, fault = lab.ports(15), EtcdLeader()
        made = fault.prepare(real, LEADER)
        fault.inject(real, LEADER, made)
        seen = fault.verify(real, LEADER, made)
        assert "no member is left to lead" in seen.proof
        fault.recover(real, LEADER, made)
        assert "etcd-1 leads" in fault.verify_recovered(real, LEADER, made).proof


@pytest.mark.etcd
@pytest.mark.nats
@pytest.mark.parametrize("name", ["etcd-1", "nats-1"])
@pytest.mark.parametrize("fault", ["process.kill", "process.pause", "process.terminate"])
def test_faults_on_processes_work_on_servers_too(tmp_path: Path, fault: str, name: str) -> None:
    with servers(tmp_path, etcd=1, nats=1) as lab:
        real, anchor = lab.ports(15), clock.anchor_now()
        select = {"role": named(name).role, "index": [1]}
        one = step("f", fault, select=select, at_s=0, hold_s=0.3)
        plan = timeline.plan(scenario([one]), {"etcd": 1, "nats": 1}, offers=real.offers)
        Scheduler(plan, real, lab.journal(anchor), anchor, 0.0).run()
        assert lab.phases("f") == ["intent", "injected", "verified", "recovering", "recovered"], lab.lines()
        assert "runs, healthy" in lab.line("f", "recovered").evidence["proof"]
