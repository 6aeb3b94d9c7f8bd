"""A run as AIPerf's files: profile_export.jsonl, profile_export_aiperf.csv and .json, units as AIPerf shows them.

What a run doesn't know is left out of a record, never written as 0. Times are wall clock, by the run's
anchor. Knows AIPerf's names for metrics; nothing of how a run was made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from harness.core import rundir
from harness.core.clock import MS, NS
from harness.core.rundir import RunDir

RECORDS, CSV, SUMMARY = "profile_export.jsonl", "profile_export_aiperf.csv", "profile_export_aiperf.json"
ROWS_AT_ONCE = 5_000
CANCELLED = 499  # AIPerf's code for a request that it cancelled
STATS = ("avg", "min", "max", "sum", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "std")
HEADERS = {  # tag -> name and unit; of each request, then of the whole
    "time_to_first_token": ("Time to First Token", "ms"),
    "time_to_second_token": ("Time to Second Token", "ms"),
    "inter_token_latency": ("Inter Token Latency", "ms"),
    "inter_chunk_latency": ("Inter Chunk Latency", "ms"),
    "request_latency": ("Request Latency", "ms"),
    "output_sequence_length": ("Output Sequence Length", "tokens"),
    "output_token_count": ("Output Token Count", "tokens"),
    "reasoning_token_count": ("Reasoning Token Count", "tokens"),
    "input_sequence_length": ("Input Sequence Length", "tokens"),
    "output_token_throughput_per_user": ("Output Token Throughput Per User", "tokens/sec/user"),
    "usage_prompt_tokens": ("Usage Prompt Tokens", "tokens"),
    "usage_completion_tokens": ("Usage Completion Tokens", "tokens"),
    "usage_reasoning_tokens": ("Usage Reasoning Tokens", "tokens"),
    "error_isl": ("Error Input Sequence Length", "tokens"),
    "request_count": ("Request Count", "requests"),
    "error_request_count": ("Error Request Count", "requests"),
    "benchmark_duration": ("Benchmark Duration", "sec"),
    "request_throughput": ("Request Throughput", "requests/sec"),
    "output_token_throughput": ("Output Token Throughput", "tokens/sec"),
}


def write(run: RunDir, out: Path, anchor_wall_ns: int, warmup_s: float) -> int:
    """The three files in `out`, which exists. Returns how many records there are. Raises OSError, ArrowException."""
    found: dict[str, list[Any]] = {}
    spans: list[tuple[int, int]] = []
    errors = count = 0
    encoder = msgspec.json.Encoder()
    temporary = out / f".{RECORDS}"
    with temporary.open("wb") as lines:
        for number, row in enumerate(rows(run)):
            one = record(row, number, anchor_wall_ns, warmup_s)
            lines.write(encoder.encode(one) + b"\n")
            count += 1
            if one["metadata"]["benchmark_phase"] == "warmup":
                continue
            spans.append((row["t_start_ns"], row["t_end_ns"]))
            errors += "error" in one
            for tag, metric in one["metrics"].items():
                found.setdefault(tag, []).append(metric["value"])
    temporary.replace(out / RECORDS)
    summary = _summary(found, spans, errors)
    rundir.write_atomic(out / CSV, _csv(summary).encode(), 0o644)
    tree = {"schema_version": "1.4", "aiperf_version": None, "squall_run": run.path.name, **summary}
    rundir.write_atomic(out / SUMMARY, (json.dumps(tree, indent=2) + "\n").encode(), 0o644)
    return count


def rows(run: RunDir) -> Iterator[dict[str, Any]]:
    """Rows of requests.parquet, few at a time."""
    with pq.ParquetFile(run.requests) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def record(row: Mapping[str, Any], number: int, wall_ns: int, warmup_s: float) -> dict[str, Any]:
    """One line of profile_export.jsonl."""
    start, cancel = row["t_start_ns"], row.get("t_cancel_ns")
    metadata = {
        "session_num": number,
        "x_request_id": row["request_id"],
        "credit_issued_ns": wall_ns + row["t_due_ns"],
        "request_start_ns": wall_ns + start,
        "request_end_ns": wall_ns + row["t_end_ns"],
        "worker_id": f"worker_{row['worker_index']}",
        "record_processor_id": "squall",
        "benchmark_phase": "warmup" if start < round(warmup_s * NS) else "profiling",
        "was_cancelled": row["outcome"] == "cancelled",
        "cancellation_time_ns": None if cancel is None else wall_ns + cancel,
    }
    good = row["outcome"] in ("ok", "corrupted")
    values = _metrics(row) if good else _of_error(row)
    metrics = {tag: {"value": v, "unit": HEADERS[tag][1]} for tag, v in values.items() if v is not None}
    told = {
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        "metrics": metrics,
    }
    return told if row["outcome"] == "ok" else {**told, "error": _error(row)}


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a complete answer, by AIPerf's formulas."""
    start, first, tokens = row["t_start_ns"], row["t_first_ns"], row["tokens_received"]
    streamed = row["stream"] is not False and first is not None
    latency_ms = ((row["t_last_ns"] if streamed else row["t_end_ns"]) - start) / MS  # to the last token
    ttft_ms = (first - start) / MS if streamed else None
    gaps_us = chunk_gaps_us(row) if streamed else None
    itl_ms = (latency_ms - ttft_ms) / (tokens - 1) if ttft_ms is not None and tokens and tokens > 1 else None
    thoughts = row.get("reasoning_tokens")
    return {
        "time_to_first_token": ttft_ms,
        "time_to_second_token": gaps_us[0] / 1000 if gaps_us else None,
        "inter_token_latency": itl_ms,
        "inter_chunk_latency": [us / 1000 for us in gaps_us] if gaps_us else None,
        "request_latency": latency_ms,
        "output_sequence_length": tokens,
        "output_token_count": None if tokens is None else tokens - (thoughts or 0),
        "reasoning_token_count": thoughts or None,
        "input_sequence_length": _prompt(row),
        "output_token_throughput_per_user": 1000 / itl_ms if itl_ms else None,
        "usage_prompt_tokens": row["usage_prompt_tokens"],
        "usage_completion_tokens": row["usage_completion_tokens"],
        "usage_reasoning_tokens": row.get("usage_reasoning_tokens"),
    }


