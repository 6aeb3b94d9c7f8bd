"""The generator figures of several Locust processes as one: the worst lag, the sum of the work.

Pure. A process without a figure (it sent nothing) says nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Figures = Mapping[str, float | None]

SUMS = ("chunks", "cpu_s")
RATIOS = ("coalesced_ratio", "coalesced_any_ratio")  # of `chunks`


def merged(parts: Sequence[Figures]) -> dict[str, float | None]:
    """Sums, ratios of all chunks together, and of everything else the highest."""
    names = dict.fromkeys(name for one in parts for name in one)
    return {name: _one(name, parts) for name in names}


def _one(name: str, parts: Sequence[Figures]) -> float | None:
    known = [(value, one.get("chunks") or 0) for one in parts if (value := one.get(name)) is not None]
    if not known:
        return None
    if name in SUMS:
        return sum(value for value, _ in known)
    if name in RATIOS:
        chunks = sum(count for _, count in known)
        return sum(value * count for value, count in known) / chunks if chunks else None
    return max(value for value, _ in known)
