"""The parent's side of the observer: one that is there and silent must not hold up the end of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness import observer
from harness.core import proc, rundir
from harness.core.errors import InvalidRun


def test_a_silent_observer_is_given_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = proc.spawn

    def silent(argv: Any, env: Any, log: Path, **more: Any) -> Any:
        return spawn(["sleep", "60"], {"PATH": os.defpath}, log, **more)

    monkeypatch.setattr(proc, "spawn", silent)
    monkeypatch.setattr(observer, "ANSWER_S", 0.05)
    one = observer.Observer(rundir.create(tmp_path / "run"), "r")
    try:
        with pytest.raises(InvalidRun, match="the observer doesn't answer"):
            one.wait_ready()
        monkeypatch.setattr(observer, "ANSWER_S", 3600)
        with pytest.raises(InvalidRun, match="the observer doesn't answer"):
            one.scrape("end")  # at once
    finally:
        one._process.kill()
        one._process.communicate()
