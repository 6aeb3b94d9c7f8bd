"""What the host took for others, from /proc/stat; unknown where the kernel doesn't say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import hostcpu
from harness.core.hostcpu import Ticks


def test_a_reading(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 1 50 800 9 0 10 30 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert hostcpu.ticks(stat) == Ticks(30, 1000)


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3\n", "cpu a b c d e f g h\n"])
def test_no_reading(tmp_path: Path, text: str) -> None:
    stat = tmp_path / "stat"
    stat.write_text(text)
    assert hostcpu.ticks(stat) is None
    assert hostcpu.ticks(tmp_path / "absent") is None


def test_the_share_between_two_readings() -> None:
    assert hostcpu.steal_ratio(Ticks(30, 1000), Ticks(50, 1200)) == 0.1
    assert hostcpu.steal_ratio(Ticks(30, 1000), Ticks(30, 1200)) == 0
    assert hostcpu.steal_ratio(Ticks(30, 1000), Ticks(30, 1000)) is None
    assert hostcpu.steal_ratio(None, Ticks(30, 1000)) is None
    assert hostcpu.steal_ratio(Ticks(30, 1000), None) is None


def test_this_host_says_it() -> None:
    now = hostcpu.ticks()
    assert now is not None
    assert 0 <= now.steal < now.total
