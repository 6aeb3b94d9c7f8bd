"""process.terminate: ask a process to end, and watch its drain.

Owns what is watched and when. Knows no platform, no schedule, no journal. Standard library only.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar, Literal

from faults import tree
from faults.ports import Evidence, Ports, Target, Undo
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import exit_code

_LEFTOVER_S = 1.0  # children may end so much later than their parent


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
        check_seconds(restart_after_s=self.restart_after_s, hold_s=self.hold_s, grace_s=self.grace_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return tree.prepare_end(p, t, stop=True, effect_s=self.grace_s + EFFECT_S)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        if not p.processes.signal(undo.identity, signal.Signals[f"SIG{self.signal}"]):
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The drain, seen from outside: deregistered, port refuses, exit code, leftovers, each with its time."""
        drain = _Drain(clock.now_ns())
        end = drain.watched_from_ns + int(self.grace_s * clock.NS)
        while p.processes.stat(undo.identity) is not None and clock.now_ns() < end:
            drain.look(p, t, undo)
            if p.rest(LOOK_S * 5):
                raise FaultError(f"{t.name}: the run was stopped while the drain was watched")
        if p.processes.stat(undo.identity) is None:
            drain.exit_ns = clock.now_ns()
        elif not drain.signs():
            raise FaultError(
                f"{t.name}: no sign of SIG{self.signal} in {self.grace_s:g} s: it still serves as before"
            )
        leftovers = drain.leftovers(p, undo)
        if not clock.wait_until(lambda: not tree.living(p, tree.members(undo)), EFFECT_S, LOOK_S):
            raise FaultError(
                f"{t.name}: still lives after SIGKILL: {tree.pids(tree.living(p, tree.members(undo)))}"
            )
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
        """Started again with the same command and environment."""
        tree.start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Runs, healthy, listed by the frontends, took a request."""
        return tree.verify_started(p, t, undo)


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
        members = tree.members(undo)
        if self.exit_ns is not None:
            clock.wait_until(lambda: not tree.living(p, members), _LEFTOVER_S, LOOK_S)
        left = tree.living(p, members)
        for one in left:
            p.processes.signal(one, signal.SIGKILL)
        return [one.pid for one in left]
