"""Faults that end or stop a process at once: kill, pause. The field names are the YAML parameters.

Owns how each is done, proven, undone and proven undone. Knows no platform, no schedule, no journal.
Standard library only. Seconds in names ending in _s.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar

from faults import tree
from faults import undo as undo_ops
from faults.ports import Evidence, Ports, Target, Undo, tree_plain
from faults.serving import await_serving
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock
from harness.core.errors import FaultError

_FROZEN_S = 0.12  # so long without a CPU tick; a tick is 10 ms


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the process tree. Started again `restart_after_s` after it is gone.

    hold_s means the same. With neither, the target stays dead until the run ends.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        check_seconds(restart_after_s=self.restart_after_s, hold_s=self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return tree.prepare_end(p, t, stop=False)

    def inject(self, p: Ports, t: Target, undo: Undo) -> int:
        return tree.strike(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: pid and start time of the whole tree are gone; every port it listened on refuses."""
        members, ports = tree.members(undo), [int(port) for port in undo.saved["ports"]]
        gone = clock.wait_until(lambda: p.processes.stat(undo.identity) is None, EFFECT_S, LOOK_S / 4)
        at_ns = clock.now_ns()
        if not gone:
            raise FaultError(f"{t.name}: pid {undo.identity.pid} still lives {EFFECT_S:g} s after SIGKILL")
        if not clock.wait_until(lambda: not tree.living(p, members), EFFECT_S, LOOK_S):
            raise FaultError(f"{t.name}: children still live: {tree.pids(tree.living(p, members))}")
        if not clock.wait_until(lambda: all(p.processes.refuses(t, n) for n in ports), EFFECT_S, LOOK_S):
            open_ports = [n for n in ports if not p.processes.refuses(t, n)]
            raise FaultError(f"{t.name}: killed, yet its ports still accept: {open_ports}")
        proof = f"pid {undo.identity.pid} (start {undo.identity.start_ticks}) is gone"
        proof += f"; ports {', '.join(map(str, ports))} refuse" if ports else "; it listened on no port"
        return Evidence(proof, at_ns, {"processes_gone": len(members)})

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started again with the same command and environment."""
        tree.start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Runs, healthy, listed by the frontends, took a request."""
        return tree.verify_started(p, t, undo)


@dataclass(frozen=True)
class Pause:
    """SIGSTOP of the process tree for hold_s, then SIGCONT: the gray failure."""

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    hold_s: float

    def __post_init__(self) -> None:
        check_seconds(hold_s=self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        found = tree.find(p, t)
        for one in found.tree:
            stat = p.processes.stat(one)
            if stat is not None and stat.state in "Tt":
                raise FaultError(f"{t.name}: pid {one.pid} is stopped already, by somebody else")
        ops = undo_ops.cont(tuple(reversed(found.tree)))
        return Undo(tuple(ops), found.identity, {"tree": tree_plain(found.tree)})

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        for one in tree.members(undo):
            sent = p.processes.signal(one, signal.SIGSTOP)
            if not sent and one == undo.identity:
                raise FaultError(f"{t.name} (pid {one.pid}) was gone at injection")

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: every process of the tree in state T, no CPU tick in 0.12 s."""
        members = tree.members(undo)
        if not clock.wait_until(lambda: not tree.moving(p, members), EFFECT_S, LOOK_S / 4):
            raise FaultError(
                f"{t.name}: still runs {EFFECT_S:g} s after SIGSTOP: {tree.pids(tree.moving(p, members))}"
            )
        at_ns, before = clock.now_ns(), tree.ticks(p, members)
        if p.processes.stat(undo.identity) is None:
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) is gone instead of stopped")
        clock.sleep_s(_FROZEN_S)
        after = tree.ticks(p, members)
        if tree.moving(p, members) or before != after:
            raise FaultError(f"{t.name}: used CPU while stopped ({before} -> {after} ticks)")
        proof = f"pid {undo.identity.pid} in state T, no CPU tick in {_FROZEN_S * 1000:.0f} ms"
        return Evidence(proof, at_ns, {"processes_stopped": len(before), "cpu_ticks": sum(before.values())})

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """SIGCONT to each; beyond its lease a worker has to be started again, and that is said."""
        for one in reversed(tree.members(undo)):
            p.processes.signal(one, signal.SIGCONT)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Runs, healthy, listed by the frontends, took a request."""
        return await_serving(p, t, gone_when="running")
