"""Reading a run directory back: Parquet, journal, scenario, manifest, sut.json, witness segments.

What is missing, torn or malformed becomes a reason why the run is invalid; only a run without manifest
or scenario can't be read at all. Relies on the contract of the files alone, not on who wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.collect import retries
from harness.collect.retries import Retry
from harness.core import config, rundir, strict
from harness.core.errors import InvalidRun, SquallError
from harness.core.records import OUTCOMES, JournalLine
from harness.core.rundir import RunDir
from harness.stats import segments
from harness.stats.streams import ABSENT, Streams

_INTS = (
    "worker_index", "t_due_ns", "t_start_ns", "t_first_ns", "t_last_ns", "t_end_ns", "status", "attempt",
    "cancel_after_tokens", "prompt_tokens", "tokens_expected", "tokens_received", "usage_prompt_tokens",
    "usage_completion_tokens", "coalesced", "time_error_us", "lost_tokens", "duplicated_tokens",
    "reordered_tokens", "foreign_tokens", "extra_tokens", "migrated",
)  # fmt: skip
_TEXTS = (
    "request_id", "response_id", "user_class", "route", "outcome", "retry_of", "cancel_mode",
    "finish_reason", "engine_worker_id", "error",
)  # fmt: skip
_LATER = (
    "user", "t_cancel_ns", "token_events", "witness_tokens", "hidden_tokens", "reasoning_tokens", "tool_tokens",
    "usage_reasoning_tokens",
)  # fmt: skip
_LISTS = {"gaps_us": pa.int32(), "violations": pa.string(), "fault_ids": pa.string()}
_SAMPLES = {
    "t_ns": pa.int64(), "process": pa.string(), "metric": pa.string(), "labels": pa.string(),
    "value": pa.float64(),
}  # fmt: skip
_PROBES = {
    "t_ns": pa.int64(), "process": pa.string(), "path": pa.string(), "http_status": pa.int64(),
    "ready": pa.bool_(), "latency_us": pa.int64(), "error": pa.string(),
}  # fmt: skip
_PHASES = frozenset(get_args(JournalLine.__annotations__["phase"])) or frozenset(
    {"intent", "injected", "verified", "recovering", "recovered", "failed"}
)


@dataclass(frozen=True)
class SutView:
    """What judging needs of sut.json: who plays which part. Read leniently: any may be empty."""

    roles: Mapping[str, str]  # process name -> role
    instance_ids: Mapping[str, str]  # process name -> instance id, where sut.json says it
    oracle: str
    engine: str | None
    canaries: bool  # workers' health is a readiness signal too

    def of_role(self, role: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, has in self.roles.items() if has == role))


@dataclass(frozen=True)
class RunData:
    """All files of one run. samples, probes: their columns; segments: see segments.py."""

    run_id: str
    scenario: config.Scenario
    manifest: Mapping[str, Any]
    sut: SutView
    requests: Streams
    samples: pd.DataFrame
    probes: pd.DataFrame
    journal: tuple[JournalLine, ...]
    segments: pd.DataFrame | None  # None: no witness engine wrote any
    plan: Mapping[str, Any] | None
    done_rows: int | None  # rows that the Locust processes say they wrote
    complete: bool  # all requests are there, so that an absent one is proven to be lost
    reasons: tuple[str, ...]  # why the data can't be trusted, without paths
    retries: tuple[Retry, ...] = ()  # by the frontends' logs, on the run axis

    @property
    def frame(self) -> pd.DataFrame:
        return self.requests.frame


def read(run: RunDir) -> RunData:
    """Everything in the directory. Raises InvalidRun when manifest or scenario can't be read."""
    manifest, scenario = _manifest(run), _scenario(run)
    reasons = earlier_reasons(manifest)
    anchor = manifest.get("anchor")
    mono = anchor.get("mono_ns") if isinstance(anchor, dict) else None
    if not isinstance(mono, int):
        reasons.append("manifest.json has no anchor: the load never started")
        mono = None
    requests = _requests(run.requests, reasons)
    done_rows = _done_rows(run, len(requests), reasons)
    about = ("requests.parquet", "records-")
    complete = not any(name in reason for reason in reasons for name in about)
    found = segments.read(run, mono) if mono is not None else None
    return RunData(
        run_id=str(manifest.get("run_id", "")),
        scenario=scenario,
        manifest=manifest,
        sut=_sut(run.sut, scenario, reasons),
        requests=requests,
        samples=_flat(run.samples, _SAMPLES, ["t_ns", "process", "metric", "labels", "value"], reasons),
        probes=_flat(run.probes, _PROBES, ["process", "path", "t_ns", "http_status"], reasons),
        journal=_journal(run.journal, bool(scenario.faults), reasons),
        segments=found,
        retries=_retries(run, anchor),
        plan=_plan(run.plan, reasons),
        done_rows=done_rows,
        complete=complete,
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _retries(run: RunDir, anchor: object) -> tuple[Retry, ...]:
    """The frontends' log of migrations, moved to the run axis."""
    wall = anchor.get("wall_ns") if isinstance(anchor, dict) else None
    if not isinstance(wall, int):
        return ()
    return tuple(one._replace(t_ns=one.t_ns - wall) for one in retries.read(run))


def earlier_reasons(manifest: Mapping[str, Any]) -> list[str]:
    """Why the run is invalid by its manifest, less what judging it before has added (`judged_reasons`)."""
    added = set(manifest.get("judged_reasons") or [])
    return [str(reason) for reason in manifest.get("invalid_reasons") or [] if reason not in added]


def _manifest(run: RunDir) -> dict[str, Any]:
    try:
        manifest = rundir.read_json(run.manifest)
    except SquallError as error:
        raise InvalidRun(str(error)) from None
    if not isinstance(manifest, dict) or manifest.get("schema") != rundir.SCHEMA:
        raise InvalidRun(f"{run.manifest}: no manifest of schema {rundir.SCHEMA}; made by another squall?")
    return manifest


def _scenario(run: RunDir) -> config.Scenario:
    try:
        text = run.scenario.read_text()
        return config.build(strict.parse_yaml(text, str(run.scenario)), str(run.scenario))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRun(f"{run.scenario}: can't be read ({error})") from None
    except SquallError as error:
        raise InvalidRun(str(error)) from None


def _table(path: Path, reasons: list[str]) -> pa.Table | None:
    """A Parquet file; None, and a reason, when it is missing, truncated or no Parquet."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        reasons.append(f"{path.name} is missing")
    except (pa.ArrowException, OSError, ValueError) as error:
        reasons.append(f"{path.name} can't be read ({type(error).__name__}): truncated or no Parquet")
    return None


def _column(table: pa.Table, name: str, kind: pa.DataType, file: str, reasons: list[str]) -> pa.ChunkedArray:
    """A column cast to `kind`; all null, and a reason, when it is missing or holds something else."""
    if name not in table.column_names:
        reasons.append(f"{file} lacks the column {name}")
    else:
        try:
            return table.column(name).cast(kind)
        except pa.ArrowException:
            reasons.append(f"{file}: column {name} is {table.column(name).type}, not {kind}")
    return pa.chunked_array([pa.nulls(table.num_rows, kind)])


def _flat(path: Path, kinds: Mapping[str, pa.DataType], order: list[str], reasons: list[str]) -> pd.DataFrame:
    """A file of scalar columns as a frame in a fixed order; empty when it can't be read."""
    table = _table(path, reasons)
    if table is None:
        table = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    table = pa.table({name: _column(table, name, kind, path.name, reasons) for name, kind in kinds.items()})
    if table.column("t_ns").null_count:
        reasons.append(f"{path.name} has rows without t_ns")
        table = table.filter(pc.is_valid(table.column("t_ns")))
    table = table.sort_by([(name, "ascending") for name in order])
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    for name, kind in kinds.items():
        if pa.types.is_integer(kind):
            frame[name] = frame[name].fillna(0).astype("int64")
    return frame


def _requests(path: Path, reasons: list[str]) -> Streams:
    """requests.parquet as Streams, sorted; broken rows are named in `reasons`."""
    table = _table(path, reasons)
    if table is None:
        table = pa.table({name: pa.array([], pa.int64()) for name in _INTS} | {
            name: pa.array([], pa.string()) for name in _TEXTS} | {
            name: pa.array([], pa.list_(kind)) for name, kind in _LISTS.items()})  # fmt: skip
    columns = {name: _column(table, name, pa.string(), path.name, reasons) for name in _TEXTS}
    columns |= {name: _column(table, name, pa.int64(), path.name, reasons) for name in _INTS}
    columns |= {name: _column(table, name, pa.list_(k), path.name, reasons) for name, k in _LISTS.items()}
    if "stream" in table.column_names:  # older runs have no such column: all of theirs were streamed
        columns["stream"] = _column(table, "stream", pa.bool_(), path.name, reasons)
    for name in _LATER:  # older runs lack them
        absent = name not in table.column_names
        columns[name] = (
            pa.chunked_array([pa.nulls(len(table), pa.int64())])
            if absent
            else _column(table, name, pa.int64(), path.name, reasons)
        )
    table = pa.table(columns)
    for name in ("request_id", "t_start_ns", "t_due_ns"):
        if missing := table.column(name).null_count:
            reasons.append(f"{path.name}: {missing} rows without {name}")
    if table.column("t_start_ns").null_count:  # a filter copies the whole table
        table = table.filter(pc.is_valid(table.column("t_start_ns")))
    order = pc.sort_indices(
        table, [(name, "ascending") for name in ("t_start_ns", "request_id", "t_end_ns", "outcome")]
    )
    if not np.array_equal(order.to_numpy(), np.arange(len(order))):
        table = table.take(order)
    return streams(table, path.name, reasons)


def _times(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(pc.fill_null(table.column(name), ABSENT).to_numpy(), np.int64)


def streams(table: pa.Table, file: str, reasons: list[str]) -> Streams:
    """A sorted table with the columns of requests.parquet as arrays."""
    start, end, first = (_times(table, f"t_{name}_ns") for name in ("start", "end", "first"))
    due = _times(table, "t_due_ns")
    outcome = pc.index_in(table.column("outcome"), pa.array(OUTCOMES))
    known = pc.is_valid(outcome).to_numpy()
    strange = known ^ pc.is_valid(table.column("outcome")).to_numpy()
    if strange.any():
        reasons.append(f"{file}: {int(strange.sum())} rows with an outcome that isn't in the closed list")
    closed = (end != ABSENT) & (known | strange)
    if (bad := int(((end != ABSENT) & (end < start)).sum())) > 0:
        reasons.append(f"{file}: {bad} requests end before they start")
    horizon = int(max(end.max(initial=0), start.max(initial=0)))
    end = np.where(end == ABSENT, horizon, np.maximum(end, start))
    gaps_us, offsets = _flatten(table.column("gaps_us"), file, reasons)
    orphans = int(((first == ABSENT) & (np.diff(offsets) > 0)).sum())
    if orphans:
        reasons.append(f"{file}: {orphans} rows with gaps but without t_first_ns")
    scalar = table.drop_columns(list(_LISTS))
    if "stream" not in scalar.column_names:
        scalar = scalar.append_column("stream", pa.nulls(len(scalar), pa.bool_()))
    frame: pd.DataFrame = scalar.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return Streams(
        frame=frame,
        request_id=frame["request_id"].fillna("").to_numpy(object),
        due=np.where(due == ABSENT, start, due),
        start=start,
        first=first,
        last=_times(table, "t_last_ns"),
        end=end,
        outcome=np.asarray(pc.fill_null(outcome, -1).to_numpy(), np.int8),
        closed=closed,
        gaps_us=gaps_us,
        offsets=offsets,
        violations=_pairs(table.column("violations")),
        streamed=np.asarray(frame["stream"].fillna(True).to_numpy(bool)),
    )


def _flatten(column: pa.ChunkedArray, file: str, reasons: list[str]) -> tuple[Any, Any]:
    """A list column as (values, offsets)."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), np.int64)
    values = pc.list_flatten(column)
    if values.null_count or (len(values) and pc.min(values).as_py() < 0):
        reasons.append(f"{file}: gaps_us holds nulls or negative gaps")
        values = pc.max_element_wise(pc.fill_null(values, 0), pa.scalar(0, pa.int32()))
    return np.asarray(values.to_numpy(), np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _pairs(column: pa.ChunkedArray) -> pd.DataFrame:
    """A list<string> column as (row, violation) lines, doubles removed."""
    row = pc.list_parent_indices(column).to_numpy()
    lines = pd.DataFrame({"row": np.asarray(row, np.int64), "violation": pc.list_flatten(column).to_pandas()})
    return lines.dropna().drop_duplicates().reset_index(drop=True)


def _journal(path: Path, expected: bool, reasons: list[str]) -> tuple[JournalLine, ...]:
    """Lines in order of seq. A torn last line is what a crash leaves and is let pass."""
    if not path.exists():
        if expected:
            reasons.append("journal.jsonl is missing, and the scenario has faults")
        return ()
    lines = path.read_bytes().split(b"\n")
    found: list[JournalLine] = []
    for n, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            found.append(_journal_line(json.loads(line), n))
        except (ValueError, KeyError, TypeError):
            if n != len(lines) - 1:
                reasons.append(f"journal.jsonl: line {n + 1} is malformed")
    return tuple(sorted(found, key=lambda line: (line.seq, line.t_ns)))


def _journal_line(tree: dict[str, Any], n: int) -> JournalLine:
    """Lenient: what judging doesn't need may be absent."""
    phase = tree["phase"]
    if phase not in _PHASES:
        raise ValueError(phase)
    return JournalLine(
        seq=int(tree.get("seq", n)), t_ns=int(tree["t_ns"]), wall_ns=int(tree.get("wall_ns") or 0),
        fault_id=str(tree["fault_id"]), fault=str(tree.get("fault") or ""), phase=phase,
        target=str(tree.get("target") or ""), undo=tree.get("undo"), evidence=tree.get("evidence"),
        error=None if tree.get("error") is None else str(tree["error"]),
    )  # fmt: skip


def _sut(path: Path, scenario: config.Scenario, reasons: list[str]) -> SutView:
    try:
        tree = json.loads(path.read_bytes())
        if not isinstance(tree, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError):
        reasons.append("sut.json is missing or no JSON")
        tree = {}
    processes = [one for one in tree.get("processes") or [] if isinstance(one, dict) and one.get("name")]
    roles = {
        str(one["name"]): str(one.get("role") or str(one["name"]).rpartition("-")[0]) for one in processes
    }
    ids = {str(p["name"]): str(p["instance_id"]) for p in processes if p.get("instance_id") is not None}
    env = [scenario.sut.env, *(one.get("env") or {} for one in processes)]
    on = scenario.sut.canary.enabled or any(
        str(e.get("DYN_HEALTH_CHECK_ENABLED", "")).lower() in ("1", "true", "yes", "on") for e in env
    )
    default = "count" if scenario.sut.url is None and scenario.sut.engine == "mocker" else scenario.sut.oracle
    return SutView(roles, ids, str(tree.get("oracle") or default), tree.get("engine"), on)


def _plan(path: Path, reasons: list[str]) -> dict[str, Any] | None:
    """plan.json, which is optional."""
    if not path.exists():
        return None
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        reasons.append("plan.json is no JSON")
        return None
    return tree if isinstance(tree, dict) else None


def _done_rows(run: RunDir, rows: int, reasons: list[str]) -> int | None:
    """Sum of records-<n>.done; a number other than the rows of requests.parquet is a reason."""
    total = None
    for path in sorted(run.path.glob("records-*.done")):
        try:
            tree = json.loads(path.read_text())
            total = (total or 0) + int(tree["rows"] if isinstance(tree, dict) else tree)
        except (OSError, ValueError, KeyError, TypeError):
            reasons.append(f"{path.name} holds no row count")
            return None
    if total is not None and total != rows:
        reasons.append(f"requests.parquet has {rows} rows, but {total} were written")
    return total
