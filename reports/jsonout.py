"""ReportData as JSON and back: the report for programs. Floats keep six significant digits."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from reports.data import ReportData


def render(data: ReportData) -> str:
    """Indented JSON in reading order, verdict first; NaN and infinities become null."""
    tree = {"verdict": None, **_rounded(msgspec.to_builtins(data))}
    return msgspec.json.format(msgspec.json.encode(tree), indent=2).decode() + "\n"


def parse(source: str | bytes) -> ReportData:
    """What `render` wrote. Raises msgspec.ValidationError."""
    return msgspec.json.decode(source, type=ReportData)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
