"""Faults on processes: kill, terminate, pause. The field names are the YAML parameters.

Owns how each is done, proven, undone and proven undone. Knows no platform, no schedule, no journal.
Standard library only. Seconds in names ending in _s.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from faults import undo as undo_ops
from faults.ports import Evidence, Found, Ports, Target, Undo, tree_of, tree_plain
from faults.serving import await_serving
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import Identity, exit_code

_EFFECT_S = 3.0  # a KILL or a STOP that isn't seen by then didn't reach the target
_FROZEN_S = 0.12  # so long without a CPU tick; a tick is 10 ms
_LEFTOVER_S = 1.0  # children may end so much later than their parent
_LOOK_S = 0.02


def _check_seconds(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more seconds, got {value}")


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the process tree. Started again `restart_after_s` after it is gone.

    hold_s means the same. With neither, the target stays dead until the run ends.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        _check_seconds(restart_after_s=self.restart_after_s, hold_s=self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return _prepare_end(p, t, stop=False)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        if not p.processes.signal(undo.identity, signal.SIGKILL):
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
        for one in _tree(undo):
            p.processes.signal(one, signal.SIGKILL)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        tree, ports = _tree(undo), [int(port) for port in undo.saved["ports"]]
        gone = clock.wait_until(lambda: p.processes.stat(undo.identity) is None, _EFFECT_S, _LOOK_S / 4)
        at_ns = clock.now_ns()
        if not gone:
            raise FaultError(f"{t.name}: pid {undo.identity.pid} still lives {_EFFECT_S:g} s after SIGKILL")
        if not clock.wait_until(lambda: not _living(p, tree), _EFFECT_S, _LOOK_S):
            raise FaultError(f"{t.name}: children still live: {_pids(_living(p, tree))}")
        if not clock.wait_until(lambda: all(p.processes.refuses(t, n) for n in ports), _EFFECT_S, _LOOK_S):
            open_ports = [n for n in ports if not p.processes.refuses(t, n)]
            raise FaultError(f"{t.name}: killed, yet its ports still accept: {open_ports}")
        proof = f"pid {undo.identity.pid} (start {undo.identity.start_ticks}) is gone"
        proof += f"; ports {', '.join(map(str, ports))} refuse" if ports else "; it listened on no port"
        return Evidence(proof, at_ns, {"processes_gone": len(tree)})

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        _start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        return _verify_started(p, t, undo)


@dataclass(frozen=True)
class Terminate:
    """SIGTERM or SIGINT, and a watch over the drain.

    Started again like process.kill: restart_after_s after its first effect, never before its exit.

    A drain that has begun and doesn't end within grace_s is ended by SIGKILL, and said. A target that
    shows no sign of the signal within grace_s is a failed fault.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    signal: Literal["TERM", "INT"] = "TERM"
    restart_after_s: float | None = None
    hold_s: float | None = None
    grace_s: float = 30

    def __post_init__(self) -> None:
        _check_seconds(restart_after_s=self.restart_after_s, hold_s=self.hold_s, grace_s=self.grace_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return _prepare_end(p, t, stop=True)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        if not p.processes.signal(undo.identity, signal.Signals[f"SIG{self.signal}"]):
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        drain = _Drain(clock.now_ns())
        end = drain.watched_from_ns + int(self.grace_s * clock.NS)
        while p.processes.stat(undo.identity) is not None and clock.now_ns() < end:
            drain.look(p, t, undo)
            if p.rest(_LOOK_S * 5):
                raise FaultError(f"{t.name}: the run was stopped while the drain was watched")
        if p.processes.stat(undo.identity) is None:
            drain.exit_ns = clock.now_ns()
        elif not drain.signs():
            raise FaultError(
                f"{t.name}: no sign of SIG{self.signal} in {self.grace_s:g} s: it still serves as before"
            )
        leftovers = drain.leftovers(p, undo)
        if not clock.wait_until(lambda: not _living(p, _tree(undo)), _EFFECT_S, _LOOK_S):
            raise FaultError(f"{t.name}: still lives after SIGKILL: {_pids(_living(p, _tree(undo)))}")
        escalated = drain.exit_ns is None
        done_ns = drain.exit_ns or clock.now_ns()
        code = exit_code(undo.identity)  # None: its parent has collected it already
        facts = {
            "watched_from_ns": drain.watched_from_ns, "deregistered_ns": drain.deregistered_ns,
            "refused_ns": drain.refused_ns, "last_request_ns": drain.last_request_ns,
            "exit_ns": done_ns, "exit_code": code, "drain_s": drain.seconds(done_ns),
            "leftovers": leftovers, "escalated": "KILL" if escalated else None,
        }  # fmt: skip
        how = "unknown exit code" if code is None else f"exit code {code}"
        how = f"ended by signal {-code} without a drain" if code is not None and code < 0 else how
        proof = f"exited after {facts['drain_s']} s, {how}"
        if escalated:
            proof = f"began to drain, didn't exit within {self.grace_s:g} s, ended by SIGKILL"
        elif leftovers:
            proof += f"; left {len(leftovers)} processes behind, ended by SIGKILL"
        return Evidence(proof, min([*drain.signs(), done_ns]), facts)

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        _start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        return _verify_started(p, t, undo)


@dataclass
class _Drain:
    """Times at which signs of the end of a process were first (last_request: last) seen."""

    watched_from_ns: int
    deregistered_ns: int | None = None
    refused_ns: int | None = None
    last_request_ns: int | None = None
    exit_ns: int | None = None
    requests: float | None = None

    def look(self, p: Ports, t: Target, undo: Undo) -> None:
        serving = p.processes.serving(t)
        now = clock.now_ns()
        if serving.listed is False and self.deregistered_ns is None:
            self.deregistered_ns = now
        ports = undo.saved["ports"]
        if self.refused_ns is None and any(p.processes.refuses(t, int(port)) for port in ports):
            self.refused_ns = now
        if serving.requests is not None:
            if self.requests is not None and serving.requests > self.requests:
                self.last_request_ns = now
            self.requests = serving.requests

    def signs(self) -> list[int]:
        return [at for at in (self.deregistered_ns, self.refused_ns, self.exit_ns) if at is not None]

    def seconds(self, done_ns: int) -> float:
        return round((done_ns - self.watched_from_ns) / clock.NS, 3)

    def leftovers(self, p: Ports, undo: Undo) -> list[int]:
        """Pids of the tree that outlived the target (itself too, if it never ended), killed."""
        tree = _tree(undo)
        if self.exit_ns is not None:
            clock.wait_until(lambda: not _living(p, tree), _LEFTOVER_S, _LOOK_S)
        left = _living(p, tree)
        for one in left:
            p.processes.signal(one, signal.SIGKILL)
        return [one.pid for one in left]


@dataclass(frozen=True)
class Pause:
    """SIGSTOP of the process tree for hold_s, then SIGCONT: the gray failure."""

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    hold_s: float

    def __post_init__(self) -> None:
        _check_seconds(hold_s=self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        found = _find(p, t)
        for one in found.tree:
            stat = p.processes.stat(one)
            if stat is not None and stat.state in "Tt":
                raise FaultError(f"{t.name}: pid {one.pid} is stopped already, by somebody else")
        ops = undo_ops.cont(tuple(reversed(found.tree)))
        return Undo(tuple(ops), found.identity, {"tree": tree_plain(found.tree)})

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        for one in _tree(undo):
            sent = p.processes.signal(one, signal.SIGSTOP)
            if not sent and one == undo.identity:
                raise FaultError(f"{t.name} (pid {one.pid}) was gone at injection")

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        tree = _tree(undo)
        if not clock.wait_until(lambda: not _moving(p, tree), _EFFECT_S, _LOOK_S / 4):
            raise FaultError(f"{t.name}: still runs {_EFFECT_S:g} s after SIGSTOP: {_pids(_moving(p, tree))}")
        at_ns, before = clock.now_ns(), _ticks(p, tree)
        if p.processes.stat(undo.identity) is None:
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) is gone instead of stopped")
        clock.sleep_s(_FROZEN_S)
        after = _ticks(p, tree)
        if _moving(p, tree) or before != after:
            raise FaultError(f"{t.name}: used CPU while stopped ({before} -> {after} ticks)")
        proof = f"pid {undo.identity.pid} in state T, no CPU tick in {_FROZEN_S * 1000:.0f} ms"
        return Evidence(proof, at_ns, {"processes_stopped": len(before), "cpu_ticks": sum(before.values())})

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        for one in reversed(_tree(undo)):
            p.processes.signal(one, signal.SIGCONT)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        return await_serving(p, t, gone_when="running")


def _find(p: Ports, t: Target) -> Found:
    found = p.processes.find(t)
    if not found.tree:
        raise FaultError(f"{t.name} (pid {found.identity.pid}) is not there any more")
    return found


def _prepare_end(p: Ports, t: Target, stop: bool) -> Undo:
    """Undo of a fault that ends the process: start it again, if that is ours to do."""
    found = _find(p, t)
    accepting = [port for port in found.ports if not p.processes.refuses(t, port)]
    saved: dict[str, Any] = {"tree": tree_plain(found.tree), "ports": accepting}
    if found.respawn is None:
        saved["note"] = "a process of an outside system: squall can't start it again"
        return Undo((), found.identity, saved)
    return Undo(({**found.respawn, "stop": stop},), found.identity, saved)


def _start_again(p: Ports, undo: Undo) -> None:
    for op in undo.ops:
        p.processes.respawn(op)


def _verify_started(p: Ports, t: Target, undo: Undo) -> Evidence:
    if not undo.ops:
        return Evidence(f"nothing to undo: {undo.saved['note']}", clock.now_ns(), {"recovered_by": "nobody"})
    evidence = await_serving(p, t, gone_when="ready")
    who = p.processes.find(t).identity
    return Evidence(
        evidence.proof, evidence.at_ns, {**evidence.facts, "pid": who.pid, "start_ticks": who.start_ticks}
    )


def _tree(undo: Undo) -> list[Identity]:
    return tree_of(undo.saved["tree"])


def _living(p: Ports, tree: Sequence[Identity]) -> list[Identity]:
    return [one for one in tree if p.processes.stat(one) is not None]


def _moving(p: Ports, tree: Sequence[Identity]) -> list[Identity]:
    """Those that live and aren't stopped."""
    stats = [(one, p.processes.stat(one)) for one in tree]
    return [one for one, stat in stats if stat is not None and stat.state not in "Tt"]


def _ticks(p: Ports, tree: Sequence[Identity]) -> dict[int, int]:
    stats = [(one.pid, p.processes.stat(one)) for one in tree]
    return {pid: stat.cpu_ticks for pid, stat in stats if stat is not None}


def _pids(who: Sequence[Identity]) -> str:
    return ", ".join(str(one.pid) for one in who)
