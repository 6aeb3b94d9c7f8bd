"""Migrations as the frontends' logs tell them, by request: the module `dynamo_llm::migration`.

A request that was sent to a dead worker never reached its engine, so no segment tells that it was sent
again (`new_request`); the log names it. Times are the log's wall clock.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, NamedTuple

from harness.core.rundir import RunDir

_MARK = b"dynamo_llm::migration: "
_LINE = re.compile(rb'^(\S+Z) .*?dynamo_llm::migration: (\w+ \w+).*? request_id="?([^"\s]+)')
_KINDS: dict[bytes, Literal["new_request", "ongoing_request"]] = {
    b"Creating new": "new_request",
    b"Stream disconnected": "ongoing_request",
}


class Retry(NamedTuple):
    """A frontend began to send a request again."""

    t_ns: int  # as written: wall clock; on the run axis once it is loaded
    request_id: str
    kind: Literal["new_request", "ongoing_request"]


def read(run: RunDir) -> list[Retry]:
    """All of them by time; none also where another log level or version doesn't tell."""
    found: list[Retry] = []
    for path in sorted(run.logs.glob("frontend-*.log")):
        with path.open("rb") as log:
            for line in log:
                match = _LINE.match(line) if _MARK in line else None
                kind = _KINDS.get(match[2]) if match is not None else None
                if match is not None and kind is not None:
                    found.append(Retry(_wall_ns(match[1]), match[3].decode(errors="replace"), kind))
    return sorted(found)


def _wall_ns(stamp: bytes) -> int:
    """An RFC 3339 time in UTC as ns since the epoch."""
    at = datetime.fromisoformat(stamp.decode().replace("Z", "+00:00"))
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