def chunk_gaps_us(row: Mapping[str, Any]) -> list[int] | None:
    """Gaps between chunks from those between tokens; None where nobody can tell which tokens came together."""
    gaps, chunks = row["gaps_us"] or [], row.get("token_events")
    if chunks is None or chunks == len(gaps) + 1:
        return list(gaps)
    apart = [us for us in gaps if us]  # tokens of one chunk have no gap
    return apart if len(apart) == chunks - 1 else None


def _of_error(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"error_isl": _prompt(row)}


def _prompt(row: Mapping[str, Any]) -> int | None:
    own: int | None = row["prompt_tokens"]
    return own if own is not None else row["usage_prompt_tokens"]


def _error(row: Mapping[str, Any]) -> dict[str, Any]:
    """`type` is the outcome, so that it can be read back."""
    cancelled = row["outcome"] == "cancelled"
    code = CANCELLED if cancelled else row["status"] or None
    text = row["error"] or ", ".join(row["violations"] or []) or row["outcome"]
    return {"code": code, "type": row["outcome"], "message": text}


def _summary(
    found: Mapping[str, list[Any]], spans: list[tuple[int, int]], errors: int
) -> dict[str, dict[str, Any]]:
    """Statistics by tag: of each request's value, then of the whole."""
    told = {tag: _statistics(HEADERS[tag][1], values) for tag, values in found.items()}
    good = len(spans) - errors
    whole: dict[str, float] = {"request_count": good}
    if errors:
        whole["error_request_count"] = errors
    if spans:
        seconds = (max(end for _, end in spans) - min(start for start, _ in spans)) / NS
        whole["benchmark_duration"] = seconds
        if seconds:
            whole["request_throughput"] = good / seconds
            whole["output_token_throughput"] = sum(found.get("output_sequence_length", [])) / seconds
    return told | {tag: {"unit": HEADERS[tag][1], "avg": value} for tag, value in whole.items()}


def _statistics(unit: str, values: list[Any]) -> dict[str, Any]:
    lists = isinstance(values[0], list)
    array = np.concatenate([np.asarray(one, float) for one in values]) if lists else np.asarray(values, float)
    percentiles = [int(name[1:]) for name in STATS if name[1:].isdigit()]
    at = dict(zip(percentiles, np.percentile(array, percentiles).tolist(), strict=True))
    return {
        "unit": unit, "avg": float(array.mean()), **{f"p{p}": value for p, value in at.items()},
        "min": float(array.min()), "max": float(array.max()), "std": float(array.std()), "count": len(values),
        "sum": float(array.sum()),
    }  # fmt: skip


def _csv(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables: metrics of each request with their statistics, then single values."""
    out = io.StringIO()
    writer = csv.writer(out)
    spread = {tag: one for tag, one in sorted(summary.items()) if "p50" in one}
    if spread:
        writer.writerow(["Metric", *STATS])
        for tag, one in spread.items():
            writer.writerow([_named(tag), *(f"{one[stat]:.2f}" for stat in STATS)])
        writer.writerow([])
    writer.writerow(["Metric", "Value"])
    for tag, one in sorted(summary.items()):
        if tag not in spread:
            writer.writerow([_named(tag), f"{one['avg']:.2f}"])
    return out.getvalue()


def _named(tag: str) -> str:
    name, unit = HEADERS[tag]
    return name if unit == "requests" else f"{name} ({unit})"
