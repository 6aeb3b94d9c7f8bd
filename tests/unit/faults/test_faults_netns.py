"""Undo and restore with hosts: a process comes back on its own, hosts go last, what stays is said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import restore, undo
from harness.core import clock, ids, netns, proc, rundir, sutfile
from harness.core.sutfile import SutState
from tests.fixtures.faults_lab import PYTHON

pytestmark = pytest.mark.netns
SLEEP = [*PYTHON, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sut_id() -> Iterator[str]:
    """A system with one host, worker-1's."""
    name = ids.token()
    netns.add(host(name))
    yield name
    proc.stop_all(proc.marked(proc.SUT_ENV, name), 0)
    proc.reap()
    netns.remove(netns.prefix(name))


def host(sut_id: str) -> str:
    return f"{netns.prefix(sut_id)}worker-1"


def dead_worker(sut_id: str, log: Path) -> dict[str, Any]:
    """The spawn operation of a worker that was killed."""
    env = {proc.SUT_ENV: sut_id, proc.TARGET_ENV: "worker-1", "PATH": os.defpath}
    argv = netns.command(host(sut_id), SLEEP)
    who = proc.spawn_detached(argv, env, log)
    assert clock.wait_until(lambda: there(who.pid, sut_id), 5)
    proc.stop_all([who], 0)
    proc.collect([who])
    replaces = {"pid": who.pid, "start_ticks": who.start_ticks}
    return {"op": "spawn", "target": "worker-1", "argv": argv, "env": env, "cwd": "/", "sut_id": sut_id,
            "log": str(log), "replaces": replaces, "tree": [list(who)]}  # fmt: skip


def there(pid: int, sut_id: str) -> bool:
    """A process is on the host, and is no nsenter any more."""
    same = Path(f"/proc/{pid}/ns/net").stat().st_ino == (netns.DIRECTORY / host(sut_id)).stat().st_ino
    return same and "nsenter" not in proc.command_line(pid)


def test_undo_starts_it_again_on_its_host(sut_id: str, tmp_path: Path) -> None:
    op = dead_worker(sut_id, tmp_path / "log")
    [outcome] = undo.apply([op])
    assert outcome["did"] == "started" and undo.verify([op]) == []
    assert clock.wait_until(lambda: there(outcome["pid"], sut_id), 5)
    assert undo.living(sut_id, "worker-1") == (outcome["pid"], outcome["start_ticks"])
    assert undo.apply([op])[0]["did"] == "already there"


def test_the_printed_command_starts_it_there_too(sut_id: str, tmp_path: Path) -> None:
    op = dead_worker(sut_id, tmp_path / "log")
    [line] = undo.commands([op])
    subprocess.run(["bash", "-c", line], check=True, timeout=20)
    assert clock.wait_until(lambda: undo.living(sut_id, "worker-1") is not None, 5)
    living = undo.living(sut_id, "worker-1")
    assert living is not None and clock.wait_until(lambda: there(living.pid, sut_id), 5)
    assert undo.verify([op]) == []


def test_without_its_host_it_does_not_come_back_and_that_is_said(sut_id: str, tmp_path: Path) -> None:
    op = dead_worker(sut_id, tmp_path / "log")
    netns.remove(netns.prefix(sut_id))
    undo.apply([op])
    assert clock.wait_until(lambda: undo.living(sut_id, "worker-1") is None, 5)
    [problem] = undo.verify([op])
    assert "worker-1 does not run" in problem and "No such file" in problem


def made_by(owner: str, sut_id: str, tmp_path: Path) -> rundir.RunDir:
    run = rundir.create(tmp_path / "run")
    rundir.write_json(run.manifest, {"schema": 1, "run_id": "r"})
    state = SutState(sut_id=sut_id, owner=owner, oracle="count", model="m", urls=[])  # type: ignore[arg-type]
    sutfile.save(run, state)  # as if we died before a host was written down
    return run


def test_restore_ends_what_is_on_the_hosts_then_the_hosts(sut_id: str, tmp_path: Path) -> None:
    run = made_by("run", sut_id, tmp_path)
    undo.apply([dead_worker(sut_id, tmp_path / "log")])
    done = restore.restore(run, "r", "recover", lambda _line: None)
    assert (done.torn_down, done.namespaces, done.problems) == (1, 1, [])
    assert netns.named(netns.prefix(sut_id)) == [] and proc.marked(proc.SUT_ENV, sut_id) == []
    said = run.restored.read_bytes()
    again = restore.restore(run, "r", "recover", lambda _line: None)
    assert (again.namespaces, again.problems, run.restored.read_bytes()) == (0, [], said)


def test_hosts_of_a_system_that_is_to_stay_do(sut_id: str, tmp_path: Path) -> None:
    done = restore.restore(made_by("up", sut_id, tmp_path), "r", "recover", lambda _line: None)
    assert done.namespaces == 0 and netns.named(netns.prefix(sut_id)) == [host(sut_id)]


def test_a_host_that_stays_is_named_with_its_command(
    sut_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_by("run", sut_id, tmp_path)
    with monkeypatch.context() as without_ip:
        without_ip.setattr(proc, "SYSTEM_PATH", "/nowhere")
        done = restore.restore(run, "r", "recover", lambda _line: None)
    assert not run.restored.exists()
    assert [host(sut_id) in line for line in done.problems] == [True]
    assert done.commands == [f"ip netns del {host(sut_id)}"]
    subprocess.run(done.commands[0].split(), check=True, timeout=20)
    assert restore.restore(run, "r", "recover", lambda _line: None).problems == []
    assert run.restored.exists()
