"""Faults on what the system leans on: members of etcd and the NATS server, killed or stopped.

A target that is known at the injection only (`etcd-leader`) is found by `prepare`, which notes in
`saved` who it was. How a fault is done and proven is in outage.py. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from faults import outage
from faults.outage import ELECTION_S, ETCD, NATS, Action
from faults.ports import Evidence, Ports, Target, Undo, View
from faults.tree import LOOK_S
from harness.core import clock
from harness.core.errors import FaultError

_NEEDS = frozenset({"processes", "control_plane"})


@dataclass(frozen=True)
class EtcdMember:
    """One member of etcd is killed, or stopped by SIGSTOP. Started again after restart_after_s, or hold_s.

    With neither it stays away until the run ends.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    role: ClassVar[str] = ETCD
    action: Action = "kill"
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        outage.check(self.action, self.restart_after_s, self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return outage.prepare(p, t, self.action, [t])

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        outage.inject(p, t, self.action, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: gone (its ports refuse) or in state T; etcd's client port doesn't answer."""
        return outage.verify(p, t, self.action, undo)

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started again with the same data directory, or SIGCONT."""
        outage.recover(p, t, self.action, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """It reads from the quorum, lists all members and knows a leader; so do all that did before and live."""
        return outage.verify_recovered(p, t, self.action, undo)


@dataclass(frozen=True)
class EtcdLeader:
    """The member that leads etcd, asked at the injection, is killed, or stopped by SIGSTOP.

    Started again after restart_after_s, or hold_s; with neither it stays away until the run ends.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    finds: ClassVar[Target] = Target(ETCD, 0, "leader")
    action: Action = "kill"
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        outage.check(self.action, self.restart_after_s, self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return outage.prepare(p, t, self.action, [_leader(p, t)])

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        """Raises FaultError when another member leads by now: a fault may wait long for a condition."""
        if p.processes.stat(undo.identity) is not None:  # one that is gone is refused as such
            _still_leads(p, t, undo)
        outage.inject(p, t, self.action, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """As etcd_member; and the members that are left name another leader, or none without a quorum."""
        return outage.verify(p, t, self.action, undo, _deposed)

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started again with the same data directory, or SIGCONT."""
        outage.recover(p, t, self.action, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """It reads from the quorum, lists all members and knows a leader; so do all that did before and live."""
        return outage.verify_recovered(p, t, self.action, undo)


@dataclass(frozen=True)
class EtcdAll:
    """All members of etcd are killed, or stopped by SIGSTOP, at once.

    Started again after restart_after_s, or hold_s; with neither they stay away until the run ends.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    finds: ClassVar[Target] = Target(ETCD, 0, "all")
    action: Action = "kill"
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        outage.check(self.action, self.restart_after_s, self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return outage.prepare(p, t, self.action, p.plane.servers(ETCD))

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        outage.inject(p, t, self.action, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: each is gone (its ports refuse) or in state T; no member's client port answers."""
        return outage.verify(p, t, self.action, undo)

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Each is started again with the same data directory, or SIGCONT."""
        outage.recover(p, t, self.action, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Each reads from the quorum, lists all members and knows a leader."""
        return outage.verify_recovered(p, t, self.action, undo)


@dataclass(frozen=True)
class Nats:
    """The NATS server is killed, or stopped by SIGSTOP. Started again after restart_after_s, or hold_s.

    With neither it stays away until the run ends.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    role: ClassVar[str] = NATS
    finds: ClassVar[Target] = Target(NATS, 1)
    action: Action = "kill"
    restart_after_s: float | None = None
    hold_s: float | None = None

    def __post_init__(self) -> None:
        outage.check(self.action, self.restart_after_s, self.hold_s)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return outage.prepare(p, t, self.action, [t])

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        outage.inject(p, t, self.action, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """/proc: gone (its ports refuse) or in state T; its monitoring port doesn't answer."""
        return outage.verify(p, t, self.action, undo)

    def recover(self, p: Ports, t: Target, undo: Undo) -> None:
        """Started again with the same command and environment, or SIGCONT."""
        outage.recover(p, t, self.action, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Healthy; every process that was connected before, and lives, is connected again."""
        return outage.verify_recovered(p, t, self.action, undo)


def _leader(p: Ports, t: Target) -> Target:
    """The one member that says of itself that it leads. Raises FaultError."""
    said = {one: p.plane.view(one) for one in p.plane.servers(ETCD)}
    leaders = [one for one, view in said.items() if view is not None and view.leader == one.name]
    if len(leaders) == 1:
        return leaders[0]
    told = [f"{one.name} says {'nothing' if view is None else view.leader}" for one, view in said.items()]
    what = "more than one member leads" if leaders else "no member leads"
    raise FaultError(f"{t.name}: {what}: {', '.join(told) or 'there is no member'}")


def _still_leads(p: Ports, t: Target, undo: Undo) -> None:
    """Raise FaultError when the leader isn't the member that `prepare` found."""
    old, new = str(undo.saved["target"]), _leader(p, t).name
    if new != old:
        raise FaultError(
            f"{t.name}: {old} led when the fault was announced, {new} does now; nothing injected"
        )


def _deposed(p: Ports, t: Target, undo: Undo) -> tuple[str, dict[str, Any]]:
    """Nobody who is left follows the old leader, and they have another one if they can. Raises FaultError."""
    old = str(undo.saved["target"])
    everyone = p.plane.servers(ETCD)
    rest = [one for one in everyone if one.name != old]
    said: dict[str, View] = {}

    def elected() -> bool:
        views = {one.name: p.plane.view(one) for one in rest}
        said.clear()
        said.update({name: view for name, view in views.items() if view is not None})
        leaders = {view.leader for view in said.values()}
        quorum = len(said) > len(everyone) // 2
        return leaders <= {None} if not quorum else len(leaders) == 1 and not leaders & {old, None}

    if not rest:
        return "no member is left to lead", {"new_leader": None}
    if not clock.wait_until(elected, ELECTION_S, LOOK_S * 5):
        told = ", ".join(f"{name} says {view.leader}" for name, view in said.items()) or "nobody answers"
        raise FaultError(f"{t.name} is {old}: no other leader after {ELECTION_S:g} s: {told}")
    new = next((view.leader for view in said.values()), None)
    proof = f"{', '.join(said)} follow {new}" if new else "without a quorum nobody leads"
    return proof, {"new_leader": new, "elected_ns": clock.now_ns()}
