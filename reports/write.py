"""Every report of a run into its report directory."""

from __future__ import annotations

from pathlib import Path

from harness.core import rundir
from harness.core.rundir import RunDir
from reports import RENDERERS
from reports.data import ReportData


def write_all(run: RunDir, data: ReportData) -> Path:
    """Write report.json, report.md, junit.xml and report.html, each atomically; the path of the last is returned."""
    run.report.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {
        "json": run.report_json, "markdown": run.report_md, "junit": run.report_junit, "html": run.report_html,
    }  # fmt: skip
    for name, path in paths.items():
        rundir.write_atomic(path, RENDERERS[name](data).encode())
    return run.report_html
