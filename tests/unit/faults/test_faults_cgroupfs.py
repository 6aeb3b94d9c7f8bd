"""Control groups: found in /proc/self/mountinfo, undone on real ones, refused where they are somebody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import cgroupfs, undo
from faults.cgroupfs import Hierarchy
from harness.core import ids, proc
from harness.core.errors import FaultError
from harness.core.proc import Identity
from tests.fixtures.faults_lab import PYTHON

V1 = "31 23 0:29 / {path} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "32 23 0:30 / {path} rw,relatime - cgroup2 cgroup2 rw"
PARENT = [
    *PYTHON,
    "-c",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])",
]


@pytest.fixture
def who(tmp_path: Path) -> Iterator[list[Identity]]:
    """A process and its child."""
    mark = ids.token()
    one = proc.spawn_detached(PARENT, {proc.SUT_ENV: mark, "PATH": os.defpath}, tmp_path / "log")
    while len(tree := proc.tree(one)) < 2:
        pass
    yield tree
    proc.stop_all(proc.marked(proc.SUT_ENV, mark), 0)
    proc.reap()


def made(who: list[Identity]) -> dict[str, Any]:
    where = cgroupfs.find("cpu")
    assert where is not None
    limits = {"cpu.cfs_quota_us": "50000"} if where.version == 1 else {"cpu.max": "50000 100000"}
    return cgroupfs.plan(where, who, ids.token(), limits)


def test_mounts_are_read_and_not_guessed(tmp_path: Path) -> None:
    one, two = tmp_path / "a b", tmp_path / "v2"
    one.mkdir()
    two.mkdir()
    (two / "cgroup.controllers").write_text("cpuset memory pids\n")
    lines = [
        V1.format(path=str(one).replace(" ", "\\040")),
        V2.format(path=two),
        "21 1 0:2 / /proc rw - proc proc rw",
    ]
    assert list(cgroupfs.hierarchies("\n".join(lines))) == [
        Hierarchy("cpu", 1, one),
        Hierarchy("memory", 2, two),
    ]
    assert not list(cgroupfs.hierarchies(lines[0].replace(" rw,relatime", " ro,relatime"))), "read only"
    assert not list(cgroupfs.hierarchies(V1.format(path=tmp_path / "absent")))


def test_a_home_is_found_below_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("3:cpu,cpuacct:/pod/x\n0::/slice/unit\n")
    mount = tmp_path / "mount"
    assert Hierarchy("cpu", 1, mount, proc=tmp_path).home(7) == mount / "pod" / "x"
    assert Hierarchy("cpu", 1, mount, "/pod", tmp_path).home(7) == mount / "x"
    assert Hierarchy("memory", 2, mount, proc=tmp_path).home(7) == mount / "slice" / "unit"
    with pytest.raises(FaultError, match="no cgroup with memory"):
        Hierarchy("memory", 1, mount, proc=tmp_path).home(7)
    with pytest.raises(FaultError, match="not visible below"):
        Hierarchy("cpu", 1, mount, "/other", tmp_path).home(7)
    with pytest.raises(FaultError, match="not there any more"):
        Hierarchy("cpu", 1, mount, proc=tmp_path).home(8)


def test_on_v2_a_cgroup_belongs_beside_processes_and_never_below_them(tmp_path: Path) -> None:
    unit = tmp_path / "slice" / "unit"
    unit.mkdir(parents=True)
    two = Hierarchy("memory", 2, tmp_path)
    with pytest.raises(FaultError, match="no cgroup above it hands down memory"):
        two.parent(unit)
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    assert two.parent(unit) == tmp_path
    (unit.parent / "cgroup.subtree_control").write_text("memory\n")
    assert two.parent(unit) == unit.parent
    with pytest.raises(FaultError, match="another fault's"):
        two.parent(tmp_path / "squall-1")
    assert Hierarchy("memory", 1, tmp_path).parent(unit) == unit


@pytest.mark.cgroup
def test_everybody_goes_back_and_the_cgroup_is_gone(who: list[Identity]) -> None:
    where, op = cgroupfs.find("cpu"), made(who)
    assert where is not None
    homes = [where.home(one.pid) for one in who]
    assert undo.verify([op]) == [], "planning makes nothing"
    cgroupfs.make(op)
    assert undo.verify([op]) == [f"cgroup {op['path']} is still there, with pids none"]
    assert all(cgroupfs.move(op, one) for one in who)
    assert sorted(cgroupfs.members(op)) == sorted(one.pid for one in who)
    assert {str(where.home(one.pid)) for one in who} == {op["path"]}
    (line,) = undo.commands([op])
    assert line.endswith(f"rmdir {op['path']}") and f"echo {who[0].pid} > {homes[0]}/cgroup.procs" in line
    assert undo.apply([op])[0]["did"] == "2 processes back, removed"
    assert [where.home(one.pid) for one in who] == homes
    assert undo.apply([op])[0]["did"] == "not there" and undo.verify([op]) == [] and undo.commands([op]) == []


@pytest.mark.cgroup
def test_the_printed_commands_do_it_too(who: list[Identity]) -> None:
    op = made(who)
    cgroupfs.make(op)
    for one in who:
        cgroupfs.move(op, one)
    assert proc.run(["sh", "-c", undo.commands([op])[0]]).code == 0
    assert undo.verify([op]) == [] and proc.alive(who[0])


@pytest.mark.cgroup
def test_a_limit_that_somebody_else_changed_is_said(who: list[Identity]) -> None:
    op = made(who)
    cgroupfs.make(op)
    assert cgroupfs.drifted(op) == []
    (file,) = op["limits"]
    (Path(op["path"]) / file).write_text("70000")
    done = undo.apply([op])[0]
    assert done["drifted"] and f"{file} was 70000" in done["did"] and undo.verify([op]) == []


@pytest.mark.cgroup
def test_another_with_the_same_pid_goes_where_strangers_go(who: list[Identity], tmp_path: Path) -> None:
    """Identity checked: only the very process that was in `homes` goes to its own home there."""
    where, op = cgroupfs.find("cpu"), made(who)
    assert where is not None
    aside = where.home(who[0].pid) / f"squall-{ids.token()}"
    aside.mkdir()
    try:
        op["homes"] = [[who[0].pid, who[0].start_ticks - 1, str(aside)]]
        cgroupfs.make(op)
        cgroupfs.move(op, who[0])
        undo.apply([op])
        assert str(where.home(who[0].pid)) == op["home"]
    finally:
        aside.rmdir()
    assert not cgroupfs.move(op, Identity(who[0].pid, 1)), "gone"


def test_nobody_elses_cgroup_is_ever_touched(tmp_path: Path) -> None:
    for path in (tmp_path / "system.slice", tmp_path / "squall-1" / ".." / "x", tmp_path):
        op = {"op": "cgroup", "path": str(path), "home": "/", "homes": [], "limits": {}}
        assert undo.apply([op])[0]["did"] == "failed"
        assert "undo operation" in undo.verify([op])[0]
    assert tmp_path.exists()
