"""What is written down about every request, sample and probe: the columns of DESIGN section 6.

Integer nanoseconds since the run's start; None where a column doesn't apply. The Parquet files
have exactly these columns, in this order.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Outcome = Literal[
    "ok", "cancelled", "shed", "http_error", "stream_error", "timed_out", "transport_error", "truncated",
    "corrupted",
]  # fmt: skip
OUTCOMES: tuple[Outcome, ...] = (
    "ok", "shed", "cancelled", "http_error", "transport_error", "stream_error", "truncated", "timed_out",
    "corrupted",
)  # fmt: skip
FAILED: frozenset[Outcome] = frozenset(
    {"http_error", "transport_error", "stream_error", "truncated", "timed_out", "corrupted"}
)
VIOLATIONS: tuple[str, ...] = (
    "lost_tokens", "duplicated_tokens", "reordered_tokens", "foreign_tokens", "extra_tokens",
    "short_stream", "missing_finish", "missing_done", "data_after_done", "usage_prompt_mismatch",
    "usage_completion_mismatch", "id_changed", "model_changed", "malformed_event", "error_event",
    "wrong_content_type",
)  # fmt: skip


Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request. `migrated`, `fault_ids` are filled by the merge, which knows the whole run."""

    request_id: str
    response_id: str | None = None
    worker_index: int  # the Locust process
    user_class: str
    route: str  # chat | completions | responses
    t_due_ns: int
    t_start_ns: int
    t_first_ns: int | None = None
    t_last_ns: int | None = None
    t_end_ns: int
    status: int = 0
    outcome: Outcome
    attempt: int = 0
    retry_of: str | None = None
    cancel_mode: str | None = None
    cancel_after_tokens: int | None = None
    prompt_tokens: int | None = None
    tokens_expected: int | None = None
    tokens_received: int = 0
    usage_prompt_tokens: int | None = None
    usage_completion_tokens: int | None = None
    finish_reason: str | None = None
    gaps_us: list[Int32] = []
    coalesced: int = 0
    time_error_us: int | None = None
    violations: list[str] = []
    lost_tokens: int = 0
    duplicated_tokens: int = 0
    reordered_tokens: int = 0
    foreign_tokens: int = 0
    extra_tokens: int = 0
    engine_worker_id: str | None = None
    migrated: int | None = None
    fault_ids: list[str] = []
    error: str | None = None
    stream: bool = True  # False: one whole answer, whose arrival is t_first and t_last, without gaps
    user: int | None = None  # who asked; unique across processes
    t_cancel_ns: int | None = None  # when we cancelled; t_end_ns is later where the connection stayed open
    # The accounts of docs/accounting.md. usage_completion_tokens: what the server says. token_events: chunks
    # that brought output. witness_tokens: words that the oracle read (tokens_received then); None: no witness.
    token_events: int | None = None
    witness_tokens: int | None = None
    hidden_tokens: int | None = None  # made but shown to no client, by the witness's rules; None: unknown
    reasoning_tokens: int | None = None  # of tokens_received: thoughts
    tool_tokens: int | None = None  # of tokens_received: arguments of tool calls
    usage_reasoning_tokens: int | None = None


class Sample(msgspec.Struct):
    """One value of one series of one process's /metrics. `labels` is canonical JSON."""

    t_ns: int
    process: str
    metric: str
    labels: str
    value: float


class Probe(msgspec.Struct):
    """One health probe. `ready`: what the body says, None when there was none. 0 = no status."""

    t_ns: int
    process: str
    path: str
    http_status: int
    ready: bool | None
    latency_us: int
    error: str | None


class JournalLine(msgspec.Struct, kw_only=True):
    """One phase of one fault on one target; see faults/journal.py."""

    seq: int
    t_ns: int
    wall_ns: int
    fault_id: str
    fault: str
    phase: Literal["intent", "injected", "verified", "recovering", "recovered", "failed"]
    target: str
    undo: dict[str, object] | None = None
    evidence: dict[str, object] | None = None
    error: str | None = None
