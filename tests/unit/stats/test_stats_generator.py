"""What a reader should know of a generator that kept its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_run import plain_parts, record, write_run

from harness.stats import analyse

ON_TIME = {"send_lag_p99_ms": 1.9, "hub_lag_p99_ms": 0.5, "coalesced_ratio": 0.0, "cpu_steal_ratio": 0.049}


def warned(path: Path, **differs: Any) -> list[str]:
    parts = plain_parts([record(n) for n in range(5, 65)])
    parts.manifest = {"generator": {**ON_TIME, **differs}}
    return [one for one in analyse.analyse(write_run(path / "run", parts)).warnings if "latencies" in one]


@pytest.mark.parametrize("said", [{}, {"hub_lag_p99_ms": None}, {"cpu_steal_ratio": None}])
def test_one_on_time_says_nothing(tmp_path: Path, said: dict[str, Any]) -> None:
    assert warned(tmp_path, **said) == []


def test_a_late_one_says_how_late(tmp_path: Path) -> None:
    (found,) = warned(tmp_path, send_lag_p99_ms=2.5, hub_lag_p99_ms=12.25)
    assert "send lag p99 2.5 ms, hub lag p99 12.2 ms" in found


def test_a_machine_that_is_not_ours_is_told(tmp_path: Path) -> None:
    (found,) = warned(tmp_path, cpu_steal_ratio=0.31)
    assert "31% of its CPU time" in found
