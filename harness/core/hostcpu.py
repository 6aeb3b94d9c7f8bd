"""CPU time of this host, as the kernel counts it for everybody: what others took of it (steal)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STEAL = 7  # the eighth figure of the line `cpu`, proc(5)
TIMES = 8  # the ninth and tenth (guests) are counted in the first two already


class Ticks(NamedTuple):
    """Since boot, over all cores: time that the host took for others, and all time."""

    steal: int
    total: int


def ticks(stat: Path = Path("/proc/stat")) -> Ticks | None:
    """Now; None where the kernel doesn't say."""
    try:
        name, *figures = stat.read_text().split("\n", 1)[0].split()
        values = [int(figure) for figure in figures[:TIMES]]
    except (OSError, ValueError):
        return None
    return Ticks(values[STEAL], sum(values)) if name == "cpu" and len(values) == TIMES else None


def steal_ratio(start: Ticks | None, end: Ticks | None) -> float | None:
    """Share of all cores' time between two readings that the host gave to others; None: unknown."""
    if start is None or end is None or end.total <= start.total:
        return None
    return (end.steal - start.steal) / (end.total - start.total)
