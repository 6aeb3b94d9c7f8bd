"""Evidence of process.terminate to a table of phases: what was seen of a drain, and when.

Times are seconds after the signal. Formats nothing but words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.core.clock import NS
from harness.core.records import JournalLine
from reports.data import Drain, Phase

FAULT = "process.terminate"


def build(journal: Iterable[JournalLine], fault_id: str) -> list[Drain]:
    """One for each target whose drain was watched to its end."""
    return [
        _drain(line.target, line.evidence)
        for line in journal
        if line.fault_id == fault_id and line.fault == FAULT and line.phase == "verified" and line.evidence
    ]


def _drain(target: str, seen: Mapping[str, Any]) -> Drain:
    grace_s, drain_s = _number(seen.get("grace_period_s")), _number(seen.get("drain_s"))
    return Drain(
        target=target,
        signal=f"SIG{seen.get('signal', 'TERM')}",
        grace_s=grace_s,
        drain_s=drain_s,
        phases=[one for one in _phases(seen, grace_s, drain_s) if one is not None],
    )


def _phases(seen: Mapping[str, Any], grace_s: float | None, drain_s: float | None) -> list[Phase | None]:
    code, leftovers = seen.get("exit_code"), seen.get("leftovers") or []
    exit_note = "exit code unknown" if code is None else f"exit code {code}"
    if seen.get("escalated"):
        exit_note = "ended by SIGKILL: it didn't exit in time"
    elif grace_s is not None and drain_s is not None:
        side = "after" if drain_s > grace_s else "before"
        exit_note += f"; {abs(drain_s - grace_s):.2f} s {side} the end of its grace period of {grace_s:g} s"
    left = f"{len(leftovers)} ended by SIGKILL: {', '.join(map(str, leftovers))}" if leftovers else "none"
    return [
        _phase(seen, "no longer listed", "deregistered_ns", _each(seen.get("deregistered_s"))),
        _phase(seen, "listed by no frontend", "deregistered_everywhere_ns"),
        _phase(seen, "/health no longer 200", "health_red_ns", _live(seen)),
        _phase(seen, "last request taken", "last_request_ns", _count(seen, "requests_after", "taken")),
        _phase(seen, "last token made", "last_token_ns", _count(seen, "tokens_after", "made")),
        _phase(seen, "a port refuses", "refused_ns", _each(seen.get("refuses_s"), "port ")),
        _phase(seen, "signalled again", "again_ns") if seen.get("again_ns") is not None else None,
        Phase(name="in flight", note=_in_flight(seen)),
        _phase(seen, "exit", "exit_ns", exit_note),
        Phase(name="processes left behind", note=left),
    ]


def _phase(seen: Mapping[str, Any], name: str, key: str, note: str = "") -> Phase:
    at, began = seen.get(key), seen.get("watched_from_ns")
    known = isinstance(at, int) and isinstance(began, int)
    return Phase(name=name, at_s=round((at - began) / NS, 3) if known else None, note=note)  # type: ignore[operator]


def _live(seen: Mapping[str, Any]) -> str:
    if seen.get("live_while_red") is None:
        return ""
    return "/live still 200" if seen["live_while_red"] else "/live neither"


def _count(seen: Mapping[str, Any], key: str, done: str) -> str:
    value = _number(seen.get(key))
    if value is None:
        return "unknown: no counter"
    return f"{value:.0f} {done} after the signal" if value else f"none {done} after the signal"


def _in_flight(seen: Mapping[str, Any]) -> str:
    first, last = _number(seen.get("in_flight_at_signal")), _number(seen.get("in_flight_at_last_look"))
    if first is None or last is None:
        return "unknown: no counter"
    return f"{first:.0f} at the signal, {last:.0f} at the last look before the end"


def _each(times: Any, prefix: str = "") -> str:
    """`frontend-1 0.05 s, frontend-2 0.06 s`."""
    if not isinstance(times, dict):
        return ""
    return ", ".join(f"{prefix}{name} {at:.2f} s" for name, at in times.items())


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
