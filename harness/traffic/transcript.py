"""Plain data between the connection and the oracle: what was asked for, what came, what is to be said."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from harness.core import words
from harness.core.records import Outcome
from harness.traffic.pieces import Pieces, Received

End = Literal[
    "complete",  # the whole response message arrived
    "closed",  # the peer closed the connection before that, or the body lasts until it does
    "reset",  # the peer reset it, or the network did
    "refused",  # no connection could be made
    "malformed",  # what came is no HTTP
    "timeout",  # we gave up after timeout_s
    "drain",  # we gave up because the run is over
    "cancelled",  # we closed as planned
]


Part = tuple[int, bytes | int]
"""A part of a body: the piece that brought it and its bytes, or that and how many pieces from it on are
exactly one chunk each."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What was asked for. `key` None: no witness, so tokens are counted, not read."""

    tokens_expected: int
    key: tuple[int, int] | None = None
    prompt_tokens: int | None = None  # None: an unknown tokenizer
    overload_codes: Set[int] = frozenset({503, 529})
    stream: bool = True  # False: one JSON body
    route: str = "chat"
    shape: words.Shape = words.PLAIN  # which part of the words are thoughts, which a tool call


@dataclass(slots=True)
class Transcript:
    """One exchange. Times are CLOCK_MONOTONIC ns; `bodies` are parts of `pieces`, which came at `times`."""

    start_ns: int
    end_ns: int
    end: End
    status: int = 0
    content_type: str | None = None
    content_encoding: str | None = None
    bodies: Sequence[Part] = ()
    times: Sequence[int] = ()
    error: str | None = None
    body_complete: bool = False
    cancel_ns: int | None = None  # when we cancelled; what came later came to a client that had left
    pieces: Received = field(default_factory=Pieces)

    def body(self) -> bytes:
        """All of it."""
        parts: list[bytes] = []
        for index, part in self.bodies:
            if isinstance(part, bytes):
                parts.append(part)
            else:
                parts.extend(self.pieces.body(n) for n in range(index, index + part))
        return b"".join(parts)


class Findings(msgspec.Struct, kw_only=True):
    """Columns of RequestRecord, times on CLOCK_MONOTONIC, and a count for the generator's own error."""

    response_id: str | None = None
    t_first_ns: int | None = None
    t_last_ns: int | None = None
    status: int = 0
    outcome: Outcome = "ok"
    tokens_received: int = 0
    usage_prompt_tokens: int | None = None
    usage_completion_tokens: int | None = None
    finish_reason: str | None = None
    gaps_us: list[int] = []
    coalesced: int = 0
    time_error_us: int | None = None
    violations: list[str] = []
    lost_tokens: int = 0
    duplicated_tokens: int = 0
    reordered_tokens: int = 0
    foreign_tokens: int = 0
    extra_tokens: int = 0
    engine_worker_id: str | None = None
    error: str | None = None
    token_events: int = 0
    witness_tokens: int | None = None
    hidden_tokens: int | None = None
    reasoning_tokens: int = 0
    tool_tokens: int = 0
    usage_reasoning_tokens: int | None = None
    coalesced_late: int = 0
