"""Health probes: what a deployment's health check would have seen, ten times a second for each URL.

One probe at a time for each URL, so a probe that hangs is one red row that starts when it was sent
and lasts its latency; other URLs are not held up (a thread for each). Bodies are read: Dynamo's
frontend says "unhealthy" with HTTP 200. Rows carry CLOCK_MONOTONIC; the writer moves them to the
run's axis.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from harness.core import clock, fetch, health
from harness.core.records import Probe

PERIOD_NS = 100 * clock.MS
TIMEOUT_S = 1.0


def probe(process: str, url: str, headers: Mapping[str, str]) -> tuple[Probe, Any]:
    """One probe now, and its body as JSON (None when it has none). Never raises for a bad target.

    t_ns: CLOCK_MONOTONIC at sending.
    """
    row = Probe(clock.now_ns(), process, urlsplit(url).path or "/", 0, None, 0, None)
    body: Any = None
    try:
        answer = fetch.get(url, headers, TIMEOUT_S)
    except (OSError, HTTPException) as error:
        row.error = fetch.error_text(error)
    else:
        body = _json(answer.body)
        row.http_status, row.ready = answer.status, health.ready(body)
    row.latency_us = (clock.now_ns() - row.t_ns) // 1000
    return row, body


def run(
    process: str,
    url: str,
    headers: Mapping[str, str],
    stop: threading.Event,
    emit: Callable[[Probe, Any], None],
) -> None:
    """Probe on an absolute 100 ms schedule until `stop`; instants that a slow probe covers are left out."""
    due_ns = clock.now_ns()
    while not stop.is_set():
        emit(*probe(process, url, headers))
        now = clock.now_ns()
        due_ns += max(1, -(-(now - due_ns) // PERIOD_NS)) * PERIOD_NS
        stop.wait((due_ns - now) / clock.NS)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
