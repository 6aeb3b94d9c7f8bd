"""Whose an instance is: frontends list instances by id and transport, not by process.

A TCP transport is an address on which one process listens, which the kernel says even of a stopped
one. A NATS transport is a subject, known by name only: then a worker's own metrics carry its instance
id, which is asked once in a process's life.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http.client import HTTPException
from typing import Any

from harness.core import fetch, proc, sutfile
from harness.core.proc import Identity
from harness.core.sutfile import ENGINES, Process

ASK_TIMEOUT_S = 1.0
_ADDRESS = re.compile(r"([^,/ ]+):(\d{1,5})(?:/|$)")
_WORKER_ID = re.compile(r'[{,]worker_id="([0-9a-f]{1,16})"')


class Owners:
    """Remembers which ids the living processes have given; safe to use from several threads."""

    def __init__(self) -> None:
        self._ids: dict[Identity, str] = {}

    def name(
        self, processes: Iterable[Process], instance_id: str, transport: Any, vantage: str | None = None
    ) -> str | None:
        """The living process that has the instance, None when none of these does (or says so).

        vantage: the namespace to ask workers from.
        """
        where = _address(transport)
        if where is not None:
            return sutfile.listener(processes, *where)
        workers = [p for p in processes if p.role in ENGINES and proc.alive(p.identity)]
        found = next((p.name for p in workers if self._ids.get(p.identity) == instance_id), None)
        if found is not None:
            return found
        for one in workers:
            if one.identity not in self._ids and self._ask(one, vantage) == instance_id:
                return one.name
        return None

    def _ask(self, process: Process, vantage: str | None) -> str | None:
        try:
            answer = fetch.get(process.metrics or "", {}, ASK_TIMEOUT_S, vantage)
        except (OSError, HTTPException):
            return None
        said = _WORKER_ID.search(answer.body.decode(errors="replace"))
        if said is None:
            return None
        return self._ids.setdefault(process.identity, str(int(said[1], 16)))


def _address(transport: Any) -> tuple[str, int] | None:
    """Address and port in a transport such as {"tcp": "127.0.0.1:4711/..."}."""
    texts = transport.values() if isinstance(transport, dict) else [transport]
    for text in texts:
        match = _ADDRESS.search(text) if isinstance(text, str) else None
        if match:
            return match[1], int(match[2])
    return None
