"""The run's end of the guardian: a stopped one is no safety net, and doesn't outlive the run."""

from __future__ import annotations

import signal
from pathlib import Path

from faults import guardian
from harness.core import clock, proc, rundir


def test_a_stopped_guardian_counts_as_dead_and_is_ended(tmp_path: Path) -> None:
    guard = guardian.start(rundir.create(tmp_path / "run"), "r")
    who = proc.identify(guard.pid)
    assert who is not None
    assert guard.alive()
    proc.send(who, signal.SIGSTOP)
    assert clock.wait_until(lambda: not guard.alive(), 5)
    assert not guard.done(timeout_s=0.1)
    assert not proc.alive(who)
