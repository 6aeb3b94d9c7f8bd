"""A kill strikes everybody below the target, those too that are born while it strikes."""

from __future__ import annotations

from pathlib import Path

from faults import tree
from faults.ports import Ports
from harness.core import clock, ids, proc
from harness.core.rundir import RunDir
from harness.platforms.local import LocalProcesses
from tests.fixtures.faults_lab import PYTHON

RESTLESS = """
import os, time
while True:
    if not os.fork():
        time.sleep(30)
        os._exit(0)
    time.sleep(0.001)
"""


def test_children_that_are_born_meanwhile_are_struck_too(tmp_path: Path) -> None:
    sut_id = ids.token()
    ports = Ports(LocalProcesses(RunDir(tmp_path)))
    try:
        for _ in range(5):
            who = proc.spawn_detached([*PYTHON, "-c", RESTLESS], {proc.SUT_ENV: sut_id}, tmp_path / "log")
            assert clock.wait_until(lambda who=who: len(proc.tree(who)) > 5, 5)  # type: ignore[misc]
            struck, _ = tree.kill(ports, who)
            assert struck[0] == who and len(struck) > 5
            assert clock.wait_until(lambda: not proc.marked(proc.SUT_ENV, sut_id), 5), "nobody is left"
            assert tree.kill(ports, who)[0] == [], "gone is gone"
    finally:
        proc.stop_all(proc.marked(proc.SUT_ENV, sut_id), 0)
        proc.reap()
