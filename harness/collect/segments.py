"""What the witness engines say they generated: logs/*.segments.jsonl, one line at start and end.

A request that was migrated has several segments, on several workers or on one. The client can't
see that (the stream goes on), so this is the ledger against which the SUT's counters are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from harness.core.rundir import RunDir

SUFFIX = ".segments.jsonl"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of an answer, made by one engine. Times as written: CLOCK_MONOTONIC, ns."""

    target: str
    request_id: str
    start_mono_ns: int
    end_mono_ns: int | None  # None: the engine never came to say so (it was killed)
    first: int  # index of the first token that it was to make
    next: int | None  # index after the last token that it made
    max_tokens: int | None
    prompt_tokens: int | None  # of the original prompt
    reason: str | None
    let_in_mono_ns: int | None  # when it left the engine's queue
    running: int | None  # what the engine still held after the end: sequences and blocks
    used: int | None


class _Line(msgspec.Struct):
    event: Literal["start", "end", "lie"]
    t_mono_ns: int
    request_id: str
    first: int = 0
    next: int | None = None
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    reason: str | None = None
    let_in_mono_ns: int | None = None
    running: int | None = None
    used: int | None = None


def read(run: RunDir) -> list[Segment] | None:
    """All segments of a run, by start; None when no engine kept such a file (not a witness)."""
    files = sorted(run.logs.glob(f"*{SUFFIX}"))
    if not files:
        return None
    found = [segment for path in files for segment in _of_file(path)]
    return sorted(found, key=lambda segment: segment.start_mono_ns)


def migrations(segments: Iterable[Segment]) -> dict[str, int]:
    """How many times each request that reached an engine went on in another segment."""
    return {request_id: n - 1 for request_id, n in Counter(s.request_id for s in segments).items()}


def _of_file(path: Path) -> Iterable[Segment]:
    """Segments of one engine. A line torn by the engine's death is left out."""
    target = path.name.removesuffix(SUFFIX)
    decoder = msgspec.json.Decoder(_Line)
    started: dict[str, _Line] = {}
    for raw in path.read_bytes().splitlines():
        try:
            line = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if line.event == "lie":  # a misbehaviour told for: it explains violations, and moves nothing
            continue
        before = started.pop(line.request_id, None)
        if line.event == "start":
            if before is not None:  # a restarted engine writes on: its predecessor's segment has no end
                yield _segment(target, before, None)
            started[line.request_id] = line
        elif before is not None:
            yield _segment(target, before, line)
    for line in started.values():
        yield _segment(target, line, None)


def _segment(target: str, start: _Line, end: _Line | None) -> Segment:
    return Segment(
        target=target,
        request_id=start.request_id,
        start_mono_ns=start.t_mono_ns,
        end_mono_ns=None if end is None else end.t_mono_ns,
        first=start.first,
        next=None if end is None else end.next,
        max_tokens=start.max_tokens,
        prompt_tokens=start.prompt_tokens,
        reason=None if end is None else end.reason,
        let_in_mono_ns=None if end is None else end.let_in_mono_ns,
        running=None if end is None else end.running,
        used=None if end is None else end.used,
    )
