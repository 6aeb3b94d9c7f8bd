"""process.slow and process.memory on small real processes: seen to bite, or said that they don't."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest

from faults import cgroupfs, undo
from faults.limits import Memory, Slow
from faults.ports import Target
from faults.recover import recover
from harness.core import clock, proc, rundir
from harness.core.errors import FaultError
from tests.fixtures.faults_lab import Lab, scheduler, step, system

pytestmark = [pytest.mark.slow, pytest.mark.cgroup]

T = Target("worker", 1)
spinning = functools.partial(system, options=["spin", "child"])
churning = functools.partial(system, options=["churn=24"])


def paths(lab: Lab, fault_id: str) -> list[Path]:
    return [Path(op["path"]) for op in lab.line(fault_id, "intent").undo["ops"] if op["op"] == "cgroup"]


def test_slow_holds_the_share_and_gives_it_back(tmp_path: Path) -> None:
    with spinning(tmp_path) as lab:
        who = lab.who("worker-1")
        where = lab.ports().cgroups["cpu"]  # type: ignore[index]
        home = where.home(who.pid)
        scheduler(lab, [step("slow", "process.slow", hold_s=1, cpu_ratio=0.1)]).run()
        seen = lab.line("slow", "verified").evidence
        assert seen["nr_throttled"] > 0 and seen["grew"] and 0 < seen["cpu_share"] < 0.2
        recovered = lab.line("slow", "recovered").evidence
        assert recovered["recovered_by"] == "undo" and "drifted" not in recovered
        assert [where.home(one.pid) for one in proc.tree(who)] == [home, home] and lab.who("worker-1") == who
        assert not any(path.exists() for path in paths(lab, "slow"))


def test_a_quota_that_nobody_needs_is_no_fault(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        one = scheduler(lab, [step("slow", "process.slow", hold_s=0.5, cpu_ratio=0.9)])
        one.run()
        assert "never reached 0.9 of a core" in lab.line("slow", "failed").error
        assert lab.phases("slow") == ["intent", "injected", "failed", "recovering", "recovered"]


def test_memory_that_nobody_takes_is_no_fault(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        scheduler(lab, [step("mem", "process.memory", hold_s=0.5, headroom_mib=64)]).run()
        assert "never reached its limit" in lab.line("mem", "failed").error
        assert "of 64 MiB; lower headroom_mib" in lab.line("mem", "failed").error


def test_page_cache_hits_the_limit_and_nobody_dies(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(bytes(24 << 20))
    with system(tmp_path, options=[f"cache={file}"]) as lab:
        who = lab.who("worker-1")
        scheduler(lab, [step("mem", "process.memory", hold_s=0.5, headroom_mib=8)]).run()
        seen = lab.line("mem", "verified").evidence
        assert seen["limit_hits"] > 0 and seen["oom_kills"] == 0 and not seen["ended"]
        assert lab.who("worker-1") == who and "pid" not in lab.line("mem", "recovered").evidence


def test_what_the_oom_killer_ended_is_started_again(tmp_path: Path) -> None:
    with churning(tmp_path, frontend=[]) as lab:
        who = lab.who("worker-1")
        scheduler(lab, [step("mem", "process.memory", hold_s=0.5, headroom_mib=8)]).run()
        seen, back = lab.line("mem", "verified").evidence, lab.line("mem", "recovered").evidence
        assert seen["ended"] and seen["oom_kills"] == 1 and "OOM killer ended it" in seen["proof"]
        assert back["recovered_by"] == "undo" and back["pid"] == lab.who("worker-1").pid != who.pid
        assert "took a request" in back["proof"]
        assert not any(path.exists() for path in paths(lab, "mem"))


def test_an_outside_process_that_the_oom_killer_ended_stays_dead_and_is_said(tmp_path: Path) -> None:
    with churning(tmp_path, owner="outside") as lab:
        scheduler(lab, [step("mem", "process.memory", hold_s=0.2, headroom_mib=8)]).run()
        back = lab.line("mem", "recovered").evidence
        assert back["recovered_by"] == "nobody" and "can't start it again" in back["proof"]


def test_a_changed_quota_is_journalled(tmp_path: Path) -> None:
    with spinning(tmp_path) as lab:
        fault, ports = Slow(hold_s=1, cpu_ratio=0.1), lab.ports()
        made = fault.prepare(ports, T)
        fault.inject(ports, T, made)
        file = Path(made.ops[0]["path"]) / next(iter(reversed(made.ops[0]["limits"])))
        file.write_text("30000")
        assert "30000" in fault.recover(ports, T, made)["drifted"][0]
        fault.verify_recovered(ports, T, made)


def test_one_that_left_the_cgroup_is_seen(tmp_path: Path) -> None:
    """The quota bites, but not on everybody: some other process of the tree is outside."""
    with spinning(tmp_path) as lab:
        fault, ports = Slow(hold_s=1, cpu_ratio=0.1), lab.ports()
        made = fault.prepare(ports, T)
        fault.inject(ports, T, made)
        child = proc.tree(made.identity)[1]
        (Path(made.ops[0]["home"]) / "cgroup.procs").write_text(str(child.pid))
        try:
            with pytest.raises(FaultError, match=f"pid {child.pid} is in "):
                fault.verify(ports, T, made)
        finally:
            fault.recover(ports, T, made)


def test_parameters_are_checked() -> None:
    for bad in ({"cpu_ratio": 0.0}, {"cpu_ratio": float("nan")}, {"hold_s": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Slow(**{"hold_s": 1, **bad})
    with pytest.raises(ValueError, match="headroom_mib"):
        Memory(hold_s=1, headroom_mib=0)


def test_a_host_without_cgroups_is_told_before_anything_is_done(tmp_path: Path) -> None:
    import dataclasses

    from harness.core.errors import ScenarioError

    with system(tmp_path) as lab:
        bare = dataclasses.replace(lab.ports(), cgroups=None)
        with pytest.raises(ScenarioError, match=r"process\.slow needs cgroups"):
            scheduler(lab, [step("slow", "process.slow", hold_s=1)], using=bare)
        with pytest.raises(FaultError, match="no cgroup with cpu"):
            Slow(hold_s=1).prepare(bare, T)


def test_two_limits_at_once_and_the_target_dies_of_one(tmp_path: Path) -> None:
    """Slow holds on while memory's OOM kill ends the target: both are undone, and it serves again."""
    with system(tmp_path, options=["spin", "churn=24"], frontend=[]) as lab:
        who = lab.who("worker-1")
        faults = [
            step("slow", "process.slow", hold_s=4, cpu_ratio=0.3),
            step("mem", "process.memory", hold_s=0.5, headroom_mib=8, at_s=2.5),
        ]
        scheduler(lab, faults).run()
        assert lab.line("mem", "verified").evidence["ended"]
        for name in ("slow", "mem"):
            assert lab.phases(name)[-1] == "recovered" and not any(path.exists() for path in paths(lab, name))
        mem, slow = lab.line("mem", "recovered").evidence, lab.line("slow", "recovered").evidence
        assert mem["others"] == ["slow"] and "is for slow to prove" in mem["proof"]
        assert slow["took_request"] is True and slow["recovered_by"] == "undo"
        assert proc.alive(lab.who("worker-1")) and lab.who("worker-1") != who


