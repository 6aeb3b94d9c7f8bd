"""Analysis to one Fault card each: what was done, the proof, who felt it, what became of each stream.

Secrets of the journal (environments, tokens) never get into a report.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.core.clock import NS
from harness.core.config import Step
from harness.core.records import JournalLine
from harness.stats.analysis import FATES, Analysis, FaultEvent, LedgerEntry
from reports import drains, text
from reports.data import MAX_IDS, Fate, Fault, FaultOnTarget, Proof

MAX_LEDGER_IDS = 200  # per fate, with at most FEW_FAULTS; else MAX_IDS. The count stays exact
FEW_FAULTS = 10
HIDDEN = "(hidden)"
_SECRET = ("env", "token", "secret", "password", "authorization", "headers", "api_key", "credential")


def build(analysis: Analysis) -> list[Fault]:
    """A card for each fault that was planned or that the journal knows, in order of time."""
    ids = list(dict.fromkeys(event.fault_id for event in analysis.events))
    ids += [step.id for step in analysis.data.scenario.faults if step.id not in ids]
    limit = MAX_LEDGER_IDS if len(ids) <= FEW_FAULTS else MAX_IDS
    return [_fault(analysis, fault_id, limit) for fault_id in ids]


def _fault(analysis: Analysis, fault_id: str, max_ids: int) -> Fault:
    events = [event for event in analysis.events if event.fault_id == fault_id]
    step = step_of(analysis.data.scenario.faults, fault_id)
    name = events[0].fault if events else (step.fault if step else "")
    ledger = [entry for entry in analysis.ledger if entry.fault_id == fault_id]
    service = analysis.services.get(fault_id)
    in_flight = _in_flight(ledger)
    felt, felt_by = _felt(analysis, fault_id, in_flight)
    return Fault(
        fault_id=fault_id,
        fault=name,
        what=what(name, [event.target for event in events], step),
        parameters=_parameters(step),
        targets=[_on_target(analysis, event) for event in events],
        detect_s=service.detect_s if service else None,
        mitigate_s=service.mitigate_s if service else None,
        recover_s=service.recover_s if service else None,
        recover_never=service is not None and service.recover_s is None and service.recover_known,
        recover_note=service.recover_note if service else "",
        silent_s=service.silent_s if service else None,
        silent_all_s=service.silent_all_s if service else None,
        **(dataclasses.asdict(service.readiness) if service else {}),
        in_flight=in_flight,
        fates=_fates(ledger, max_ids),
        drains=drains.build(analysis.data.journal, fault_id),
        felt=felt,
        felt_by=felt_by,
        ledger_note=_ledger_note(ledger),
    )


def step_of(steps: Sequence[Step], fault_id: str) -> Step | None:
    """The step of a fault id; repeated ones are called `kill`, `kill-2`, ..."""
    by_id = {step.id: step for step in steps}
    base, _, number = fault_id.rpartition("-")
    return by_id.get(fault_id) or (by_id.get(base) if number.isdigit() else None)


def what(fault: str, targets: Sequence[str], step: Step | None) -> str:
    """What the fault does, in a sentence."""
    params = dict(step.params) if step else {}
    chosen = step.select if step else None
    who = ", ".join(targets) or (f"{chosen.count} of role {chosen.role}" if chosen else "its target")
    hold_s = step.hold_s if step else None
    back_s = params.get("restart_after_s", hold_s)
    back = f", started again {back_s:g} s after it was gone" if isinstance(back_s, int | float) else ""
    if fault == "process.kill":
        return f"SIGKILL to the process tree of {who}{back}."
    if fault == "process.terminate":
        again_s = params.get("again_after_s")
        again = f", again after {again_s:g} s" if isinstance(again_s, int | float) else ""
        return f"SIG{params.get('signal', 'TERM')} to {who}{again}, its drain watched{back}."
    if fault == "process.pause":
        held = f" for {hold_s:g} s, then SIGCONT" if hold_s is not None else ""
        return f"SIGSTOP to {who}{held}."
    if fault == "process.slow":
        return f"{who} held to {params.get('cpu_ratio', 0.2):g} of a core" + _held(hold_s)
    if fault == "process.memory":
        return f"{who} allowed {params.get('headroom_mib', 16):g} MiB more memory" + _held(hold_s)
    if fault == "process.crashloop":
        return f"{who} killed {params.get('times', 3)} times, each time it came back."
    if fault.startswith("engine."):
        often = f"one in {params['one_in']}" if "one_in" in params else f"at token {params.get('at_token')}"
        held = f" for {hold_s:g} s" if hold_s is not None and fault != "engine.die" else ""
        return f"The engine of {who} was told to lie: {fault.removeprefix('engine.')}, {often}{held}{back if not held else ''}."
    return f"{fault or 'A fault'} on {who}" + (f" for {hold_s:g} s." if hold_s is not None else ".")


def _held(hold_s: float | None) -> str:
    return f" for {hold_s:g} s." if hold_s is not None else "."


def _parameters(step: Step | None) -> dict[str, object]:
    if step is None:
        return {}
    tree: dict[str, Any] = msgspec.to_builtins(step)
    tree.update(tree.pop("params"))
    return {key: hide(value, key) for key, value in tree.items() if value is not None}


def _on_target(analysis: Analysis, event: FaultEvent) -> FaultOnTarget:
    lines = {
        line.phase: line
        for line in analysis.data.journal
        if line.fault_id == event.fault_id and line.target == event.target
    }
    began = event.intent_ns is not None or bool(lines)
    return FaultOnTarget(
        target=event.target,
        identity=_identity(lines.get("intent")),
        undo=hide(dict(lines["intent"].undo)) if "intent" in lines and lines["intent"].undo else None,
        requested_s=_seconds(event.requested_ns),
        effective_s=_seconds(event.effective_ns),
        undo_requested_s=_seconds(event.undo_requested_ns),
        gone_s=_seconds(event.gone_ns),
        recovered_s=_seconds(event.recovered_ns),
        verified=_known(event.verified, failed=event.error is not None, began=began),
        recovered=_known(event.recovered, failed=event.failed_recovering, began=began),
        recovered_by=event.recovered_by,
        error=event.error,
        proofs=[
            Proof(ring="It took effect", text=event.proof or "",
                  ok=_known(event.verified, failed=event.error is not None, began=began),
                  evidence=_evidence(lines.get("verified"))),
            Proof(ring="Undone and serving again", text=event.recovered_proof or "",
                  ok=_known(event.recovered, failed=event.failed_recovering, began=began),
                  evidence=_evidence(lines.get("recovered"))),
        ],
    )  # fmt: skip


def _known(yes: bool, failed: bool, began: bool) -> bool | None:
    """True, False when it is known to have failed, None when nobody can tell."""
    return True if yes else (False if failed and began else None)


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / NS


def _identity(line: JournalLine | None) -> str | None:
    """The target's process as it was, from the intent's evidence."""
    found = (line.evidence or {}).get("identity") if line else None
    if isinstance(found, dict) and "pid" in found:
        return f"pid {found['pid']}"
    if isinstance(found, list | tuple) and found:
        return f"pid {found[0]}"
    return None if found is None else text.shorten(str(found), 60)


def _evidence(line: JournalLine | None) -> dict[str, object]:
    found: dict[str, object] = hide(dict(line.evidence)) if line and line.evidence else {}
    return {key: value for key, value in found.items() if key != "proof"}


def hide(value: Any, key: str = "") -> Any:
    """`value` with everything that may hold a secret replaced."""
    low = key.lower()
    if any(low == word or (word != "env" and word in low) for word in _SECRET):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(name): hide(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [hide(one) for one in value]
    return value


def _in_flight(ledger: Sequence[LedgerEntry]) -> int | None:
    """Streams in flight on all targets; None when one of them is unknown."""
    counts = [entry.in_flight for entry in ledger]
    return None if not counts or None in counts else sum(n for n in counts if n is not None)


def _fates(ledger: Sequence[LedgerEntry], max_ids: int) -> list[Fate]:
    """Fates over all targets, in the ledger's order; only those that occurred."""
    ids = {name: [one for entry in ledger for one in entry.fates.get(name, ())] for name in FATES}
    times = {name: n for entry in ledger for name, n in entry.migrated.items()}
    return [
        Fate(fate=name, count=len(found), request_ids=found[:max_ids], migrated=_times(found, times))
        for name, found in ids.items()
        if found
    ]


