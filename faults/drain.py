"""process.terminate: ask a process to end, and watch its drain.

Owns the signals, when the drain is over, and the proof; what is seen on the way is drainwatch's. Knows
no platform, no schedule, no journal. Standard library only.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from signal import Signals
from typing import Any, ClassVar, Literal

from faults import tree
from faults.drainwatch import DrainWatch
from faults.ports import Evidence, Ports, Target, Undo
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import exit_code

_LEFTOVER_S = 1.0  # children may end so much later than their parent


@dataclass(frozen=True)
class Terminate:
    """SIGTERM or SIGINT, and a watch over the drain; the same signal again after again_after_s.

    Started again like process.kill: restart_after_s after its first effect, never before its exit.

    A drain that has begun and doesn't end within grace_s is ended by SIGKILL, and said. A target that
    shows no sign of the signal within grace_s is a failed fault.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    signal: Literal["TERM", "INT"] = "TERM"
    restart_after_s: float | None = None
    hold_s: float | None = None
    grace_s: float = 30
    again_after_s: float | None = None

    def __post_init__(self) -> None:
        check_seconds(
            restart_after_s=self.restart_after_s, hold_s=self.hold_s, grace_s=self.grace_s,
            again_after_s=self.again_after_s,
        )  # fmt: skip
        if self.again_after_s is not None and self.again_after_s >= self.grace_s:
            raise ValueError(f"again_after_s {self.again_after_s} is not before grace_s {self.grace_s}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        return tree.prepare_end(p, t, stop=True, effect_s=self.grace_s + EFFECT_S)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        if not p.processes.signal(undo.identity, self._signal):
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The drain, seen from outside: deregistered, port refuses, exit code, leftovers, each with its time."""
        with DrainWatch(p, t, undo) as watch:
            again_ns = self._await_end(p, t, undo, watch)
        if watch.exit_ns is None and not watch.signs():
            raise FaultError(
                f"{t.name}: no sign of SIG{self.signal} in {self.grace_s:g} s: it still serves as before"
            )
        leftovers = _end_leftovers(p, undo, waiting=watch.exit_ns is not None)
        if not clock.wait_until(lambda: not tree.living(p, tree.members(undo)), EFFECT_S, LOOK_S):
            raise FaultError(
                f"{t.name}: still lives after SIGKILL: {tree.pids(tree.living(p, tree.members(undo)))}"
            )
        escalated = watch.exit_ns is None
        done_ns = watch.exit_ns or clock.now_ns()
        code = exit_code(undo.identity)  # None: its parent has collected it already
        drain_s = round((done_ns - watch.began_ns) / clock.NS, 3)
        facts = {
            **watch.facts(), "signal": self.signal, "again_ns": again_ns, "exit_ns": done_ns,
            "exit_code": code, "drain_s": drain_s, "leftovers": leftovers,
            "escalated": "KILL" if escalated else None,
        }  # fmt: skip
        proof = _proof(facts, self.grace_s)
        return Evidence(proof, min([*watch.signs(), done_ns]), facts)

    def _await_end(self, p: Ports, t: Target, undo: Undo, watch: DrainWatch) -> int | None:
        """Until it is gone or grace_s is over; when it was signalled again. Raises FaultError."""
        again_ns = None
        end = watch.began_ns + int(self.grace_s * clock.NS)
        while p.processes.stat(undo.identity) is not None:
            now = clock.now_ns()
            if now >= end:
                return again_ns
            again_s = self.again_after_s
            if again_s is not None and again_ns is None and now >= watch.began_ns + int(again_s * clock.NS):
                again_ns = clock.now_ns() if p.processes.signal(undo.identity, self._signal) else None
            if p.rest(LOOK_S):
                raise FaultError(f"{t.name}: the run was stopped while the drain was watched")
        watch.exit_ns = clock.now_ns()
        return again_ns

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started again with the same command and environment."""
        tree.start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Runs, healthy, listed by the frontends, took a request."""
        return tree.verify_started(p, t, undo)

    @property
    def _signal(self) -> Signals:
        return Signals[f"SIG{self.signal}"]


def _end_leftovers(p: Ports, undo: Undo, waiting: bool) -> list[int]:
    """Pids of the tree that outlived the target (itself too, if it never ended), killed."""
    members = tree.members(undo)
    if waiting:
        clock.wait_until(lambda: not tree.living(p, members), _LEFTOVER_S, LOOK_S)
    left = tree.living(p, members)
    for one in left:
        p.processes.signal(one, Signals.SIGKILL)
    return [one.pid for one in left]


def _proof(facts: Mapping[str, Any], limit_s: float) -> str:
    code, leftovers, grace_s = facts["exit_code"], facts["leftovers"], facts["grace_period_s"]
    if facts["escalated"]:
        return f"began to drain, didn't exit within {limit_s:g} s, ended by SIGKILL"
    how = "unknown exit code" if code is None else f"exit code {code}"
    how = f"ended by signal {-code} without a drain" if code is not None and code < 0 else how
    proof = f"exited after {facts['drain_s']} s, {how}"
    proof += f", its grace period is {grace_s:g} s" if grace_s is not None else ""
    return proof + (f"; left {len(leftovers)} processes behind, ended by SIGKILL" if leftovers else "")
