"""Several Locust processes: no record is lost, and one that dies is told, whoever it is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pipeline import QUICKSTART, SHORT, Done, command, left_over, run, sets, squall
from test_up_and_attach import LOCUST, system  # noqa: F401 (a fixture)

from harness.core import clock, proc

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
USERS = """[{class: ChatUser, count: 4, prompt_tokens: 50, output_tokens: 60},
 {class: CompletionUser, count: 1, prompt_tokens: 50, output_tokens: 50},
 {class: ChatUser, count: 2, prompt_tokens: 50, output_tokens: 80},
 {class: CancellingUser, count: 2, prompt_tokens: 50, output_tokens: 150, cancel: {after_tokens: 20, mode: rst}}]"""
TWO = (*SHORT[:3], *SHORT[5:], "generator.processes=2", f"load.users={USERS.replace(chr(10), '')}")
STEADY = ("load.duration_s=6", "faults=[]")
TRIGGERED = (
    "load.duration_s=16",
    "faults=[{id: kill, fault: process.kill, select: {role: worker, count: 1}, at_s: 1, restart_after_s: 1,"
    " when: {past_token: {token: 20, streams: 5}, within_s: 10}}]",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(tmp_path_factory.mktemp("processes") / "run", *TWO, *TRIGGERED)


def test_it_passes(done: Done) -> None:
    assert done.code == 0, done.out + done.err
    assert "in 2 processes" in done.err
    assert left_over(done.json("manifest.json")["run_id"]) == []


def test_no_record_is_lost_and_each_process_says_how_it_was(done: Done) -> None:
    manifest, rows = done.json("manifest.json"), done.requests
    workers = manifest["generator"]["workers"]
    assert [one["worker_index"] for one in workers] == [0, 1]
    for n, one in enumerate(workers):
        written = len((done.dir / f"records-{n}.jsonl").read_text().splitlines())
        assert one["sent"] == one["rows"] == written == (rows.worker_index == n).sum() > 0
        assert int((done.dir / f"records-{n}.done").read_text()) == written
        assert one["hub_lag_p99_ms"] > 0 and one["cpu_s"] > 0 and not one["shipped"]
    assert manifest["counts"]["sent"] == len(rows)
    assert manifest["generator"]["hub_lag_p99_ms"] == max(one["hub_lag_p99_ms"] for one in workers)
    assert manifest["generator"]["cpu_s"] == pytest.approx(sum(one["cpu_s"] for one in workers))


def test_users_have_one_number_each_and_the_scenarios_mix(done: Done) -> None:
    rows = done.requests
    assert rows.request_id.is_unique
    assert (rows.groupby("user").worker_index.nunique() == 1).all(), "a number given to two users"
    users = rows.groupby("user").first()
    chat = users[users.user_class == "ChatUser"]
    assert sorted(chat.tokens_expected) == [60] * 4 + [80] * 2
    assert users.user_class.value_counts().to_dict() == {
        "ChatUser": 6, "CompletionUser": 1, "CancellingUser": 2,
    }  # fmt: skip
    assert users.worker_index.nunique() == 2


def test_a_fault_waits_for_the_streams_of_all_processes(done: Done) -> None:
    injected = next(line for line in done.journal if line["phase"] == "injected")
    held_ns = injected["evidence"]["held_ns"]
    rows = done.requests
    there = rows[
        (rows.t_start_ns < held_ns) & (rows.t_end_ns > held_ns) & (rows.user_class != "CancellingUser")
    ]
    assert injected["evidence"]["value"] >= 5 > there.groupby("worker_index").size().max()


def test_the_report_has_each_process(done: Done) -> None:
    report = (done.dir / "report" / "report.md").read_text()
    assert "hub_lag_p99_ms" in report and "worker 1" in report


def test_arrivals_are_shared_and_none_is_missing(tmp_path: Path) -> None:
    """Every tenth of a second one, from the two processes in turn."""
    arrivals = "{process: constant, rate_per_s: 10}"
    users = "[{class: ChatUser, weight: 1, prompt_tokens: 50, output_tokens: 20}]"
    more = (*TWO[:-1], *STEADY, f"load.arrivals={arrivals}", f"load.users={users}")
    done = run(tmp_path / "run", *more)
    assert done.code == 0, done.out + done.err
    rows = done.requests.sort_values("t_due_ns")
    assert set(rows.t_due_ns.diff().dropna()) == {100_000_000}
    assert len(rows) >= 75
    assert list(rows.worker_index.diff().dropna().abs().unique()) == [1]
    assert rows.request_id.is_unique


def start(out: Path, *overrides: str) -> subprocess.Popen[bytes]:
    argv = command("run", str(QUICKSTART), "--out", str(out), *sets(*TWO, *overrides))
    with (out.parent / "output").open("wb") as output:
        return subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, cwd=out.parent, start_new_session=True
        )


def locusts(run_id: str) -> list[proc.Identity]:
    """Locust's processes of a run, the master first."""
    found = [who for who in proc.marked(proc.RUN_ENV, run_id) if "locust" in proc.arguments(who.pid)]
    return sorted(found, key=lambda who: who.pid)


