"""Gaps by windows, block by block, are to the bit what they are when every gap is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import make_run
from fixtures.make_run import plain_parts, record, write_run

from harness.core.clock import NS
from harness.stats import analyse, load, metrics, service, streams
from harness.stats.analysis import Window
from harness.stats.load import RunData
from harness.stats.streams import within

LEVELS = [0.5, 0.9, 0.99]


def plainly(data: RunData, window: Window) -> tuple[Any, Any]:
    """Every gap's end held against the window; all gaps kept."""
    s, us, means = data.requests, [np.zeros(0, np.int32)], [np.zeros(0)]
    for row in range(len(s)):
        mine = s.gaps_us[s.offsets[row] : s.offsets[row + 1]]
        inside = mine[within(s.first[row] + np.cumsum(mine, dtype=np.int64) * 1000, window.intervals)]
        if len(inside):
            us.append(inside)
            means.append(np.array([float(inside.sum(dtype=np.int64)) / len(inside)]))
    return np.concatenate(us), np.concatenate(means)


def scope(data: RunData, window: Window) -> metrics.Scope:
    good = service.good(data.requests, data.scenario.slo)
    return metrics.Scope(data, window, good, metrics.stalls_us(data.requests))


@pytest.mark.parametrize("chunk", [1, 700, 5_000, 4_000_000])
def test_windows_of_a_run_with_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    run, _ = make_run.make_run(tmp_path / "run")
    monkeypatch.setattr(streams, "CHUNK", chunk)
    data = load.read(run)
    whole = 0
    for window in analyse.judge(data).windows.values():
        us, means = plainly(data, window)
        tally, found = scope(data, window).gaps
        assert tally.total == len(us)
        assert found.tolist() == means.tolist()
        if len(us):
            assert tally.quantiles(LEVELS) == np.quantile(us, LEVELS).tolist()
        s = data.requests
        whole += sum(s.gaps_within(a, b, window.intervals) for a, b in s.blocks())
    assert whole or chunk == 4_000_000  # blocks that weren't looked at one by one were among them


def test_a_block_that_touches_the_border_is_looked_at(tmp_path: Path) -> None:
    data = load.read(
        write_run(tmp_path / "run", plain_parts([record(9, gaps_us=[500_000] * 4), record(10, gaps_us=[])]))
    )
    first, last = 9 * NS + 50_000_000, 11 * NS + 50_000_000

    def inside(start: int, end: int) -> bool:
        return data.requests.gaps_within(0, 2, ((0, 5), (start, end)))

    assert inside(first, last + 1) and not inside(first + 1, last + 1) and not inside(first, last)
    assert data.requests.gaps_within(1, 2, ())  # no gaps, so none outside
    window = Window("all", "all", None, ((first, last),))
    assert scope(data, window).gaps[0].total == 3
