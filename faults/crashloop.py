"""process.crashloop: a process that dies again each time it has come back.

Owns the rounds and their proof: each identity seen gone, each a new one. Knows no platform, no schedule,
no journal. Standard library only.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from faults import tree
from faults.ports import Evidence, Ports, Target, Undo
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import Identity

_BACK_S = 0.05  # between two looks at whether it is back


@dataclass(frozen=True)
class Crashloop:
    """SIGKILL to the process tree, `times` times in all: again each time it has come back.

    It is started again restart_after_s after each end, the last one too. Back means that it says it is
    healthy and that the frontend lists it, as far as the platform can tell.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    times: int = 3
    restart_after_s: float = 1

    def __post_init__(self) -> None:
        check_seconds(restart_after_s=self.restart_after_s)
        if not 1 <= self.times <= 100:
            raise ValueError(f"times must be 1 to 100, got {self.times}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        round_s = self.restart_after_s + p.recover_timeout_s + 2 * EFFECT_S
        undo = tree.prepare_end(p, t, stop=False, effect_s=self.times * round_s)
        if not undo.ops:
            raise FaultError(f"{t.name}: {undo.saved['note']}, so it can't crash twice")
        return undo

    def inject(self, p: Ports, t: Target, undo: Undo) -> int:
        return tree.strike(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: `times` processes, each with an identity of its own, each seen gone."""
        who, seen, gone_ns = undo.identity, [undo.identity], [_await_gone(p, t, tree.members(undo))]
        while len(seen) < self.times:
            if p.rest(self.restart_after_s):
                raise FaultError(f"{t.name}: the run was stopped after {len(seen)} of {self.times} crashes")
            who = p.processes.respawn(undo.ops[0])
            if who in seen:
                raise FaultError(f"{t.name}: pid {who.pid} is no new process")
            _await_back(p, t, who)
            struck, _ = tree.kill(p, who)
            seen.append(who)
            gone_ns.append(_await_gone(p, t, struck or [who]))
        proof = f"{len(seen)} processes, one after the other, each a new one and each gone: {tree.pids(seen)}"
        facts = {
            "identities": [list(one) for one in seen],
            "every_s": [round((b - a) / clock.NS, 3) for a, b in pairwise(gone_ns)],
        }
        return Evidence(proof, gone_ns[0], facts, since_ns=gone_ns[-1])

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started once more with the same command and environment."""
        tree.start_again(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Runs, healthy, listed by the frontends, took a request."""
        return tree.verify_started(p, t, undo)


def _await_gone(p: Ports, t: Target, who: Sequence[Identity]) -> int:
    """CLOCK_MONOTONIC when the last of them was seen gone. Raises FaultError."""
    if not clock.wait_until(lambda: not tree.living(p, who), EFFECT_S, LOOK_S / 4):
        left = tree.pids(tree.living(p, who))
        raise FaultError(f"{t.name}: pid {left} still lives {EFFECT_S:g} s after SIGKILL")
    return clock.now_ns()


def _await_back(p: Ports, t: Target, who: Identity) -> None:
    """Raises FaultError when it ends by itself, or isn't back within recover_timeout_s."""
    end = clock.now_ns() + int(p.recover_timeout_s * clock.NS)
    while clock.now_ns() < end:
        if p.processes.stat(who) is None:
            raise FaultError(f"{t.name}: pid {who.pid} ended by itself before it was back")
        signs = p.processes.serving(t)
        if signs.healthy is not False and signs.listed is not False:
            return
        if p.rest(_BACK_S):
            raise FaultError(f"{t.name}: the run was stopped while it came back")
    raise FaultError(f"{t.name}: not back {p.recover_timeout_s:g} s after its restart, so not killed again")
