"""A worker on another host: another network namespace and another CLOCK_MONOTONIC, no file in common.

The kernel's time namespaces give a process a monotonic clock that is ahead by as much as we like.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from pipeline import QUICKSTART, SHORT, sets, squall
from test_run_processes import USERS, free_port
from test_up_and_attach import LOCUST

from harness.core import clock, proc

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timens,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
AHEAD_S = 1000
AHEAD = ["unshare", "--time", "--monotonic", str(AHEAD_S), "--"]


@pytest.fixture
def system(tmp_path: Path, killing: Callable[[str], None]) -> Iterator[Path]:
    out = tmp_path / "up"
    load = ("load.duration_s=8", "faults=[]", f"load.users={USERS.replace(chr(10), '')}")
    done = squall("up", str(QUICKSTART), "--out", str(out), *sets(*SHORT[1:3], *SHORT[5:], *load), out=out)
    assert done.code == 0, done.out + done.err
    killing(json.loads((out / "manifest.json").read_text())["run_id"])
    yield out
    squall("down", str(out), out=out)


@pytest.fixture
def spread(system: Path) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    """A master, a worker of its host, and one of another host, which has no run directory."""
    port = free_port()
    headless = ["--headless", "--expect-workers", "2", "--expect-workers-max-wait", "60"]
    argvs = [
        [*LOCUST, "--master", "--run-dir", str(system), *headless, *port[2:]],
        [*LOCUST, "--worker", "--run-dir", str(system), *port[:2]],
        [*AHEAD, *LOCUST, "--worker", *port[:2]],
    ]
    children = []
    try:
        for n, argv in enumerate(argvs):
            with (system.parent / f"output-{n}").open("wb") as output:
                there = system.parent if n < 2 else Path("/")
                children.append(subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, cwd=there))
        yield system, children
    finally:
        for child in children:
            child.kill()
            child.wait()


def said(run: Path) -> str:
    return "\n".join((run.parent / f"output-{n}").read_text() for n in range(3))


def shipper(run: Path) -> dict[str, object]:
    """What the manifest says of the worker on the other host."""
    workers = json.loads((run / "manifest.json").read_text())["generator"]["workers"]
    (found,) = [one for one in workers if one["shipped"]]
    return dict(found)


def test_records_travel_and_their_times_fit(spread: tuple[Path, list[subprocess.Popen[bytes]]]) -> None:
    run, (master, *workers) = spread
    assert master.wait(90) == 0, said(run)
    assert [one.wait(30) for one in workers] == [0, 0], said(run)
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["status"] == "pass", verdict["reasons"]
    rows = pd.read_parquet(run / "requests.parquet")
    far = shipper(run)
    mine, theirs = (rows[rows.worker_index == n] for n in (1 - far["worker_index"], far["worker_index"]))
    assert far["sent"] == far["rows"] == len(theirs) > 0 < len(mine)
    assert rows.groupby("user").worker_index.nunique().max() == 1

    assert far["clock_offset_ns"] == pytest.approx(AHEAD_S * clock.NS, abs=5 * clock.MS)
    assert 0 < far["clock_error_ns"] < 5 * clock.MS
    shift_ns = far["clock_offset_ns"] - AHEAD_S * clock.NS
    assert abs(shift_ns) <= far["clock_error_ns"], "the true offset is within the error that was told"
    for name in ("t_start_ns", "t_end_ns"):  # both began and ended together, on one axis
        assert abs(theirs[name].min() - mine[name].min()) < 2 * clock.NS
        assert abs(theirs[name].max() - mine[name].max()) < 3 * clock.NS


def test_a_worker_that_dies_leaves_what_it_shipped(
    spread: tuple[Path, list[subprocess.Popen[bytes]]],
) -> None:
    run, (master, _, far) = spread

    def shipped() -> bool:
        files = list(run.glob("records-*.jsonl"))
        return len(files) == 2 and all(file.stat().st_size for file in files)

    assert clock.wait_until(shipped, 60), said(run)
    who = proc.identify(far.pid)
    assert who is not None and proc.send(who, signal.SIGKILL)
    master.wait(60)
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["status"] == "invalid"
    reasons = "\n".join(verdict["reasons"])
    assert f"pid {far.pid}) died" in reasons, reasons
    assert "it never said how many records it shipped" in reasons
    rows = pd.read_parquet(run / "requests.parquet")
    assert set(rows.worker_index) == {0, 1}
    one = shipper(run)
    index = one["worker_index"]
    assert 0 < (rows.worker_index == index).sum() <= int(str(one["sent"]))
    assert not (run / f"records-{index}.done").exists()


def test_a_worker_of_no_squall_is_refused(system: Path) -> None:
    """A plain locustfile says no hello."""
    plain = system.parent / "plain.py"
    plain.write_text("from locust import User\n\n\nclass ChatUser(User):\n    pass\n")
    port = free_port()
    argv = [*LOCUST, "--master", "--run-dir", str(system), "--headless", "--expect-workers", "1", *port[2:]]
    other = [sys.executable, "-m", "locust", "-f", str(plain), "--worker", *port[:2]]
    with (system.parent / "output").open("wb") as output:
        worker = subprocess.Popen(other, stdout=output, stderr=subprocess.STDOUT, cwd=system.parent)
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=90, cwd=system.parent, check=False
        )
        assert done.returncode == 4
        assert "no worker of squall" in done.stderr
    finally:
        worker.kill()
        worker.wait()
