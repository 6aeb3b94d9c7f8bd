"""Which workers a frontend lists, from its health body, as samples of squall's own.

`squall_instance_listed` {endpoint, instance_id, worker} is 1 when an instance appears in the body of
a frontend's /health and 0 when it leaves; rows are changes only, at the time of the probe that saw
them (10 Hz). `worker` is the target that listens on the instance's address, "" when none is known.
A probe without an answer changes nothing: not knowing isn't leaving.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from harness.collect.scrape import canonical
from harness.core.records import Sample

METRIC = "squall_instance_listed"

_ADDRESS = re.compile(r"([^,/ ]+):(\d{1,5})(?:/|$)")


class Listed:
    """What one frontend lists, followed from probe to probe."""

    def __init__(self, process: str, owner: Callable[[str, int], str]) -> None:
        """`owner`: name of the target that listens on an address and port, "" when none does."""
        self._process = process
        self._owner = owner
        self._now: dict[tuple[str, str], str] = {}

    def changes(self, t_ns: int, body: Any) -> list[Sample]:
        """Rows for the instances that came or went with this body; none when it lists nothing at all."""
        found = _instances(body)
        if found is None:
            return []
        rows = [self._row(t_ns, labels, 0) for key, labels in self._now.items() if key not in found]
        kept = {key: labels for key, labels in self._now.items() if key in found}
        for key in found.keys() - kept.keys():
            endpoint, instance_id = key
            where = found[key]
            worker = self._owner(*where) if where else ""
            kept[key] = canonical({"endpoint": endpoint, "instance_id": instance_id, "worker": worker})
            rows.append(self._row(t_ns, kept[key], 1))
        self._now = kept
        return rows

    def _row(self, t_ns: int, labels: str, value: float) -> Sample:
        return Sample(t_ns, self._process, METRIC, labels, value)


def _instances(body: Any) -> dict[tuple[str, str], tuple[str, int] | None] | None:
    """(endpoint, instance id) to address and TCP port, None when the body has no list of instances."""
    listed = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        return None
    found = {}
    for one in listed:
        if isinstance(one, dict) and "instance_id" in one:
            key = (str(one.get("endpoint", "")), str(one["instance_id"]))
            found[key] = _address(one.get("transport"))
    return found


def _address(transport: Any) -> tuple[str, int] | None:
    """Address and port in a transport such as {"tcp": "127.0.0.1:4711/..."}."""
    texts = transport.values() if isinstance(transport, dict) else [transport]
    for text in texts:
        match = _ADDRESS.search(text) if isinstance(text, str) else None
        if match:
            return match[1], int(match[2])
    return None
