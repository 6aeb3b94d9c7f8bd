"""Faults in the witness engine: one for each kind of lie that it tells on demand (witness/lies.py).

All but `die` are one dataclass with another kind: a rule with a tag is added to the engine's own ones
and taken back by the tag, so that what the scenario made it tell (`misbehave`) goes on unharmed. Proof
is the engine's own counter of that rule, read anew. Lies are violations in a fault's window as
elsewhere: each kind is the negative control of a check, and the run that has it fails.
"""

# ruff: noqa: ARG001 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

from faults import undo as undo_ops
from faults.ports import EngineControl, Evidence, Fault, Ports, Target, Undo
from faults.serving import await_serving
from harness.core import clock, ids
from harness.core.errors import FaultError

DIED = 1  # exit code of an engine that was told to die
_LOOK_S = 0.02
_WHEN = """
one_in: every N-th token (or request) of this engine; at_token: token k of every request. One of the
two. Requests that run at the injection count as if they began with their next token. It must happen
within_s after the injection, else the fault had no effect and the run is invalid."""
_BACK = "\n\nUndone after hold_s: the rule is taken back, the engine's other rules stay."

LIES = {
    "drop": "A token gets lost; those behind it move up.",
    "repeat": "A token comes twice.",
    "swap": "Two neighbouring tokens change places.",
    "corrupt": "A token becomes a word that is in nobody's answer.",
    "cross": "A token comes from another request's answer.",
    "end_early": "A stream ends without a finish reason: at token k, or halfway.",
    "hang": "A stream falls silent after token k, or halfway, with the connection open."
    "\n\nWith `canaries: true` canaries get no answer either; with `one_in: 1`, too, the whole engine is"
    "\nstuck: no request gets another token."
    "\n\nUndone, it goes on where it stopped, unless client or frontend have given it up before.",
    "first_then_silence": "A request gets its first token and then silence."
    "\n\nUndone, it goes on, unless client or frontend have given it up before.",
    "slow": "A stream takes ten times as long for each token: from token k on, or from its next one."
    "\n\nUndone, it goes on at its own pace.",
    "naive_usage": "A migrated request reports prompt + answer so far as its prompt's length. "
    "Needs something that makes streams migrate.",
    "raise": "The engine raises an error in the middle of a stream: at token k, or halfway.",
}


