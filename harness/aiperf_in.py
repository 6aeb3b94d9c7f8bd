"""AIPerf's profile_export.jsonl to records of ours. What the file doesn't say is null in them.

Read for its meaning, with AIPerf's names and units; a file that isn't one is refused with the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.core.clock import MS
from harness.core.errors import InvalidRun, UsageError
from harness.core.records import OUTCOMES

ROUTES = {"chat": "chat", "completions": "completions", "responses": "responses"}
UNITS_NS = {"ms": MS, "us": 1000, "ns": 1, "sec": 1000 * MS, "s": 1000 * MS}


class _Metadata(msgspec.Struct):
    request_start_ns: int
    request_end_ns: int
    x_request_id: str | None = None
    session_num: int | None = None
    credit_issued_ns: int | None = None
    worker_id: str | None = None
    benchmark_phase: str | None = None
    was_cancelled: bool = False
    cancellation_time_ns: int | None = None


class _Value(msgspec.Struct):
    value: float | list[float] | None = None
    unit: str | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    type: str | None = None
    message: str | None = None


class _Line(msgspec.Struct):
    metadata: _Metadata
    metrics: dict[str, _Value]
    error: _Error | None = None


@dataclass(frozen=True)
class Export:
    """A file that was read: rows with the columns of requests.parquet, times from its first instant on."""

    rows: Sequence[dict[str, Any]]
    wall_ns: int  # of instant 0
    warmup_ns: int  # until the first request that isn't warm-up
    end_ns: int
    notes: tuple[str, ...]  # what had to be taken for something else
    summary: Mapping[str, Any]  # profile_export_aiperf.json beside it, empty when there is none


def read(path: Path, overload_codes: Sequence[int]) -> Export:
    """The export. Raises UsageError for what is no such file, InvalidRun for one that is torn or empty."""
    lines = list(_lines(path))
    if not lines:
        raise InvalidRun(f"{path}: holds no record; the benchmark sent nothing, or was cut short")
    zero = min(min(one.metadata.request_start_ns, one.metadata.credit_issued_ns or 2**63) for one in lines)
    summary = _beside(path)
    workers = {name: n for n, name in enumerate(dict.fromkeys(one.metadata.worker_id for one in lines))}
    route = ROUTES.get(str(endpoint(summary).get("type")))
    taken = _Taken()
    rows = [
        _row(one, n, zero, route, workers[one.metadata.worker_id], overload_codes, taken)
        for n, one in enumerate(lines)
    ]
    measured = [row["t_start_ns"] for row, one in zip(rows, lines, strict=True) if not _warms_up(one)]
    if not measured:
        raise InvalidRun(f"{path}: holds records of the warm-up only")
    warmup = any(_warms_up(one) for one in lines)
    end = max(row["t_end_ns"] for row in rows)
    return Export(rows, zero, min(measured) if warmup else 0, end, taken.notes(), summary)


def _warms_up(line: _Line) -> bool:
    return line.metadata.benchmark_phase == "warmup"


def _lines(path: Path) -> Iterator[_Line]:
    decode = msgspec.json.Decoder(_Line).decode
    try:
        with path.open("rb") as file:
            for n, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    yield decode(raw)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise _refused(path, n, raw, error) from None
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; name a profile_export.jsonl, or the directory that holds it"
        ) from None


def _refused(path: Path, n: int, raw: bytes, error: Exception) -> Exception:
    if n > 1 and not raw.endswith(b"\n"):
        return InvalidRun(f"{path}: line {n} is torn: the file was cut short, so records are missing")
    return UsageError(f"{path}: line {n} is no record of AIPerf's profile_export.jsonl ({error})")


@dataclass
class _Taken:
    """How often something that the file doesn't say was taken for something that it does say."""

    due: int = 0
    ids: int = 0
    errors: int = 0

    def notes(self) -> tuple[str, ...]:
        told = [
            (self.due, "without credit_issued_ns: due when they started"),
            (self.ids, "without x_request_id: named by their line"),
            (self.errors, "with an error that is no HTTP status and no outcome: taken for transport_error"),
        ]
        return tuple(f"{count} requests {what}" for count, what in told if count)


