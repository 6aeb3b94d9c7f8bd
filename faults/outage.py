"""One deed done to one server or to several of them, as one fault: what the faults on the control plane share.

The deeds are those of faults/process.py; the proofs on top are what the servers say of themselves and
of each other. `saved` holds who was struck, each one's own undo, and who was well before. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from faults.ports import Evidence, Ports, Target, Undo, named
from faults.process import Kill, Pause
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import Identity

Action = Literal["kill", "pause"]
Further = Callable[[Ports, Target, Undo], tuple[str, dict[str, Any]]]

ETCD, NATS = "etcd", "nats"
ELECTION_S = 10.0  # an election takes 1 to 2 s; split votes repeat it
_DEEDS: Mapping[str, Kill | Pause] = {"kill": Kill(), "pause": Pause(hold_s=0)}  # the scheduler holds


def check(action: Action, restart_after_s: float | None, hold_s: float | None) -> None:
    """Raise ValueError for parameters that don't fit."""
    check_seconds(restart_after_s=restart_after_s, hold_s=hold_s)
    if action != "kill" and restart_after_s is not None:
        raise ValueError(f"restart_after_s is for `action: kill`; with `action: {action}` write hold_s")


def prepare(p: Ports, t: Target, action: Action, victims: Sequence[Target]) -> Undo:
    """The deed's undo for each victim, in one; and what was well before."""
    if not victims:
        raise FaultError(f"{t.name}: there is no target of role {t.role!r}")
    parts: list[dict[str, Any]] = []
    ops: list[Mapping[str, Any]] = []
    for one in victims:
        with _meaning(t, one):
            made = _DEEDS[action].prepare(p, one)
        saved = dict(made.saved)
        parts.append(
            {"name": one.name, "identity": list(made.identity), "saved": saved, "ops": len(made.ops)}
        )
        ops += made.ops
    views = {one.name: p.plane.view(one) for one in p.plane.servers(t.role)}
    well = [name for name, view in views.items() if view is not None and view.healthy]
    clients = {name for one in victims if (view := views.get(one.name)) for name in view.clients}
    saved = {
        "target": victims[0].name, "members": [one.name for one in victims], "parts": parts, "well": well,
        "clients": sorted(clients),
    }  # fmt: skip
    effect_s = EFFECT_S * (len(victims) + 1) + ELECTION_S
    return Undo(tuple(ops), Identity(*parts[0]["identity"]), saved, effect_s)


def _parts(undo: Undo) -> Iterator[tuple[Target, Undo]]:
    """Each victim with the deed's own undo."""
    at = 0
    for one in undo.saved["parts"]:
        ops = undo.ops[at : at + int(one["ops"])]
        at += len(ops)
        yield named(one["name"]), Undo(ops, Identity(*one["identity"]), one["saved"])


def inject(p: Ports, t: Target, action: Action, undo: Undo) -> None:
    """Each victim at once after the other."""
    for one, made in _parts(undo):
        with _meaning(t, one):
            _DEEDS[action].inject(p, one, made)


def verify(
    p: Ports, t: Target, action: Action, undo: Undo,
    further: Further | None = None,
) -> Evidence:  # fmt: skip
    """Each deed's own proof, silence, and what `further` adds. Raises FaultError."""
    seen: list[Evidence] = []
    for one, made in _parts(undo):
        with _meaning(t, one):
            seen.append(_DEEDS[action].verify(p, one, made))
            if not clock.wait_until(lambda one=one: p.plane.view(one) is None, EFFECT_S, LOOK_S):  # type: ignore[misc]
                raise FaultError(f"{one.name}: it still answers")
    names = undo.saved["members"]
    proofs = [f"{name}: {one.proof}, and it answers nobody" for name, one in zip(names, seen, strict=True)]
    facts: dict[str, Any] = {"members": names}
    if further is not None:
        proof, more = further(p, t, undo)
        proofs.append(proof)
        facts |= more
    return Evidence("; ".join(proofs), max(one.at_ns for one in seen), facts)


def recover(p: Ports, t: Target, action: Action, undo: Undo) -> None:
    """Undo each deed."""
    for one, made in _parts(undo):
        with _meaning(t, one):
            _DEEDS[action].recover(p, one, made)


def verify_recovered(p: Ports, t: Target, action: Action, undo: Undo) -> Evidence:
    """Each serves again, and together they are whole: the cluster, or the clients. Raises FaultError."""
    seen = []
    for one, made in _parts(undo):
        with _meaning(t, one):
            seen.append(_DEEDS[action].verify_recovered(p, one, made))
    problems: list[str] = []

    def whole() -> bool:
        problems[:] = _cluster_problems(p, undo) if t.role == ETCD else _client_problems(p, undo)
        return not problems

    if not clock.wait_until(whole, p.recover_timeout_s, LOOK_S * 5):
        raise FaultError(f"{t.name}: not whole {p.recover_timeout_s:g} s after undo: {'; '.join(problems)}")
    now_ns = clock.now_ns()
    if t.role == ETCD:
        view = p.plane.view(named(str(undo.saved["target"])))
        proof = f"{', '.join(undo.saved['well'])} healthy, {view.leader if view else 'nobody'} leads"
    else:
        proof = f"connected again: {', '.join(undo.saved['clients']) or 'nobody was before'}"
    facts = {"members": undo.saved["members"], "whole_ns": now_ns}
    first = seen[0].facts
    facts |= {key: first[key] for key in ("running_ns", "ready_ns", "took_request") if key in first}
    return Evidence(f"{seen[0].proof}; {proof}", max(one.at_ns for one in seen), facts)


def _cluster_problems(p: Ports, undo: Undo) -> list[str]:
    """What keeps the cluster from being whole: of the victims, and of those that were well before and live."""
    everyone = {one.name for one in p.plane.servers(ETCD)}
    problems = []
    victims = undo.saved["members"]
    others = [name for name in undo.saved["well"] if name not in victims and _lives(p, named(name))]
    for name in [*victims, *others]:
        view = p.plane.view(named(name))
        if view is None or not view.healthy:
            problems.append(f"{name} {'does not answer' if view is None else 'is not healthy'}")
        elif view.members != everyone:
            problems.append(f"{name} lists {', '.join(sorted(view.members)) or 'no members'}")
        elif view.leader is None:
            problems.append(f"{name} knows no leader")
    return problems


def _client_problems(p: Ports, undo: Undo) -> list[str]:
    """Who was connected before and lives, and isn't connected now."""
    name = str(undo.saved["target"])
    view = p.plane.view(named(name))
    if view is None or not view.healthy:
        return [f"{name} {'does not answer' if view is None else 'is not healthy'}"]
    absent = [one for one in undo.saved["clients"] if one not in view.clients and _lives(p, named(one))]
    return [f"{one} is not connected" for one in absent]


def _lives(p: Ports, t: Target) -> bool:
    stat = p.processes.stat(p.processes.find(t).identity)
    return stat is not None and stat.state not in "Tt"


@contextmanager
def _meaning(t: Target, one: Target) -> Iterator[None]:
    """Errors about a member say as which target it was struck."""
    try:
        yield
    except FaultError as error:
        if t == one:
            raise
        raise FaultError(f"{t.name} is {error}") from None
