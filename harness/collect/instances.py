"""Which workers a frontend lists, from its health body, as samples of squall's own.

`squall_instance_listed` {endpoint, instance_id, worker} is 1 when an instance appears in the body of
a frontend's /health and 0 when it leaves; rows are changes only, at the time of the probe that saw
them (10 Hz). `worker` is the target that has the instance (core/owners), "" when none is known.
A probe without an answer changes nothing: not knowing isn't leaving. An instance may be listed before
sut.json says who was started again: it gets a second row, of the same time, once its target is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.collect.scrape import canonical
from harness.core.clock import NS
from harness.core.records import Sample

METRIC = "squall_instance_listed"
NAMED_WITHIN_NS = 5 * NS  # after that nobody is asked any more whose an instance is


class Listed:
    """What one frontend lists, followed from probe to probe."""

    def __init__(self, process: str, owner: Callable[[str, Any], str | None]) -> None:
        """`owner`: name of the target that has an instance, by its id and transport."""
        self._process = process
        self._owner = owner
        self._now: dict[tuple[str, str], str] = {}
        self._nameless: dict[tuple[str, str], int] = {}  # when they came

    def changes(self, t_ns: int, body: Any) -> list[Sample]:
        """Rows for the instances that came or went with this body; none when it lists nothing at all."""
        found = _instances(body)
        if found is None:
            return []
        rows = [self._row(t_ns, labels, 0) for key, labels in self._now.items() if key not in found]
        kept = {key: labels for key, labels in self._now.items() if key in found}
        new = found.keys() - kept.keys()
        came = {key: at for key, at in self._nameless.items() if key in kept and t_ns - at <= NAMED_WITHIN_NS}
        self._nameless = {}
        for key, at in [*came.items(), *((key, t_ns) for key in new)]:
            endpoint, instance_id = key
            worker = self._owner(instance_id, found[key]) or ""
            if not worker:
                self._nameless[key] = at
            if worker or key in new:
                kept[key] = canonical({"endpoint": endpoint, "instance_id": instance_id, "worker": worker})
                rows.append(self._row(at, kept[key], 1))
        self._now = kept
        return rows

    def _row(self, t_ns: int, labels: str, value: float) -> Sample:
        return Sample(t_ns, self._process, METRIC, labels, value)


def _instances(body: Any) -> dict[tuple[str, str], Any] | None:
    """(endpoint, instance id) to transport, None when the body has no list of instances."""
    listed = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        return None
    found = {}
    for one in listed:
        if isinstance(one, dict) and "instance_id" in one:
            key = (str(one.get("endpoint", "")), str(one["instance_id"]))
            found[key] = one.get("transport")
    return found