def _row(
    line: _Line, n: int, zero: int, route: str | None, worker: int, overload_codes: Sequence[int], taken: _Taken
) -> dict[str, Any]:  # fmt: skip
    said, metrics = line.metadata, line.metrics
    start, ttft = said.request_start_ns - zero, _ns(metrics.get("time_to_first_token"))
    gaps = _gaps(metrics.get("inter_chunk_latency"))
    latency = _ns(metrics.get("request_latency"))
    streamed = ttft is not None
    first = start + ttft if ttft is not None else None
    if first is None and latency is not None:
        first = start + latency  # a whole answer arrives at once
    taken.due += said.credit_issued_ns is None
    taken.ids += said.x_request_id is None
    due = said.request_start_ns if said.credit_issued_ns is None else said.credit_issued_ns
    tokens = _whole(metrics.get("output_sequence_length"))
    cancelled = said.cancellation_time_ns
    return {
        "request_id": said.x_request_id or f"line-{n + 1}",
        "worker_index": worker,
        "user_class": "AIPerf",
        "route": route,
        "t_due_ns": due - zero,
        "t_start_ns": start,
        "t_first_ns": first,
        "t_last_ns": None if first is None else first + sum(gaps) * 1000,
        "t_end_ns": said.request_end_ns - zero,
        "status": _status(line),
        "outcome": _outcome(line, overload_codes, taken),
        "tokens_received": tokens,
        "usage_prompt_tokens": _whole(metrics.get("usage_prompt_tokens")),
        "usage_completion_tokens": _whole(metrics.get("usage_completion_tokens")),
        "usage_reasoning_tokens": _whole(metrics.get("usage_reasoning_tokens")),
        "reasoning_tokens": _whole(metrics.get("reasoning_token_count")),
        "gaps_us": gaps,
        "token_events": len(gaps) + 1 if streamed else None,
        "violations": [],
        "fault_ids": [],
        "stream": None if first is None else streamed,
        "error": line.error.message if line.error is not None else None,
        "t_cancel_ns": None if cancelled is None else cancelled - zero,
    }


def _status(line: _Line) -> int | None:
    code = line.error.code if line.error is not None else 200
    return code if code is not None and 100 <= code < 600 and not line.metadata.was_cancelled else None


def _outcome(line: _Line, overload_codes: Sequence[int], taken: _Taken) -> str:
    """Ours, from what AIPerf says of an error."""
    error = line.error
    if line.metadata.was_cancelled:
        return "cancelled"
    if error is None:
        return "ok"
    if error.type in OUTCOMES:
        return str(error.type)
    if error.code in overload_codes:
        return "shed"
    if error.code is not None and error.code >= 400:
        return "http_error"
    if "timeout" in (error.type or "").lower():
        return "timed_out"
    taken.errors += 1
    return "transport_error"


def _ns(metric: _Value | None) -> int | None:
    """A time as whole ns, by its unit. None where there is none."""
    if metric is None or not isinstance(metric.value, int | float):
        return None
    return round(metric.value * UNITS_NS.get(metric.unit or "ms", MS))


def _gaps(metric: _Value | None) -> list[int]:
    """Gaps between chunks in whole us that add up to the stream's length."""
    if metric is None or not isinstance(metric.value, list):
        return []
    scale, at, found = UNITS_NS.get(metric.unit or "ms", MS) / 1000, 0.0, []
    before = 0
    for value in metric.value:
        at += value * scale
        found.append(max(0, round(at) - before))
        before = max(before, round(at))
    return found


def _whole(metric: _Value | None) -> int | None:
    return round(metric.value) if metric is not None and isinstance(metric.value, int | float) else None


def _beside(path: Path) -> Mapping[str, Any]:
    """profile_export_aiperf.json in the same directory; empty when it isn't there. Raises UsageError."""
    summary = path.with_name("profile_export_aiperf.json")
    try:
        tree = json.loads(summary.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{summary}: can't be read ({error}); remove it to go without") from None
    return tree if isinstance(tree, dict) else {}


def endpoint(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The endpoint's part of the configuration that AIPerf ran with; empty where it isn't told."""
    config = summary.get("input_config")
    found = config.get("endpoint") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}
