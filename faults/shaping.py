"""Faults that slow what a host sends to its peers: bandwidth, delay. The field names are the YAML parameters.

An nft table marks packets to the peers, a queue on the target's device slows the marked ones: others,
squall's own among them, go past it. The marks expire by themselves (faults/wire.py), so a queue that
nobody is left to remove slows nothing. Standard library only.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from faults import nft, tc, wire
from faults.network import check_hold
from faults.peers import Peers, named
from faults.ports import Echo, Evidence, Ports, Probe, Target, Undo
from faults.wire import Way
from harness.core.errors import FaultError

_MARK = "{classid}"  # filled in by wire.prepare, which gives the queue its handle
_RATE_S = 1.5  # so long the rate is measured
_ABOVE, _BELOW = 1.5, 0.5  # a rate is near the one that was asked for within these factors
_LOOSE = 3  # a path that isn't slowed carries this much more, or there is nothing to slow
_ECHOES = 5


@dataclass(frozen=True)
class Bandwidth:
    """What the target's host sends to its peers' hosts is limited to kbit_per_s, all peers together.

    peers: as in network.partition. Only packets to the peers are slowed (an htb class); on a kernel
    without htb everything that the host sends is (tbf), and the evidence says so. To slow the other
    direction, aim at the peer.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network", "processes"})
    hold_s: float
    peers: str | tuple[str, ...]
    kbit_per_s: float

    def __post_init__(self) -> None:
        check_hold(self.hold_s)
        named(self.peers)
        if not (math.isfinite(self.kbit_per_s) and 64 <= self.kbit_per_s <= 1_000_000):
            raise ValueError(f"kbit_per_s must be 64 to 1000000, got {self.kbit_per_s}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        kind = next((kind for kind in ("htb", "tbf") if kind in wire.network(p).queues()), None)
        if kind is None:
            raise FaultError(f"{t.name}: this kernel has no queue that limits a rate; see `squall doctor`")
        undo = _prepare(p, t, self.peers, self.hold_s, kind)
        for way, echo in self._measure(p, undo, _LOOSE * self.kbit_per_s):
            if echo.kbit_per_s < _LOOSE * self.kbit_per_s:
                raise FaultError(
                    f"{t.name}: {way} carries {echo.kbit_per_s:.0f} kbit/s before the fault, too little to "
                    f"tell it from {self.kbit_per_s:g}"
                )
        return undo

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        op = undo.ops[1]
        build = tc.limit if op["kind"] == "htb" else tc.limit_all
        _inject(p, t, undo, build(op["device"], op["handle"], self.kbit_per_s))

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """TCP between the very hosts arrives at a rate near the one asked for, far above it before and after; nft counted packets."""
        measured = self._measure(p, undo, math.inf)
        total = sum(echo.kbit_per_s for _, echo in measured)
        if total > _ABOVE * self.kbit_per_s:
            raise FaultError(
                f"{t.name}: was to send {self.kbit_per_s:g} kbit/s to its peers, yet {total:.0f} kbit/s arrive"
            )
        counted = wire.prove_counted(p, t, undo, (nft.TO,))
        wire.prove_reachable(p, t, undo)
        # The system's own traffic shares the limit, so less may arrive of ours: said, not judged.
        facts: dict[str, Any] = {
            "kbit_per_s": {str(way): round(echo.kbit_per_s, 1) for way, echo in measured},
            "packets_matched": counted, "table": undo.ops[0]["table"], "queue": undo.ops[1]["kind"],
        }  # fmt: skip
        if total < _BELOW * self.kbit_per_s:
            facts["note"] = (
                f"less than {_BELOW:.0%} of the limit arrived: the system's traffic takes its share"
            )
        proof = f"{total:.0f} kbit/s of TCP arrive, {self.kbit_per_s:g} asked for"
        if undo.ops[1]["kind"] == "tbf":
            proof += "; everything that the host sends is slowed, squall's probes too: no htb in this kernel"
        return Evidence(proof, min(echo.sent_ns for _, echo in measured), facts)

    def recover(self, p: Ports, t: Target, undo: Undo) -> dict[str, Any] | None:
        """Exactly our nft table and our queue are removed; somebody else's changes are said (`drifted`)."""
        return wire.recover(t, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Table and queue are gone, the rate is back; runs, healthy, listed by the frontends, took a request."""
        seen = wire.verify_recovered(p, t, undo)
        for way, echo in self._measure(p, undo, _LOOSE * self.kbit_per_s):
            if echo.kbit_per_s < _ABOVE * self.kbit_per_s:
                raise FaultError(f"{t.name}: {way} still carries only {echo.kbit_per_s:.0f} kbit/s")
        return seen

    def _measure(self, p: Ports, undo: Undo, enough_kbit: float) -> list[tuple[Way, Echo]]:
        """The rate to each peer; no more bytes than prove `enough_kbit`, which keeps the probe cheap."""
        along = _to_peers(undo)
        rate_kbit = self.kbit_per_s * _ABOVE * 2 if math.isinf(enough_kbit) else enough_kbit
        count = max(65_536, int(rate_kbit * 1000 / 8 * _RATE_S))
        probes = [Probe("rate", way.sender, way.receiver, count, _RATE_S) for way in along]
        return list(zip(along, wire.network(p).probe(probes), strict=True))


@dataclass(frozen=True)
class Delay:
    """What the target's host sends to its peers' hosts comes `ms` later, give or take `jitter_ms`.

    peers: as in network.partition. Needs a kernel with netem.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"network", "processes", "netem"})
    hold_s: float
    peers: str | tuple[str, ...]
    ms: float
    jitter_ms: float = 0

    def __post_init__(self) -> None:
        check_hold(self.hold_s)
        named(self.peers)
        if not (math.isfinite(self.ms) and 1 <= self.ms <= 60_000):
            raise ValueError(f"ms must be 1 to 60000, got {self.ms}")
        if not 0 <= self.jitter_ms <= self.ms:
            raise ValueError(f"jitter_ms must be 0 to ms ({self.ms:g}), got {self.jitter_ms}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        if "netem" not in wire.network(p).queues():
            raise FaultError(f"{t.name}: this kernel has no netem, which delays packets; see `squall doctor`")
        undo = _prepare(p, t, self.peers, self.hold_s, "htb")
        undo.saved["rtt_ms"].update({str(way): echo.rtt_ms for way, echo in self._measure(p, undo)})
        return undo

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        op = undo.ops[1]
        _inject(p, t, undo, tc.delay(op["device"], op["handle"], self.ms, self.jitter_ms))

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Round trips between the very hosts are longer by the delay than before; nft counted packets."""
        asked = tc.delay_of(wire.network(p).run(wire.wire_of(undo).target, tc.show(undo.ops[1]["device"])))
        if asked is None or abs(asked - self.ms) > 0.01 * self.ms:
            raise FaultError(f"{t.name}: was to get a delay of {self.ms:g} ms, its queue has {asked}")
        measured = self._measure(p, undo)
        added: dict[str, float] = {}
        for way, echo in measured:
            before = undo.saved["rtt_ms"].get(str(way))
            more = None if echo.rtt_ms is None or before is None else echo.rtt_ms - before
            if more is None or not self.ms - self.jitter_ms <= more * 1.1:
                raise FaultError(f"{t.name}: {way} was to come {self.ms:g} ms later, it came {more} ms later")
            added[str(way)] = round(more, 2)
        counted = wire.prove_counted(p, t, undo, (nft.TO,))
        wire.prove_reachable(p, t, undo)
        facts = {"added_ms": added, "packets_matched": counted, "table": undo.ops[0]["table"]}
        told = ", ".join(f"{way} {more:g} ms" for way, more in added.items())
        return Evidence(f"round trips are longer: {told}", min(echo.sent_ns for _, echo in measured), facts)

    def recover(self, p: Ports, t: Target, undo: Undo) -> dict[str, Any] | None:
        """Exactly our nft table and our queue are removed; somebody else's changes are said (`drifted`)."""
        return wire.recover(t, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Table and queue are gone, packets pass both ways; runs, healthy, listed by the frontends, took a request."""
        return wire.verify_recovered(p, t, undo)

    def _measure(self, p: Ports, undo: Undo) -> list[tuple[Way, Echo]]:
        along = _to_peers(undo)
        wait_s = 1 + 3 * self.ms / 1000
        probes = [Probe("echo", way.sender, way.receiver, _ECHOES, wait_s) for way in along]
        return list(zip(along, wire.network(p).probe(probes), strict=True))


def _prepare(p: Ports, t: Target, peers: Peers, hold_s: float, kind: str) -> Undo:
    """As wire.prepare, with a queue on the device, which must have none of somebody else."""
    undo = wire.prepare(p, t, peers, nft.mark(_MARK), (nft.TO,), hold_s, kind)
    target = wire.wire_of(undo).target
    root = tc.root_of(wire.network(p).run(target, tc.show(target.device)))
    if root is not None and root.handle != "0:":
        raise FaultError(
            f"{t.name}: {target.device} has a queue of somebody else, {root.kind} {root.handle}, left alone"
        )
    return dataclasses.replace(undo, saved={**undo.saved, "rtt_ms": {}})


def _inject(p: Ports, t: Target, undo: Undo, argvs: list[list[str]]) -> None:
    """The queue first: a mark without it means nothing."""
    if p.processes.stat(undo.identity) is None:
        raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
    for argv in argvs:
        wire.network(p).run(wire.wire_of(undo).target, argv)
    wire.inject(p, t, undo)


def _to_peers(undo: Undo) -> list[Way]:
    return [way for way in wire.ways(wire.wire_of(undo)) if way.chain == nft.TO]
