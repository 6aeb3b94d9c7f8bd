"""Real Dynamo on hosts of its own (`platform: netns`): same scenario, same verdict, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipeline import NO_FAULTS, QUICKSTART, ROOT, SHORT, command, left_over, run, sets, squall

from harness.core import clock, netns, proc

pytestmark = [pytest.mark.sut, pytest.mark.netns, pytest.mark.timeout(240), pytest.mark.load]
HOSTS = "sut.platform=netns"
LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py")]


def of_run(out: Path) -> list[str]:
    """The run's namespaces."""
    return netns.named(netns.prefix(json.loads((out / "manifest.json").read_text())["run_id"]))


def devices() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


@pytest.fixture(autouse=True)
def no_device_is_left() -> Iterator[None]:
    before = devices()
    yield
    assert devices() == before


@pytest.fixture
def background(
    tmp_path: Path, killing: Callable[[str], None]
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """begin(overrides) runs `squall run` into tmp_path/run; what is left of it is removed after the test."""
    children: list[subprocess.Popen[bytes]] = []
    out = tmp_path / "run"

    def begin(*overrides: str) -> subprocess.Popen[bytes]:
        argv = command("run", str(QUICKSTART), "--out", str(out), *sets(*SHORT, HOSTS, *overrides))
        with (tmp_path / "output").open("wb") as output:
            child = subprocess.Popen(
                argv, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, start_new_session=True
            )
        children.append(child)
        assert clock.wait_until(lambda: (out / "manifest.json").exists(), 30), (
            tmp_path / "output"
        ).read_text()
        killing(json.loads((out / "manifest.json").read_text())["run_id"])
        return child

    yield begin
    for child in children:
        child.kill()
        child.wait()
    if (out / "manifest.json").exists():
        run_id = json.loads((out / "manifest.json").read_text())["run_id"]
        proc.stop_all([who for mark in (proc.RUN_ENV, proc.SUT_ENV) for who in proc.marked(mark, run_id)], 0)
        netns.remove(netns.prefix(run_id))


def has(out: Path, phase: str, fault_id: str) -> bool:
    journal = out / "journal.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return any(f'"{phase}"' in line and f'"{fault_id}"' in line for line in lines)


def test_killed_and_paused_workers_on_their_hosts(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, HOSTS)
    assert done.code == 0, done.out + done.err
    faults = done.json("verdict.json")["faults"]
    assert {(one["fault"], one["verified"], one["recovered"]) for one in faults} == {
        ("process.kill", True, True), ("process.pause", True, True),
    }  # fmt: skip
    state = done.json("sut.json")
    prefix = netns.prefix(state["sut_id"])
    assert {one["netns"] for one in state["processes"]} == {
        f"{prefix}{name}" for name in ("frontend-1", "worker-1", "worker-2")
    }
    assert state["vantage"] == f"{prefix}client"
    assert state["urls"] and state["urls"][0].startswith("http://198.1")
    assert {"ok", "cancelled"} == set(done.requests.outcome)
    killed = next(line["evidence"] for line in done.journal if line["phase"] == "verified")
    assert "refuse" in killed["proof"]
    assert of_run(tmp_path / "run") == []
    assert left_over(done.json("manifest.json")["run_id"]) == []


def test_kill_9_of_the_run_leaves_no_host(
    tmp_path: Path, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    out = tmp_path / "run"
    child = background()
    assert clock.wait_until(lambda: has(out, "verified", "pause"), 60), (tmp_path / "output").read_text()
    assert len(of_run(out)) == 5
    child.kill()
    child.wait()
    assert clock.wait_until(lambda: (out / "restored").exists(), 30), (out / "logs/guardian.log").read_text()
    assert of_run(out) == []
    assert json.loads((out / "restored").read_text())["namespaces_removed"] == 5
    name = json.loads((out / "manifest.json").read_text())["run_id"]
    assert clock.wait_until(lambda: left_over(name) == [], 10)


def test_kill_9_while_the_hosts_are_made_leaves_none(
    tmp_path: Path, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    out = tmp_path / "run"
    child = background()
    assert clock.wait_until(lambda: of_run(out) != [], 30)
    child.kill()
    child.wait()
    assert clock.wait_until(lambda: (out / "restored").exists(), 30), (out / "logs/guardian.log").read_text()
    assert of_run(out) == []
    name = json.loads((out / "manifest.json").read_text())["run_id"]
    assert clock.wait_until(lambda: left_over(name) == [], 10)


def test_recover_does_it_without_the_guardian_and_a_second_time_changes_nothing(
    tmp_path: Path, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    out = tmp_path / "run"
    child = background()
    assert clock.wait_until(lambda: has(out, "verified", "kill"), 60), (tmp_path / "output").read_text()
    name = json.loads((out / "manifest.json").read_text())["run_id"]
    for pid in [*(p for p in proc.pids() if proc.environ(p).get(proc.GUARDIAN_ENV) == name), child.pid]:
        os.kill(pid, signal.SIGKILL)
    child.wait()
    assert len(of_run(out)) == 5
    first = squall("recover", str(out), out=out)
    assert first.code == 0, first.out + first.err
    assert "5 network namespaces removed" in first.out
    assert of_run(out) == [] and left_over(name) == []
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    second = squall("recover", str(out), out=out)
    assert second.code == 0 and "nothing to do" in second.out
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_up_says_where_locust_must_run_and_elsewhere_it_is_refused(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out = tmp_path / "up"
    done = squall("up", str(QUICKSTART), "--out", str(out), *sets(*SHORT, *NO_FAULTS, HOSTS), out=out)
    assert done.code == 0, done.out + done.err
    try:
        killing(json.loads((out / "manifest.json").read_text())["run_id"])
        vantage = json.loads((out / "sut.json").read_text())["vantage"]
        enter = ["nsenter", f"--net=/run/netns/{vantage}", "--"]
        assert f"{' '.join(enter)} locust -f" in done.out
        argv = [*LOCUST, "--run-dir", str(out), "--headless"]
        refused = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert refused.returncode == 2
        assert " ".join(enter) in refused.stderr
        inside = subprocess.run(
            [*enter, *argv], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
        )
        assert inside.returncode == 0, inside.stdout + inside.stderr
    finally:
        down = squall("down", str(out), out=out)
    assert down.code == 0, down.out + down.err
    assert of_run(out) == []
    late = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert late.returncode == 2 and "its hosts are gone" in late.stderr