def loaded(out: Path, rows: int = 3) -> Callable[[], bool]:
    """Has each of two workers written so many records?"""

    def check() -> bool:
        files = [out / f"records-{n}.jsonl" for n in (0, 1)]
        return all(file.exists() and len(file.read_text().splitlines()) >= rows for file in files)

    return check


def run_id_of(out: Path) -> str:
    return str(json.loads((out / "manifest.json").read_text())["run_id"])


@pytest.mark.parametrize(("whom", "when"), [("worker", "load"), ("master", "load"), ("worker", "drain")])
def test_kill_9_of_one_process_keeps_what_it_wrote_and_is_told(
    whom: str, when: str, tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out, output = tmp_path / "run", tmp_path / "output"
    # Streams of 15 s, and 30 s of draining: both processes have some when it begins.
    draining = ("load.duration_s=6", "load.drain_s=30", "load.users.0.output_tokens=750")
    child = start(out, *(draining if when == "drain" else ("load.duration_s=60",)), "faults=[]")
    try:
        assert clock.wait_until(loaded(out, 1 if when == "drain" else 3), 60), output.read_text()
        if when == "drain":
            assert clock.wait_until(lambda: " drain " in output.read_text(), 60), output.read_text()
        killing(run_id_of(out))
        master, _, victim = locusts(run_id_of(out))
        assert proc.send(victim if whom == "worker" else master, signal.SIGKILL)
        assert child.wait(60) == 4, output.read_text()
    finally:
        child.kill()
        child.wait()
    assert left_over(run_id_of(out)) == []
    verdict = json.loads((out / "verdict.json").read_text())
    rows = pd.read_parquet(out / "requests.parquet")
    assert set(rows.worker_index) == {0, 1}
    reasons = "\n".join(verdict["reasons"])
    if whom == "worker":
        told = re.search(rf"worker (\d) \(\S+, pid {victim.pid}\) died", reasons)
        assert told, reasons
        assert not (out / f"records-{told[1]}.done").exists()
        assert (out / f"records-{1 - int(told[1])}.done").exists()
        counts = json.loads((out / "manifest.json").read_text())["counts"]
        assert counts["sent"] == len(rows) + counts["lost"]
        assert counts["lost"] > 0, "its open streams"
    else:
        assert "Locust ended with code -9" in reasons


def test_locust_by_hand_with_two_processes(system: Path) -> None:  # noqa: F811
    argv = [*LOCUST, "--run-dir", str(system), "--headless", "--processes", "2", *free_port()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=system.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((system / "verdict.json").read_text())["status"] == "pass"
    assert set(pd.read_parquet(system / "requests.parquet").worker_index) == {0, 1}


def test_ctrl_c_of_all_of_them_still_undoes_and_judges(system: Path) -> None:  # noqa: F811
    argv = [*LOCUST, "--run-dir", str(system), "--headless", "--processes", "2", *free_port()]
    with (system.parent / "output").open("wb") as output:
        child = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, cwd=system.parent, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )  # fmt: skip
    try:
        assert clock.wait_until(loaded(system, 1), 60), (system.parent / "output").read_text()
        os.killpg(child.pid, signal.SIGINT)
        child.wait(60)
    finally:
        child.kill()
        child.wait()
    verdict = json.loads((system / "verdict.json").read_text())
    assert verdict["status"] == "invalid"
    assert any("interrupted" in reason for reason in verdict["reasons"])
    for n in (0, 1):
        rows = len((system / f"records-{n}.jsonl").read_text().splitlines())
        assert int((system / f"records-{n}.done").read_text()) == rows > 0


def free_port() -> list[str]:
    """Options that let a master and its workers meet beside other ones."""
    from harness.sut import ports

    with ports.reserved(1) as (port,):
        return [
            "--master-port",
            str(port),
            "--master-bind-port",
            str(port),
            "--master-bind-host",
            "127.0.0.1",
        ]


def test_more_processes_than_users_is_refused(tmp_path: Path) -> None:
    done = squall("run", str(QUICKSTART), "--set", "generator.processes=25", out=tmp_path)
    assert done.code == 2
    assert "generator.processes" in done.err
