"""The local platform on real processes: who is found, what a sign of life is, what is unknown."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import pytest

from faults.ports import Serving, Target
from harness.core import clock, proc, sutfile
from harness.core.errors import FaultError
from harness.core.proc import Identity
from harness.platforms import PLATFORMS
from harness.platforms.local import LocalProcesses
from harness.sut import ports
from tests.fixtures.faults_lab import scenario, system

W1 = Target("worker", 1)


def test_the_platform_is_listed(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        made = PLATFORMS["local"].ports(lab.run, 7)
        plain = scenario([], sut={"dynamo": "1.6.1", "engine": "mocker"})
        assert made.recover_timeout_s == 7
        assert made.offers == PLATFORMS["local"].offers(plain) >= {"processes"}
    with system(tmp_path / "witness", script="standin_engine.py") as lab:
        made = PLATFORMS["local"].ports(lab.run, 7)
        assert made.offers == PLATFORMS["local"].offers(scenario([])) >= {"engines"}
        assert made.processes.find(W1).identity == lab.who("worker-1")


def test_find_tells_the_tree_and_how_to_start_it_again(tmp_path: Path) -> None:
    with system(tmp_path, options=["child"]) as lab:
        found = LocalProcesses(lab.run).find(W1)
        assert len(found.tree) == 2 and found.tree[0] == found.identity
        assert found.respawn is not None
        assert found.respawn["tree"] == [list(one) for one in found.tree]
        assert found.respawn["replaces"]["pid"] == found.identity.pid and found.respawn["stop"] is False


def test_an_outside_process_has_no_respawn(tmp_path: Path) -> None:
    with system(tmp_path, owner="outside") as lab:
        assert LocalProcesses(lab.run).find(W1).respawn is None


def test_stat_and_signal_are_exact(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        one, who = LocalProcesses(lab.run), lab.who("worker-1")
        earlier = Identity(who.pid, who.start_ticks - 1)
        assert one.stat(who) is not None and one.stat(earlier) is None
        assert one.signal(earlier, signal.SIGKILL) is False and proc.alive(who)
        assert one.signal(who, signal.SIGKILL) is True
        assert clock.wait_until(lambda: one.stat(who) is None, 5)


def test_refuses(tmp_path: Path) -> None:
    with system(tmp_path) as lab, ports.reserved(1) as (free,):
        one, port = LocalProcesses(lab.run), lab.state.process("worker-1").port
        assert port is not None
        assert one.refuses(W1, port) is False
        assert one.refuses(W1, free) is True
        with socket.create_server(("127.0.0.1", free)):
            assert one.refuses(W1, free) is False


def test_serving_with_a_frontend(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[]) as lab:
        one = LocalProcesses(lab.run)
        first = one.serving(W1)
        assert first.healthy is True and first.listed is True and first.requests is not None
        before = first.requests
        assert clock.wait_until(lambda: (one.serving(W1).requests or 0) > before, 5)
        front = one.serving(Target("frontend", 1))
        assert (front.healthy, front.listed) == (True, None)
        assert front.requests is not None and front.traffic is not None
        assert front.requests <= front.traffic  # read one after the other, and requests go on
        proc.send(lab.who("worker-1"), signal.SIGKILL)
        assert clock.wait_until(lambda: one.serving(W1).listed is False, 5)
        gone = one.serving(W1)
        assert gone.healthy is False and gone.requests is None
        proc.send(lab.who("frontend-1"), signal.SIGKILL)
        assert clock.wait_until(lambda: one.serving(W1).listed is None, 5)
        assert one.serving(W1).traffic is None


def test_without_a_frontend_nothing_is_known_about_listing(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        assert LocalProcesses(lab.run).serving(W1) == Serving(True, None, 0, None)


def test_an_outside_process_counts_as_unlisted_only_when_it_was_listed_once(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[], owner="outside") as lab:
        one = LocalProcesses(lab.run)
        pid = lab.who("worker-1")
        one.find(W1)
        proc.send(pid, signal.SIGSTOP)
        assert clock.wait_until(lambda: one.serving(W1).listed is False, 8)
        assert LocalProcesses(lab.run).serving(W1).listed is None
        proc.send(pid, signal.SIGCONT)


def test_respawn_notes_the_new_identity_even_when_two_come_back_at_once(tmp_path: Path) -> None:
    with system(tmp_path, workers=2) as lab:
        one = LocalProcesses(lab.run)
        found = [one.find(Target("worker", n)) for n in (1, 2)]
        proc.stop_all([each.identity for each in found], 0)
        threads = [threading.Thread(target=one.respawn, args=(each.respawn,)) for each in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in ("worker-1", "worker-2"):
            assert proc.alive(lab.who(name))


def test_respawn_says_why_it_failed(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        one = LocalProcesses(lab.run)
        op = dict(one.find(W1).respawn or {}) | {"argv": ["/nowhere/x"]}
        proc.stop_all([lab.who("worker-1")], 0)
        with pytest.raises(FaultError, match="worker-1 could not be started again: FileNotFoundError"):
            one.respawn(op)
        assert sutfile.load(lab.run).process("worker-1").pid > 0