def test_a_pause_within_slowness_is_undone_first(tmp_path: Path) -> None:
    with system(tmp_path, options=["spin"], frontend=[]) as lab:
        who = lab.who("worker-1")
        faults = [
            step("slow", "process.slow", hold_s=3, cpu_ratio=0.1),
            step("pause", "process.pause", hold_s=0.3, at_s=2.4),
        ]
        one = scheduler(lab, faults)
        one.run()
        assert lab.line("pause", "recovered").evidence["others"] == ["slow"]
        assert lab.line("slow", "recovered").evidence["took_request"] is True
        assert lab.who("worker-1") == who and lab.state_of("worker-1") in {"S", "R"}


def test_stop_undoes_newest_first_and_the_oldest_proves_that_it_serves(tmp_path: Path) -> None:
    with system(tmp_path, options=["spin"], frontend=[]) as lab:
        faults = [
            step("slow", "process.slow", hold_s=60, cpu_ratio=0.1),
            step("pause", "process.pause", hold_s=60, at_s=2.4),
        ]
        one = scheduler(lab, faults, duration_s=90)
        thread = threading.Thread(target=one.run)
        thread.start()
        assert clock.wait_until(lambda: "verified" in lab.phases("pause"), 15)
        assert one.stop() == []
        thread.join(10)
        recovered = [line.fault_id for line in lab.lines() if line.phase == "recovered"]
        assert recovered == ["pause", "slow"]
        assert "serves" in lab.line("pause", "recovered").evidence["proof"]


def test_recover_alone_empties_and_removes_both(tmp_path: Path) -> None:
    """Everybody is dead: `squall recover` has only the journal."""
    with system(tmp_path, owner="up", options=["spin"]) as lab:
        journal, ports = lab.journal(), lab.ports()
        for fault_id, fault in (("slow", Slow(hold_s=9)), ("mem", Memory(hold_s=9))):
            made = fault.prepare(ports, T)
            plain: dict[str, Any] = {"ops": [dict(op) for op in made.ops], "saved": dict(made.saved)}
            journal.write(fault_id, f"process.{fault_id}", "intent", T.name, undo=plain)
            fault.inject(ports, T, made)
        journal.close()
        groups = [*paths(lab, "slow"), *paths(lab, "mem")]
        assert len(groups) == 2 and all(path.exists() for path in groups)
        rundir.write_json(lab.run.manifest, {"schema": 1, "run_id": lab.run_id})
        said: list[str] = []
        recover(lab.run, said.append)
        assert not any(path.exists() for path in groups) and proc.alive(lab.who("worker-1"))
        assert "2 processes back" in str(lab.lines()[-1].evidence) or "1 processes back" in str(
            lab.lines()[-1].evidence
        )
        before = lab.run.journal.read_bytes()
        recover(lab.run, said.append)
        assert lab.run.journal.read_bytes() == before and cgroupfs.find("cpu") is not None
        assert (
            undo.verify([op for name in ("slow", "mem") for op in lab.line(name, "intent").undo["ops"]]) == []
        )
