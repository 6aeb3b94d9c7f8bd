"""JSON lines of a run to its three Parquet files, with the columns of DESIGN section 6 exactly.

Streams: memory holds one row group. Rows are counted against what each process said it wrote; what
is missing is named, and what is there is merged all the same. Rows keep the order of writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from faults import journal
from harness.collect import segments
from harness.core.errors import InvalidRun
from harness.core.records import Probe, RequestRecord, Sample
from harness.core.rundir import RunDir
from harness.stats import events

ROWS_PER_GROUP = 20_000
GAPS_PER_GROUP = 500_000  # as Python ints some 20 MB
FOREVER = 2**63 - 1

_TEXTS = pa.list_(pa.string())
REQUESTS = pa.schema(
    [
        ("request_id", pa.string()), ("response_id", pa.string()), ("worker_index", pa.int64()),
        ("user_class", pa.string()), ("route", pa.string()), ("t_due_ns", pa.int64()),
        ("t_start_ns", pa.int64()), ("t_first_ns", pa.int64()), ("t_last_ns", pa.int64()),
        ("t_end_ns", pa.int64()), ("status", pa.int64()), ("outcome", pa.string()),
        ("attempt", pa.int64()), ("retry_of", pa.string()), ("cancel_mode", pa.string()),
        ("cancel_after_tokens", pa.int64()), ("prompt_tokens", pa.int64()),
        ("tokens_expected", pa.int64()), ("tokens_received", pa.int64()),
        ("usage_prompt_tokens", pa.int64()), ("usage_completion_tokens", pa.int64()),
        ("finish_reason", pa.string()), ("gaps_us", pa.list_(pa.int32())), ("coalesced", pa.int64()),
        ("time_error_us", pa.int64()), ("violations", _TEXTS), ("lost_tokens", pa.int64()),
        ("duplicated_tokens", pa.int64()), ("reordered_tokens", pa.int64()),
        ("foreign_tokens", pa.int64()), ("extra_tokens", pa.int64()), ("engine_worker_id", pa.string()),
        ("migrated", pa.int64()), ("fault_ids", _TEXTS), ("error", pa.string()),
        ("stream", pa.bool_()),
        ("user", pa.int64()), ("t_cancel_ns", pa.int64()),
        ("token_events", pa.int64()), ("witness_tokens", pa.int64()), ("hidden_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()), ("tool_tokens", pa.int64()),
        ("usage_reasoning_tokens", pa.int64()),
    ]
)  # fmt: skip
SAMPLES = pa.schema(
    [
        ("t_ns", pa.int64()), ("process", pa.string()), ("metric", pa.string()), ("labels", pa.string()),
        ("value", pa.float64()),
    ]
)  # fmt: skip
PROBES = pa.schema(
    [
        ("t_ns", pa.int64()), ("process", pa.string()), ("path", pa.string()), ("http_status", pa.int64()),
        ("ready", pa.bool_()), ("latency_us", pa.int64()), ("error", pa.string()),
    ]
)  # fmt: skip


T = TypeVar("T")


@dataclass
class Merged:
    """What was there. `missing`: reasons why the run can't be judged; empty when all rows are there."""

    rows: int = 0
    rows_by_worker: dict[int, int] = field(default_factory=dict)
    samples: int = 0
    probes: int = 0
    missing: list[str] = field(default_factory=list)


def merge(run: RunDir) -> Merged:
    """Write requests, samples and probes as Parquet from the JSON lines, which stay.

    `migrated`: segments of the request minus one; null when no engine kept segments, or none of this
    request (it reached no engine, or not one of ours). `fault_ids`: faults that were there while the
    request was open. Lost requests (sent, no record) are for the caller to see: sent is in the
    manifest. Raises OSError, JournalError.
    """
    merged = Merged()
    workers = _workers(run)
    if not workers and run.requests.exists():
        return _merged_before(run)
    _write(run.requests, REQUESTS, _requests(run, workers, merged), gaps=True)
    merged.rows = sum(merged.rows_by_worker.values())
    merged.samples = _write(run.samples, SAMPLES, _lines(run.samples_jsonl, Sample, merged.missing))
    merged.probes = _write(run.probes, PROBES, _lines(run.probes_jsonl, Probe, merged.missing))
    if not workers:
        merged.missing.append("no records: no Locust process wrote any")
    return merged


