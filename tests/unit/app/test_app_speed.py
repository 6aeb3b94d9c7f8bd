"""The machine-speed probe does the same work each time, and times it by the one clock."""

from __future__ import annotations

import pytest

from harness import speed
from harness.core import clock


def test_the_work_is_always_the_same() -> None:
    assert speed._work() == speed._work()


def test_the_middle_of_all_rounds_is_told_in_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 5, 10, 13, 20, 120])  # three rounds of 5, 3 and 100 ms
    monkeypatch.setattr(speed, "ROUNDS", 3)
    monkeypatch.setattr(speed, "_work", lambda: 0)
    monkeypatch.setattr(clock, "now_ns", lambda: next(ticks) * clock.MS)
    assert speed.probe_ms() == 5.0
