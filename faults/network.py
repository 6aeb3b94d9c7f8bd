"""Faults between hosts: partition, loss, reset. The field names are the YAML parameters.

Owns what each does to packets and how its effect is proven by packets. The rules are an nft table of
the fault's own on the target's host; the kernel ends them when nobody is left to (faults/wire.py).
Standard library only. Seconds in names ending in _s.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from faults import nft, wire
from faults.peers import named
from faults.ports import Echo, Evidence, Ports, Probe, Target, Undo
from faults.wire import CHAINS, FEW, Direction, Way
from harness.core.errors import FaultError

_NEEDS = frozenset({"network", "processes"})
_MISS = 1e-6  # chance that a share of losses this size shows none at all
_SIGMAS = 5
_LEAST_RATIO = 0.001


def check_hold(hold_s: float) -> None:
    """Raise ValueError unless the fault lasts."""
    if not (math.isfinite(hold_s) and hold_s > 0):
        raise ValueError(f"hold_s must be above 0 seconds, got {hold_s}")


@dataclass(frozen=True)
class Partition:
    """Packets between the target's host and its peers' hosts are dropped, both ways or one way.

    peers: a role (frontend, worker = the other workers, etcd, nats), control_plane (etcd and nats),
    all, or a list of names. direction: both, to_peers (what the target sends), from_peers.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    hold_s: float
    peers: str | tuple[str, ...]
    direction: Literal["both", "to_peers", "from_peers"] = "both"

    def __post_init__(self) -> None:
        check_hold(self.hold_s)
        named(self.peers)

    def prepare(self, p: Ports, t: Target) -> Undo:
        return wire.prepare(p, t, self.peers, nft.DROP, CHAINS[self.direction], self.hold_s)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        wire.inject(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Datagrams between the very hosts arrive in exactly the directions that are open; nft counted packets; the client still reaches the target."""
        along = wire.ways(wire.wire_of(undo))
        echoes = wire.send(p, along, "datagrams", FEW)
        for way, echo in zip(along, echoes, strict=True):
            cut = way.chain in CHAINS[self.direction]
            if cut and echo.arrived:
                raise FaultError(
                    f"{t.name}: {way} was to be cut, yet {echo.arrived} of {echo.sent} datagrams arrive"
                )
            if not cut and echo.arrived < echo.sent:
                raise FaultError(
                    f"{t.name}: {way} was to stay open, yet {echo.arrived} of {echo.sent} datagrams arrive"
                )
        said = [f"{way}: {echo.arrived} of {echo.sent}" for way, echo in zip(along, echoes, strict=True)]
        return _proven(self.direction, p, t, undo, echoes, f"datagrams that arrive: {', '.join(said)}", {})

    def recover(self, p: Ports, t: Target, undo: Undo) -> dict[str, Any] | None:
        """Exactly our nft table is removed; somebody else's changes to it are said (`drifted`)."""
        return wire.recover(t, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Our table is gone, packets pass both ways; runs, healthy, listed by the frontends, took a request."""
        return wire.verify_recovered(p, t, undo)


@dataclass(frozen=True)
class Loss:
    """A share of the packets between the target's host and its peers' hosts is dropped, by chance.

    ratio: 0.001 to 1 of the packets of each direction that is hurt. peers, direction: as in
    network.partition.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    hold_s: float
    peers: str | tuple[str, ...]
    ratio: float
    direction: Literal["both", "to_peers", "from_peers"] = "both"

    def __post_init__(self) -> None:
        check_hold(self.hold_s)
        named(self.peers)
        if not _LEAST_RATIO <= self.ratio <= 1:
            raise ValueError(f"ratio must be {_LEAST_RATIO} to 1, got {self.ratio}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        return wire.prepare(p, t, self.peers, nft.lose(self.ratio), CHAINS[self.direction], self.hold_s)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        wire.inject(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The share of datagrams between the very hosts that is lost, within 5 standard deviations of the ratio; none in a direction that isn't hurt; nft counted packets."""
        along = wire.ways(wire.wire_of(undo))
        echoes = wire.send(p, along, "datagrams", self.datagrams())
        lost: dict[str, float] = {}
        for way, echo in zip(along, echoes, strict=True):
            self._check(t, way, echo)
            if way.chain in CHAINS[self.direction]:
                lost[str(way)] = round(1 - echo.arrived / echo.sent, 4)
        said = ", ".join(f"{way} {share:.1%}" for way, share in lost.items())
        facts = {"lost_ratio": lost, "datagrams": self.datagrams()}
        return _proven(
            self.direction, p, t, undo, echoes, f"lost of {self.datagrams()} datagrams: {said}", facts
        )

    def recover(self, p: Ports, t: Target, undo: Undo) -> dict[str, Any] | None:
        """Exactly our nft table is removed; somebody else's changes to it are said (`drifted`)."""
        return wire.recover(t, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Our table is gone, packets pass both ways; runs, healthy, listed by the frontends, took a request."""
        return wire.verify_recovered(p, t, undo)

    def datagrams(self) -> int:
        """Enough to tell the ratio from none."""
        return 400 if self.ratio > 0.5 else max(400, math.ceil(math.log(_MISS) / math.log1p(-self.ratio)))

    def _check(self, t: Target, way: Way, echo: Echo) -> None:
        ratio = self.ratio if way.chain in CHAINS[self.direction] else 0.0
        lost, wanted = echo.sent - echo.arrived, ratio * echo.sent
        slack = _SIGMAS * math.sqrt(wanted * (1 - ratio)) + (0 < ratio < 1)
        if abs(lost - wanted) > slack or (ratio > 0 and not lost):
            raise FaultError(
                f"{t.name}: {way} was to lose {ratio:.1%} of the packets, yet {lost} of {echo.sent} are lost"
            )


@dataclass(frozen=True)
class Reset:
    """TCP between the target's host and its peers' hosts is answered with a reset.

    how: reject (for hold_s, live connections and new ones) or kill (live connections are destroyed at
    once, new ones are welcome; no hold_s). peers, direction: as in network.partition; a segment in a
    direction that is hurt is dropped and its sender gets the reset. kill is always both ways.
    """

    needs: ClassVar[frozenset[str]] = _NEEDS
    peers: str | tuple[str, ...]
    hold_s: float = 0
    how: Literal["reject", "kill"] = "reject"
    direction: Literal["both", "to_peers", "from_peers"] = "both"

    def __post_init__(self) -> None:
        named(self.peers)
        if self.how == "reject":
            check_hold(self.hold_s)
        elif self.hold_s or self.direction != "both":
            raise ValueError("how: kill happens at once and both ways: remove hold_s and direction")

    def prepare(self, p: Ports, t: Target) -> Undo:
        undo = wire.prepare(p, t, self.peers, nft.RESET, CHAINS[self.direction], self.hold_s)
        if self.how == "reject":
            return undo
        saved = {**undo.saved, "connections": wire.network(p).connections(wire.wire_of(undo)), "seen": []}
        if not saved["connections"]:
            raise FaultError(f"{t.name}: no live connection with {', '.join(named(self.peers))} to kill")
        return Undo((), undo.identity, saved)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        if self.how == "reject":
            wire.inject(p, t, undo)
            return
        if p.processes.stat(undo.identity) is None:
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
        who = wire.wire_of(undo)
        for peer in who.peers:
            argv = ("ss", "--kill", "--tcp", "--no-header", *_any_of(peer.addresses))
            (echo,) = wire.network(p).probe([Probe("kill", who.target, peer, argv=argv)])
            undo.saved["seen"].append([peer.name, echo.answer, echo.arrived_ns])

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """TCP connects between the very hosts are reset while datagrams pass; nft counted packets. After a kill: a live connection of ours was reset, the target's own are gone."""
        return self._verify_kill(p, t, undo) if self.how == "kill" else self._verify_reject(p, t, undo)

    def recover(self, p: Ports, t: Target, undo: Undo) -> dict[str, Any] | None:
        """Exactly our nft table is removed; somebody else's changes to it are said (`drifted`)."""
        return wire.recover(t, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Our table is gone, packets pass both ways; runs, healthy, listed by the frontends, took a request."""
        return wire.verify_recovered(p, t, undo)

    def _verify_reject(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        along = wire.ways(wire.wire_of(undo))
        connects, datagrams = wire.send(p, along, "connect", 1), wire.send(p, along, "datagrams", FEW)
        for way, connect, datagram in zip(along, connects, datagrams, strict=True):
            # A handshake needs both directions: its second half is reset in the other one, unheard here.
            wanted = "reset" if way.chain in CHAINS[self.direction] else "silent"
            if connect.answer != wanted:
                raise FaultError(f"{t.name}: TCP {way} was to be {wanted}, yet it was {connect.answer}")
            if datagram.arrived < datagram.sent:
                raise FaultError(f"{t.name}: only TCP was to be reset, yet datagrams {way} are lost")
        said = ", ".join(f"{way} {echo.answer}" for way, echo in zip(along, connects, strict=True))
        return _proven(self.direction, p, t, undo, connects, f"TCP connects: {said}; datagrams pass", {})

    def _verify_kill(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        seen = undo.saved["seen"]
        if not seen:
            raise FaultError(f"{t.name}: no connection was killed")
        for peer, answer, _ in seen:
            if answer != "reset":
                raise FaultError(
                    f"{t.name}: a live connection with {peer} was to be reset, yet it was {answer}"
                )
        left = {*undo.saved["connections"]} & {*wire.network(p).connections(wire.wire_of(undo))}
        if left:
            raise FaultError(f"{t.name}: connections still live after the kill: {', '.join(sorted(left))}")
        wire.prove_reachable(p, t, undo)
        count = len(undo.saved["connections"])
        proof = f"{count} live connections are gone, and a probe's with {', '.join(one[0] for one in seen)} was reset"
        return Evidence(proof, min(one[2] for one in seen), {"connections": count})


def _any_of(addresses: tuple[str, ...]) -> list[str]:
    """A filter of `ss`: destination is one of these."""
    words: list[str] = []
    for one in addresses:
        words += ["or", "dst", f"[{one}]" if ":" in one else one]
    return words[1:]


def _proven(
    direction: Direction, p: Ports, t: Target, undo: Undo, echoes: list[Echo], proof: str, facts: dict[str, Any]
) -> Evidence:  # fmt: skip
    """Packets showed it; our rules counted them, and squall's own way is open: then it counts."""
    counted = wire.prove_counted(p, t, undo, CHAINS[direction])
    wire.prove_reachable(p, t, undo)
    told = ", ".join(f"{chain} {number}" for chain, number in counted.items())
    facts = {**facts, "table": undo.ops[0]["table"], "packets_matched": counted}
    return Evidence(f"{proof}; packets matched: {told}", min(echo.sent_ns for echo in echoes), facts)
