"""The journal as fault events: one for each fault on each target, with its measured times.

Knows the evidence keys of the fault engine and what to take when they are absent. Not what a window
or a metric is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.core.records import JournalLine
from harness.stats.analysis import FaultEvent

SUDDEN = frozenset({"process.kill", "engine.die"})
"""Faults that end a process without a last word: its segments have no end."""

SERVERS = frozenset(f"control_plane.{one}" for one in ("etcd_leader", "etcd_member", "etcd_all", "nats"))

RESTARTING = SUDDEN | SERVERS | {"process.terminate", "process.crashloop"}
"""Faults that take a process away: they last until the end of the restart."""


def events(journal: Iterable[JournalLine]) -> tuple[FaultEvent, ...]:
    """One event for each (fault id, target), by time of intent.

    effective = verified's effective_ns, else injected's time. gone = recovered's gone_ns, else
    recovering's time (for RESTARTING faults recovered's time).
    """
    chains: dict[tuple[str, str], list[JournalLine]] = {}
    for line in journal:
        chains.setdefault((line.fault_id, line.target), []).append(line)
    found = [_event(fault_id, target, chain) for (fault_id, target), chain in chains.items()]
    return tuple(sorted(found, key=lambda e: (e.intent_ns or 0, e.fault_id, e.target)))


def of_id(found: Sequence[FaultEvent], fault_id: str) -> tuple[FaultEvent, ...]:
    """Events of one fault id that took effect."""
    return tuple(e for e in found if e.fault_id == fault_id and e.effective_ns is not None)


def fault_ids(found: Sequence[FaultEvent]) -> tuple[str, ...]:
    """Ids of faults that took effect, in order."""
    return tuple(dict.fromkeys(e.fault_id for e in found if e.effective_ns is not None))


def _event(fault_id: str, target: str, chain: list[JournalLine]) -> FaultEvent:
    first: dict[str, JournalLine] = {}
    last: dict[str, JournalLine] = {}
    for line in chain:
        first.setdefault(line.phase, line)
        last[line.phase] = line
    fault = next((line.fault for line in chain if line.fault), "")
    intent, injected, verified = first.get("intent"), first.get("injected"), first.get("verified")
    recovering, recovered, failed = first.get("recovering"), last.get("recovered"), last.get("failed")
    undo_ns = _t(recovering)
    gone_ns = _int(recovered, "gone_ns")
    if gone_ns is None:
        gone_ns = _t(recovered) if fault in RESTARTING or undo_ns is None else undo_ns
    effective_ns = _int(verified, "effective_ns")
    failed_recovering = (
        failed is not None
        and recovering is not None
        and failed.seq > recovering.seq
        and (recovered is None or recovered.seq < failed.seq)
    )
    return FaultEvent(
        fault_id=fault_id,
        fault=fault,
        target=target,
        intent_ns=_t(intent) if intent else chain[0].t_ns,
        requested_ns=_int(injected, "held_ns") or _int(intent, "requested_ns") or _t(intent),
        injected_ns=_t(injected),
        effective_ns=effective_ns if effective_ns is not None else _t(injected),
        undo_requested_ns=undo_ns,
        gone_ns=gone_ns,
        recovered_ns=_t(recovered),
        end_ns=gone_ns if fault in RESTARTING or undo_ns is None else undo_ns,
        verified=verified is not None,
        recovered=recovered is not None and not failed_recovering,
        recovered_by=(_text(recovered, "recovered_by") or "undo") if recovered else None,
        proof=_text(verified, "proof"),
        recovered_proof=_text(recovered, "proof"),
        error=failed.error if failed else next((x.error for x in chain if x.error), None),
        failed_recovering=failed_recovering,
        took_request=_flag(recovered, "took_request"),
        members=_names(intent, "members"),
    )


def _t(line: JournalLine | None) -> int | None:
    return None if line is None else line.t_ns


def _evidence(line: JournalLine | None) -> Mapping[str, object]:
    return line.evidence if line is not None and isinstance(line.evidence, dict) else {}


def _int(line: JournalLine | None, key: str) -> int | None:
    value = _evidence(line).get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(line: JournalLine | None, key: str) -> bool | None:
    value = _evidence(line).get(key)
    return value if isinstance(value, bool) else None


def _names(line: JournalLine | None, key: str) -> tuple[str, ...]:
    value = _evidence(line).get(key)
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _text(line: JournalLine | None, key: str) -> str | None:
    value = _evidence(line).get(key)
    return None if value is None else str(value)
