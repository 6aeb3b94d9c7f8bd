"""`squall convert`: runs to and from AIPerf's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import aiperf_in, aiperf_out
from harness.collect.merge import PROBES, REQUESTS, SAMPLES
from harness.core import config, ids, manifest, rundir
from harness.core.clock import NS
from harness.core.errors import InvalidRun, UsageError
from harness.stats import analyse

Print = Callable[[str], None]
FORMATS = ("aiperf",)
NOT_SAID = (
    "AIPerf's export doesn't say: what was asked for (tokens_expected), finish reasons, response ids, what kind "
    "of answer an error was, how late its own event loop was, which requests left no record"
)


def convert(path: Path, to: str | None, from_: str | None, out: Path | None, show: Print) -> int:
    """One of the two directions. Raises UsageError, InvalidRun."""
    if (to is None) == (from_ is None):
        raise UsageError(
            "convert: needs exactly one of --to and --from: `squall convert RUN --to aiperf`, "
            "`squall convert FILE --from aiperf --out RUN`"
        )
    return export(path, out, show) if from_ is None else take_in(path, out, show)


def export(path: Path, out: Path | None, show: Print) -> int:
    """Write a run's records, CSV and summary as AIPerf names them; by default into RUN/aiperf."""
    run = rundir.open_run(path)
    told = manifest.read(run)
    anchor = told.get("anchor")
    if not isinstance(anchor, dict) or not isinstance(anchor.get("wall_ns"), int):
        raise InvalidRun(
            f"{run.manifest}: has no anchor: the load never started, so there is nothing to convert"
        )
    if not run.requests.exists():
        raise UsageError(f"{run.requests}: no such file; `squall report {run.path}` makes it")
    target = out or run.path / "aiperf"
    try:
        scenario = config.load_scenario(run.scenario)
        target.mkdir(parents=True, exist_ok=True)
        count = aiperf_out.write(run, target, anchor["wall_ns"], scenario.load.warmup_s)
    except (OSError, pa.ArrowException) as error:
        raise InvalidRun(f"{run.path}: can't be converted: {error}") from None
    show(
        f"{count} records in {target / aiperf_out.RECORDS}, statistics in {aiperf_out.CSV} and {aiperf_out.SUMMARY}"
    )
    return 0


def take_in(path: Path, out: Path | None, show: Print) -> int:
    """Make a run directory from profile_export.jsonl (or the directory that holds it), and judge it."""
    if out is None:
        raise UsageError("convert: --from needs --out RUN, the run directory to make")
    file = path / aiperf_out.RECORDS if path.is_dir() else path
    export = aiperf_in.read(file, config.OVERLOAD_CODES)
    run = rundir.create(out)
    scenario = _scenario(export)
    rundir.write_atomic(run.scenario, config.to_yaml(scenario).encode())
    rundir.write_json(
        run.sut,
        {"schema": 1, "owner": "outside", "oracle": "count", "engine": None, "processes": [], "urls": []},
    )
    manifest.create(
        run, scenario, ids.run_id(scenario.name), ["squall", "convert", file.name, "--from", "aiperf"]
    )
    manifest.update(
        run, started_at=None, anchor={"mono_ns": 0, "wall_ns": export.wall_ns}, seed=None, trace_sha256=None,
        fingerprint=None, fingerprint_class=None, sut_version=None, generator={}, restored=None, counts=None,
        imported={"format": "aiperf", "version": export.summary.get("aiperf_version"), "file": file.name,
                  "not_said": NOT_SAID, "taken": list(export.notes)},
    )  # fmt: skip
    table = pa.Table.from_pylist([*export.rows], schema=REQUESTS)
    pq.write_table(table, run.requests, compression="zstd", row_group_size=20_000)
    for name, schema in ((run.samples, SAMPLES), (run.probes, PROBES)):
        pq.write_table(schema.empty_table(), name)
    analysis = analyse.analyse(run)
    analyse.write(run, analysis)
    show(f"{len(export.rows)} requests in {run.path}; `squall report {run.path}` writes its report")
    for note in export.notes:
        show(f"note: {note}")
    return 0


def _scenario(export: aiperf_in.Export) -> config.Scenario:
    """What judging needs of one: the measured stretch, and as many users as were at most open at once."""
    endpoint: dict[str, Any] = dict(aiperf_in.endpoint(export.summary))
    urls = endpoint.get("urls") or [endpoint.get("url")]
    url = urls[0] if isinstance(urls, list) and isinstance(urls[0], str) else ""
    start = np.sort([row["t_start_ns"] for row in export.rows])
    end = np.sort([row["t_end_ns"] for row in export.rows])
    most = int((np.arange(1, len(start) + 1) - np.searchsorted(end, start, side="right")).max())
    tree = {
        "schema": 1, "name": "imported",
        "sut": {"url": url if url.startswith("http") else "http://unknown.invalid", "model": "unknown", "oracle": "count"},
        "load": {"duration_s": max((export.end_ns - export.warmup_ns) / NS, 0.001), "warmup_s": export.warmup_ns / NS,
                 "users": [{"class": "ChatUser", "count": max(most, 1)}]},
    }  # fmt: skip
    return config.build(tree, "scenario.yaml")
