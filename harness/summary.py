"""The end of `squall run` on the terminal: a table, what users lost, the verdict, where the report is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core import rundir
from harness.stats.analysis import Analysis

ROWS = (
    "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "e2e_p50_ms", "stall_max_ms", "goodput_ratio",
    "output_tokens_per_s", "error_ratio", "shed_ratio", "in_flight_at_fault", "migrations_ledger",
    "migrations_ongoing", "detect_s", "mitigate_s", "recover_s", "silent_s",
)  # fmt: skip


def lines(analysis: Analysis, page: Path, baseline: Path | None) -> list[str]:
    """Lines to print; `baseline` is another run's directory, whose values are shown beside."""
    old = rundir.read_json(rundir.open_run(baseline).metrics) if baseline else {}
    counts = analysis.counts
    found = ["", *table(analysis.metrics, old), ""]
    found.append(
        "requests  "
        + ", ".join(
            f"{counts[name]} {name}" for name in ("sent", "ok", "shed", "cancelled", "failed", "lost")
        )
    )
    found += [f"load      {one.text}" for one in analysis.delivery if one.window == "all"]
    found += [f"fault     {_fault(fault)}" for fault in analysis.verdict["faults"]]
    found += [f"users     {loss.text}" for loss in analysis.losses]
    found += [f"warning   {text}" for text in analysis.warnings]
    found += _broken(analysis)
    verdict = f"{analysis.status.upper()} (exit code {analysis.exit_code})"
    reasons = analysis.verdict["reasons"]
    found.append(f"verdict   {verdict}" + (f": {reasons[0]}" if reasons else ""))
    found += [f"          {reason}" for reason in reasons[1:]]
    return [*found, f"report    {page}"]


def table(metrics: Mapping[str, Mapping[str, float | None]], old: Mapping[str, Any]) -> list[str]:
    """Metrics by window; `-` is not known or does not apply. With a baseline, its difference in percent."""
    windows = [name for name in metrics if name != "all"]
    rows = [["", *windows]]
    for metric in ROWS:
        values = [_cell(metrics[w].get(metric), old.get(w, {}).get(metric)) for w in windows]
        if any(value != "-" for value in values):
            rows.append([metric, *values])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if n == 0 else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _cell(value: float | None, old: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    return f"{text} ({100 * (value / old - 1):+.1f}%)" if old else text


def _fault(fault: Mapping[str, Any]) -> str:
    how = f"recovered by {fault['recovered_by']}" if fault["recovered"] else "NOT RECOVERED"
    return f"{fault['fault_id']}: {fault['fault']} on {fault['target']}, " + (
        f"verified, {how}" if fault["verified"] else f"NOT VERIFIED, {how}"
    )


def _broken(analysis: Analysis) -> list[str]:
    found = []
    for one in analysis.invariants:
        if one.ok is False:
            ids = ", ".join(one.request_ids[:3]) + (", ..." if len(one.request_ids) > 3 else "")
            found.append(
                f"broken    {one.name}: {one.count}"
                + (f" ({ids})" if ids else "")
                + (f" {one.detail}" if one.detail else "")
            )
    return found