def _merged_before(run: RunDir) -> Merged:
    """A run whose JSON lines are gone: the Parquet files are what there is."""
    counts = []
    for path in (run.requests, run.samples, run.probes):
        try:
            counts.append(pq.read_metadata(path).num_rows if path.exists() else 0)
        except pa.ArrowInvalid as error:
            raise InvalidRun(f"{path}: no Parquet file, and its JSON lines are gone: {error}") from None
    rows, samples, probes = counts
    return Merged(rows=rows, samples=samples, probes=probes)


def _workers(run: RunDir) -> list[int]:
    """Indices of the Locust processes that ran, the absent ones between them too."""
    names = [*run.path.glob("records-*.jsonl"), *run.path.glob("records-*.done")]
    found = [int(digits) for path in names if (digits := path.stem.removeprefix("records-")).isdigit()]
    return list(range(max(found) + 1)) if found else []


def _requests(run: RunDir, workers: Iterable[int], merged: Merged) -> Iterator[RequestRecord]:
    """All records, with `migrated` and `fault_ids` filled; counts and what is missing go to `merged`."""
    known = segments.read(run)
    migrated = {} if known is None else segments.migrations(known)
    faults = _present(run)
    for worker in workers:
        rows = 0
        for record in _lines(run.records(worker), RequestRecord, merged.missing):
            record.migrated = migrated.get(record.request_id)
            record.fault_ids = [
                fault
                for fault, (start, end) in faults.items()
                if start < record.t_end_ns and record.t_start_ns < end
            ]
            rows += 1
            yield record
        merged.rows_by_worker[worker] = rows
        _check_done(run.records_done(worker), rows, merged.missing)


def _present(run: RunDir) -> dict[str, tuple[int, int]]:
    """[start, end) of each fault that took effect, hull over its targets; FOREVER when nobody ended it."""
    hulls: dict[str, tuple[int, int]] = {}
    for event in events.events(journal.read(run.journal)):
        if event.effective_ns is not None:
            end_ns = FOREVER if event.end_ns is None else event.end_ns
            start, end = hulls.get(event.fault_id, (event.effective_ns, end_ns))
            hulls[event.fault_id] = (min(start, event.effective_ns), max(end, end_ns))
    return hulls


def _check_done(done: Path, rows: int, missing: list[str]) -> None:
    try:
        said = int(done.read_text())
    except FileNotFoundError:
        missing.append(f"{done.name} is missing: that process didn't close its file ({rows} rows are there)")
    except ValueError:
        missing.append(f"{done.name} holds no row count")
    else:
        if said != rows:
            missing.append(f"{done.name} says {said} rows, {rows} are there")


def _lines(path: Path, kind: type[T], missing: list[str]) -> Iterator[T]:
    """Rows of a file of JSON lines. An absent file and lines that are no rows are named in `missing`."""
    decode = msgspec.json.Decoder(kind).decode
    bad, raw = 0, b"\n"
    try:
        file = path.open("rb")
    except FileNotFoundError:
        missing.append(f"{path.name} is missing")
        return
    with file:
        for raw in file:
            try:
                yield decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                bad += 1
    if bad:
        torn = " (the last one is torn)" if not raw.endswith(b"\n") else ""
        missing.append(f"{path.name}: {bad} lines are no rows{torn}")


def _write(path: Path, schema: pa.Schema, rows: Iterable[Any], gaps: bool = False) -> int:
    """Rows to a Parquet file that replaces the old one when complete. Returns how many."""
    temporary = path.with_name(f".{path.name}")
    written = 0
    weigh: Callable[[Any], int] = (lambda row: len(row.gaps_us)) if gaps else (lambda _: 0)
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in _groups(rows, weigh):
            columns = zip(*map(msgspec.structs.astuple, group), strict=True)
            arrays = [pa.array(column, of.type) for column, of in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group))
            written += len(group)
    temporary.replace(path)
    return written


def _groups(rows: Iterable[Any], weigh: Callable[[Any], int]) -> Iterator[list[Any]]:
    group: list[Any] = []
    weight = 0
    for row in rows:
        group.append(row)
        weight += weigh(row)
        if len(group) >= ROWS_PER_GROUP or weight >= GAPS_PER_GROUP:
            yield group
            group, weight = [], 0
    if group:
        yield group
