"""The process tree that a fault acts on: found, watched, and started again when the fault ended it.

Shared by the faults on processes. Knows no fault, no platform, no journal. Standard library only.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any

from faults.ports import Evidence, Found, Ports, Target, Undo, tree_of, tree_plain
from faults.serving import await_serving
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import Identity

EFFECT_S = 3.0  # a KILL or a STOP that isn't seen by then didn't reach the target
LOOK_S = 0.02


def check_seconds(**values: float | None) -> None:
    """Raise ValueError for a parameter that can't be a length of time."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more seconds, got {value}")


def find(p: Ports, t: Target) -> Found:
    """Who the target is. Raises FaultError when it is gone."""
    found = p.processes.find(t)
    if not found.tree:
        raise FaultError(f"{t.name} (pid {found.identity.pid}) is not there any more")
    return found


def prepare_end(p: Ports, t: Target, stop: bool, effect_s: float = EFFECT_S) -> Undo:
    """Undo of a fault that ends the process: start it again, if that is ours to do."""
    found = find(p, t)
    accepting = [port for port in found.ports if not p.processes.refuses(t, port)]
    saved: dict[str, Any] = {"tree": tree_plain(found.tree), "ports": accepting}
    if found.respawn is None:
        saved["note"] = "a process of an outside system: squall can't start it again"
        return Undo((), found.identity, saved, effect_s)
    return Undo(({**found.respawn, "stop": stop},), found.identity, saved, effect_s)


def start_again(p: Ports, undo: Undo) -> None:
    """Carry out the undo of `prepare_end`."""
    for op in undo.ops:
        p.processes.respawn(op)


def verify_started(p: Ports, t: Target, undo: Undo) -> Evidence:
    """It serves again, and who it is now. Raises FaultError."""
    if not undo.ops:
        return Evidence(f"nothing to undo: {undo.saved['note']}", clock.now_ns(), {"recovered_by": "nobody"})
    evidence = await_serving(p, t, gone_when="ready")
    who = p.processes.find(t).identity
    return Evidence(
        evidence.proof, evidence.at_ns, {**evidence.facts, "pid": who.pid, "start_ticks": who.start_ticks}
    )


def kill(p: Ports, who: Identity, known: Sequence[Identity] = ()) -> tuple[list[Identity], int]:
    """SIGKILL to a process and its whole tree: who was struck (nobody: it was gone), and when (CLOCK_MONOTONIC ns).

    Where there are children, everybody is stopped first and looked at until nobody new appears: a child
    that is made while its parent dies belongs to init afterwards, and nobody finds it any more. One
    without children isn't: requests that reach it while it is stopped would be nobody's. `known`: who
    else belongs to it.
    """
    others = [one for one in dict.fromkeys((*p.processes.tree(who), *known)) if one != who]
    at_ns = clock.now_ns()
    if not p.processes.signal(who, signal.SIGSTOP if others else signal.SIGKILL):
        return [], at_ns
    struck, new = [who], others
    while new:
        for one in new:
            p.processes.signal(one, signal.SIGSTOP)
        struck += new
        clock.wait_until(partial(_still, p, tuple(struck)), EFFECT_S, LOOK_S / 20)
        new = [one for one in p.processes.tree(who) if one not in struck]
    for one in struck:
        p.processes.signal(one, signal.SIGKILL)
    return struck, at_ns


def strike(p: Ports, t: Target, undo: Undo) -> int:
    """Kill the target as it was at `prepare`; CLOCK_MONOTONIC ns just before. Raises FaultError when it is gone."""
    struck, at_ns = kill(p, undo.identity, members(undo))
    if not struck:
        raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
    return at_ns


def _still(p: Ports, who: Sequence[Identity]) -> bool:
    return not moving(p, who)


def members(undo: Undo) -> list[Identity]:
    """The tree as it was at `prepare`, parents first."""
    return tree_of(undo.saved["tree"])


def living(p: Ports, tree: Sequence[Identity]) -> list[Identity]:
    """Those that are still there."""
    return [one for one in tree if p.processes.stat(one) is not None]


def moving(p: Ports, tree: Sequence[Identity]) -> list[Identity]:
    """Those that live and aren't stopped."""
    stats = [(one, p.processes.stat(one)) for one in tree]
    return [one for one, stat in stats if stat is not None and stat.state not in "Tt"]


def ticks(p: Ports, tree: Sequence[Identity]) -> dict[int, int]:
    """CPU ticks so far, of each one that lives."""
    stats = [(one.pid, p.processes.stat(one)) for one in tree]
    return {pid: stat.cpu_ticks for pid, stat in stats if stat is not None}


def pids(who: Sequence[Identity]) -> str:
    """For messages."""
    return ", ".join(str(one.pid) for one in who)