def _check(fault: Any) -> None:
    """The dataclasses' __post_init__. Raises ValueError."""
    given = [value for value in (fault.one_in, fault.at_token) if value is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of one_in and at_token, got {len(given)} of them")
    if given[0] < (1 if fault.one_in is not None else 0):
        raise ValueError(f"one_in is 1 or more, at_token 0 or more, got {given[0]}")
    for name in ("hold_s", "restart_after_s", "within_s"):
        value = getattr(fault, name, None)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more seconds, got {value}")


def _prepare(self: Any, p: Ports, t: Target) -> Undo:
    tag = ids.token()
    op = _engines(p).withdrawal(t, tag)
    found = p.processes.find(t)
    if not found.tree:
        raise FaultError(f"{t.name} (pid {found.identity.pid}) is not there any more")
    return Undo((op,), found.identity, {"tag": tag}, self.within_s)


def _inject(self: Any, p: Ports, t: Target, undo: Undo) -> None:
    rule = {"kind": self.kind, "one_in": self.one_in, "at_token": self.at_token}
    rule["canaries"] = getattr(self, "canaries", None) or None
    given = {name: value for name, value in rule.items() if value is not None}
    _engines(p).tell(t, undo.identity, undo.saved["tag"], given)


def _verify(self: Any, p: Ports, t: Target, undo: Undo) -> Evidence:
    """The engine's own count of this lie, asked for anew on its control socket, grows within within_s."""

    def seen() -> Evidence | None:
        told = _engines(p).told(t, undo.saved["tag"])
        if told is None or told.first_ns is None:
            return None
        proof = f"by the engine's own count it told the lie {self.kind!r} {told.count} times by now"
        return Evidence(proof, told.first_ns, {"lies": told.count})

    found = _watch(self, p, t, seen)
    if found is None:
        raise FaultError(
            f"{t.name}: by its own count the engine did not {self.kind} within {self.within_s:g} s (within_s): "
            f"no request came to it, or none that fits {_when(self)}"
        )
    return found


def _recover(self: Any, p: Ports, t: Target, undo: Undo) -> None:
    """The rule is taken back by its tag; the scenario's own rules stay, streams that it held go on."""
    undo_ops.apply(undo.ops)


def _verify_recovered(self: Any, p: Ports, t: Target, undo: Undo) -> Evidence:
    """The engine, asked anew, has the rule no more; runs, healthy, listed by the frontends, took a request."""
    told = _engines(p).told(t, undo.saved["tag"])
    if told is not None and told.in_force:
        raise FaultError(f"{t.name}: its engine is still told to {self.kind}")
    gone_ns = clock.now_ns()
    back = await_serving(p, t, gone_when="running")
    lies = 0 if told is None else told.count
    proof = f"the rule is taken back, after {lies} lies by the engine's own count; {back.proof}"
    return Evidence(proof, gone_ns, {**back.facts, "lies": lies})


def _prepare_die(self: Any, p: Ports, t: Target) -> Undo:
    undo, found = _prepare(self, p, t), p.processes.find(t)
    ops = [*undo.ops, *([found.respawn] if found.respawn is not None else [])]
    return Undo(tuple(ops), undo.identity, undo.saved, undo.effect_s)


def _verify_die(self: Any, p: Ports, t: Target, undo: Undo) -> Evidence:
    """/proc: pid and start time are gone, exit code 1; the engine's log says that it died of this fault."""
    who, tag = undo.identity, undo.saved["tag"]

    def gone() -> Evidence | None:
        if p.processes.stat(who) is not None:
            return None
        return Evidence(f"pid {who.pid} (start {who.start_ticks}) is gone", clock.now_ns())

    found = _watch(self, p, t, gone)
    if found is None:
        raise FaultError(
            f"{t.name}: pid {who.pid} still lives {self.within_s:g} s (within_s) after it was told to die: "
            f"no request came to it, or none that fits {_when(self)}"
        )
    code = p.processes.exit_code(who)
    if not _engines(p).wrote(t, tag) or code not in (None, DIED):
        raise FaultError(f"{t.name}: pid {who.pid} is gone (exit code {code}), but not because of this fault")
    ended = "its exit code is unknown" if code is None else f"exit code {code}"
    return Evidence(
        f"{found.proof}; {ended}; its log says that it died of this", found.at_ns, {"exit_code": code}
    )


def _recover_die(self: Any, p: Ports, t: Target, undo: Undo) -> None:
    """Started again with the same command and environment."""
    undo_ops.apply(undo.ops[:1])
    for op in undo.ops[1:]:
        p.processes.respawn(op)


def _verify_recovered_die(self: Any, p: Ports, t: Target, undo: Undo) -> Evidence:
    """Runs, healthy, listed by the frontends, took a request."""
    if p.processes.stat(undo.identity) is not None:  # it never died, and may not do it later
        _verify_recovered(self, p, t, undo)
    back = await_serving(p, t, gone_when="ready")
    who = p.processes.find(t).identity
    return Evidence(back.proof, back.at_ns, {**back.facts, "pid": who.pid, "start_ticks": who.start_ticks})


def _watch(fault: Any, p: Ports, t: Target, look: Any) -> Evidence | None:
    """What `look` sees within within_s, None when it sees nothing."""
    end = clock.now_ns() + int(fault.within_s * clock.NS)
    while True:
        found: Evidence | None = look()
        if found is not None or clock.now_ns() >= end:
            return found
        if p.rest(_LOOK_S):
            raise FaultError(f"{t.name}: the run was stopped before its engine could {fault.kind}")


def _when(fault: Any) -> str:
    return f"one_in: {fault.one_in}" if fault.one_in is not None else f"at_token: {fault.at_token}"


def _engines(p: Ports) -> EngineControl:
    if p.engines is None:
        raise FaultError("this system has no witness engines")
    return p.engines


_VERBS = {
    "prepare": _prepare, "inject": _inject, "verify": _verify, "recover": _recover,
    "verify_recovered": _verify_recovered,
}  # fmt: skip
_DIE_VERBS = {
    "prepare": _prepare_die, "inject": _inject, "verify": _verify_die, "recover": _recover_die,
    "verify_recovered": _verify_recovered_die,
}  # fmt: skip


def _made(kind: str, doc: str, fields: list[Any], needs: set[str], verbs: dict[str, Any]) -> type[Fault]:
    """The fault of one kind of lie, as a frozen dataclass."""
    space = {**verbs, "kind": kind, "needs": frozenset(needs), "__post_init__": _check, "__module__": __name__,
             "__doc__": f"{doc}\n{_WHEN}"}  # fmt: skip
    name = "".join(part.capitalize() for part in kind.split("_"))
    return cast("type[Fault]", dataclasses.make_dataclass(name, fields, namespace=space, frozen=True))


_RULE: list[Any] = [
    ("one_in", "int | None", None),
    ("at_token", "int | None", None),
    ("within_s", "float", 10.0),
]
_MORE: dict[str, list[Any]] = {"hang": [("canaries", "bool", False)]}
_DIE = (
    "The engine's process ends itself (exit code 1): at token k of a request, or halfway."
    "\n\nStarted again restart_after_s after it is gone; hold_s means the same. With neither it stays dead."
)

FAULTS: dict[str, type[Fault]] = {
    **{
        f"engine.{kind}": _made(kind, doc + ("" if "Undone" in doc else _BACK), [("hold_s", "float"), *_RULE, *_MORE.get(kind, [])],
                                {"engines"}, _VERBS)
        for kind, doc in LIES.items()
    },
    "engine.die": _made("die", _DIE, [("restart_after_s", "float | None", None), ("hold_s", "float | None", None), *_RULE],
                        {"engines", "processes"}, _DIE_VERBS),
}  # fmt: skip

COMPATIBLE = frozenset(frozenset({f"engine.{a}", f"engine.{b}"}) for a in LIES for b in LIES)
"""Lies don't undo each other: each has a rule of its own."""