def _times(found: Sequence[str], times: Mapping[str, int]) -> dict[str, int]:
    """How many of these streams migrated how often, by number of times; empty when one is unknown."""
    counts = Counter(times[name] for name in found if name in times)
    return {str(n): counts[n] for n in sorted(counts)} if counts.total() == len(found) else {}


def _felt(analysis: Analysis, fault_id: str, in_flight: int | None) -> tuple[str, int | None]:
    """The third ring of proof in words, and how many clients it reached."""
    loss = next((one for one in analysis.losses if one.fault_id == fault_id), None)
    window = analysis.metrics.get(f"fault:{fault_id}", {})
    parts = []
    if in_flight is not None:
        parts.append(f"{in_flight:,} streams were in flight on it")
    if loss is not None:
        parts.append(f"{loss.requests_hurt:,} requests were hurt")
    if (stall_ms := window.get("stall_max_ms")) is not None:
        parts.append(f"the longest silence was {text.number(stall_ms)} ms")
    if in_flight is None and loss is None:
        return "", None
    return "; ".join(parts), max(in_flight or 0, loss.requests_hurt if loss else 0)


def _ledger_note(ledger: Sequence[LedgerEntry]) -> str:
    """Does the SUT's counter agree with the ledger? One sentence per target."""
    notes = []
    for entry in ledger:
        where = f"{entry.target}: " if len(ledger) > 1 else ""
        if not entry.applicable:
            notes.append(f"{where}{entry.why}")
            continue
        if entry.counter_ongoing is None:
            said = "The SUT's migration counter is unknown"
        else:
            said = f"The SUT counted {text.number(entry.counter_ongoing)} migrations of running streams"
        low, high = entry.attempts_low, entry.attempts_high
        if low is not None:
            said += f", the witness's segments allow {low}" + (
                f" to {high}" if high not in (None, low) else ""
            )
        verdict = {True: ": they agree.", False: ": they DISAGREE.", None: "."}[entry.agrees]
        notes.append(where + said + verdict)
        notes += _more_notes(entry)
    return " ".join(notes)


def _more_notes(entry: LedgerEntry) -> list[str]:
    """Requests that were sent again before an engine had them, and streams that were out of migrations."""
    notes = []
    if entry.counter_new or entry.moved or entry.agrees_new is False:
        verdict = {True: ": they agree.", False: ": they DISAGREE.", None: "."}[entry.agrees_new]
        notes.append(
            f"It counted {text.number(entry.counter_new)} of new requests; {len(entry.moved)} moved, "
            f"{len(entry.refused)} were refused{verdict}"
        )
    if entry.exhausted:
        notes.append(
            f"{len(entry.exhausted)} had used up the migrations that the limit allows: {entry.exhausted[0]}"
            + (f" and {len(entry.exhausted) - 1} more." if len(entry.exhausted) > 1 else ".")
        )
    return notes
