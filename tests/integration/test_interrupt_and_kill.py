"""Whatever dies, whenever: Ctrl-C still judges, kill -9 leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import QUICKSTART, SHORT, command, left_over, sets, squall

from harness.core import clock, proc

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]


def start(out: Path) -> subprocess.Popen[bytes]:
    """`squall run` in the background, in a process group of its own."""
    argv = command("run", str(QUICKSTART), "--out", str(out), *sets(*SHORT))
    with (out.parent / "output").open("wb") as output:
        return subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, cwd=out.parent, start_new_session=True
        )


def journal_has(out: Path, phase: str, fault_id: str) -> Callable[[], bool]:
    def check() -> bool:
        try:
            lines = (out / "journal.jsonl").read_text().splitlines()
        except OSError:
            return False
        return any(f'"{phase}"' in line and f'"{fault_id}"' in line for line in lines)

    return check


def run_id(out: Path) -> str:
    return str(json.loads((out / "manifest.json").read_text())["run_id"])


def text(out: Path) -> str:
    return (out.parent / "output").read_text()


@pytest.mark.parametrize("moment", ["provisioning", "load", "pause"])
def test_interrupt_undoes_tears_down_and_still_reports(
    moment: str, tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out = tmp_path / "run"
    child = start(out)
    reached = {
        "provisioning": lambda: (out / "sut.json").exists(),
        "load": lambda: (out / "records-0.jsonl").exists(),
        "pause": journal_has(out, "verified", "pause"),
    }[moment]
    try:
        assert clock.wait_until(reached, 60), text(out)
        killing(run_id(out))
        child.send_signal(signal.SIGINT)
        assert child.wait(90) == 130, text(out)
    finally:
        child.kill()
        child.wait()
    assert left_over(run_id(out)) == []
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["status"] == "invalid"
    assert any("interrupted" in reason for reason in verdict["reasons"])
    assert (out / "report" / "report.html").exists()
    assert (out / "restored").exists()


def test_kill_9_of_the_run_during_a_pause_leaves_nothing(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out = tmp_path / "run"
    child = start(out)
    try:
        assert clock.wait_until(journal_has(out, "verified", "pause"), 60), text(out)
        killing(run_id(out))
    finally:
        child.kill()
        child.wait()
    assert clock.wait_until(lambda: left_over(run_id(out)) == [], 30), (
        out / "logs" / "guardian.log"
    ).read_text()
    assert (out / "restored").exists()
    phases = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in phases if line["fault_id"] == "pause"][-1] == "recovered"
    report = squall("report", str(out), out=out)  # what was measured stays readable
    assert report.code == 4, report.out + report.err
    assert any("died" in reason for reason in json.loads((out / "verdict.json").read_text())["reasons"])
    assert len(list(out.glob("requests.parquet"))) == 1


def test_kill_9_of_everything_but_the_guardian_leaves_nothing(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out = tmp_path / "run"
    child = start(out)
    try:
        assert clock.wait_until(journal_has(out, "injected", "kill"), 60), text(out)
        name = run_id(out)
        killing(name)
        child.kill()
        for who in proc.marked(proc.RUN_ENV, name):
            proc.send(who, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert clock.wait_until(lambda: left_over(name) == [], 30)


def test_with_the_guardian_dead_too_recover_does_the_rest_and_twice_changes_nothing(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out = tmp_path / "run"
    child = start(out)
    try:
        assert clock.wait_until(journal_has(out, "verified", "pause"), 60), text(out)
        name = run_id(out)
        killing(name)
        guards = [pid for pid in proc.pids() if proc.environ(pid).get(proc.GUARDIAN_ENV) == name]
        for pid in [*guards, child.pid]:
            os.kill(pid, signal.SIGKILL)
        child.wait()
        assert left_over(name) != []
        first = squall("recover", str(out), out=out)
        assert first.code == 0, first.out + first.err
        assert left_over(name) == []
        before = {p: p.read_bytes() for p in out.iterdir() if p.is_file()}
        second = squall("recover", str(out), out=out)
        assert second.code == 0
        assert {p: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    finally:
        child.kill()
        child.wait()
