"""What network faults share: who is apart from whom, probes in both directions, one table, its undo.

Knows no single fault. A probe travels between sockets of the very hosts, so neither loopback nor
another path can stand in for the one that was cut. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from faults import nft, tc
from faults import undo as undo_ops
from faults.peers import Peers, named
from faults.ports import (
    GRACE_S,
    Echo,
    Evidence,
    Host,
    NetworkControl,
    Ports,
    Probe,
    Target,
    Undo,
    Wire,
)
from faults.serving import await_serving
from harness.core import clock
from harness.core.errors import FaultError

Direction = Literal["both", "to_peers", "from_peers"]

CHAINS: dict[Direction, tuple[str, ...]] = {
    "both": (nft.TO, nft.FROM),
    "to_peers": (nft.TO,),
    "from_peers": (nft.FROM,),
}
EFFECT_S = 10.0  # so long a proof by packets may take
FEW = 5  # datagrams that say whether a path is open
_LOOK_S = 0.3


@dataclass(frozen=True)
class Way:
    """One direction between the target and a peer."""

    chain: str  # nft.TO or nft.FROM
    sender: Host
    receiver: Host

    def __str__(self) -> str:
        return f"{self.sender.name} -> {self.receiver.name}"


def network(p: Ports) -> NetworkControl:
    """The port."""
    if p.network is None:
        raise FaultError("this platform has no network that could be cut: write `platform: netns`")
    return p.network


def ways(wire: Wire) -> list[Way]:
    """Both directions for each peer."""
    pairs = ((Way(nft.TO, wire.target, peer), Way(nft.FROM, peer, wire.target)) for peer in wire.peers)
    return [way for pair in pairs for way in pair]


def send(p: Ports, along: Sequence[Way], kind: Literal["datagrams", "connect"], count: int) -> list[Echo]:
    """The same probe along each way, all at once."""
    return network(p).probe([Probe(kind, way.sender, way.receiver, count) for way in along])


def prepare(
    p: Ports, t: Target, peers: Peers, action: str, chains: Sequence[str], hold_s: float,
    queue: str | None = None,
) -> Undo:  # fmt: skip
    """Find everybody, make sure that nothing is cut yet, and say how the table (and queue) goes away."""
    net = network(p)
    found = p.processes.find(t)
    if not found.tree:
        raise FaultError(f"{t.name} (pid {found.identity.pid}) is not there any more")
    wire = net.wire(t, named(peers))
    _refuse_cut(p, t, wire)
    timeout_s = hold_s + EFFECT_S + 2 * p.recover_timeout_s + GRACE_S  # the guardian comes earlier
    addresses = tuple(sorted(one for peer in wire.peers for one in peer.addresses))
    table = nft.PREFIX + p.mark if p.mark else nft.name(wire.target.netns, clock.now_ns())
    host = {"host": t.name, "netns": wire.target.netns, "inode": wire.target.inode}
    ops: list[dict[str, Any]] = []
    if queue is not None:
        handle = tc.handle(table)
        ops.append({"op": "tc_root", **host, "device": wire.target.device, "kind": queue, "handle": handle})
        action = action.format(classid=tc.classid(handle))
    rules = nft.Rules(tuple(chains), action, addresses, timeout_s)
    whole_until_ns = clock.now_ns() + int(timeout_s * clock.NS)
    ops.insert(
        0,
        {
            "op": "nft_table",
            **host,
            "table": table,
            "text": nft.text(table, rules),
            "whole_until_ns": whole_until_ns,
        },
    )
    saved: dict[str, Any] = {"wire": _plain(wire)}
    foreign = nft.tables(net.run(wire.target, nft.show_all()))
    if foreign:
        saved["note"] = f"tables on {t.name} that are not this fault's, left alone: {', '.join(foreign)}"
    return Undo(tuple(ops), found.identity, saved, EFFECT_S)


def wire_of(undo: Undo) -> Wire:
    """Who was found by `prepare`."""
    plain = undo.saved["wire"]
    target, client = (_host(plain[name]) for name in ("target", "client"))
    return Wire(target, tuple(_host(one) for one in plain["peers"]), client)


def inject(p: Ports, t: Target, undo: Undo) -> None:
    """Load the table, if the target and its host are the ones that were found."""
    if p.processes.stat(undo.identity) is None:
        raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
    host = wire_of(undo).target
    network(p).run(host, nft.add(str(undo.ops[0]["text"])))


def prove_counted(p: Ports, t: Target, undo: Undo, chains: Sequence[str]) -> dict[str, int]:
    """Packets that our rules matched, by chain. Raises FaultError when one matched nothing."""
    host, table = wire_of(undo).target, str(undo.ops[0]["table"])
    counted = nft.counters(network(p).run(host, nft.show_counters(table)))
    for chain in chains:
        if not counted.get(chain):
            raise FaultError(f"{t.name}: no packet matched the rules of {table}, chain {chain}: they miss it")
    return counted


def prove_reachable(p: Ports, t: Target, undo: Undo) -> None:
    """The load generator's side still reaches the target: squall's own paths are never cut."""
    wire = wire_of(undo)
    (echo,) = network(p).probe([Probe("connect", wire.client, wire.target)])
    if echo.answer != "accepted":
        raise FaultError(
            f"{t.name}: squall's own way to it is cut too ({echo.answer}): the run can't be judged"
        )


def recover(t: Target, undo: Undo) -> dict[str, Any] | None:
    """Remove our table and our queue. `drifted`: who else changed them. Raises FaultError when one stays."""
    drifted = []
    for outcome in undo_ops.apply(undo.ops):
        if outcome["did"] == "failed":
            raise FaultError(f"{t.name}: {outcome['error']}")
        if outcome.get("drifted"):
            drifted.append(str(outcome["drifted"]))
    return {"drifted": drifted} if drifted else None


def verify_recovered(p: Ports, t: Target, undo: Undo) -> Evidence:
    """Ours is gone, packets pass both ways, the target serves. at_ns: the first packet that passed."""
    left = undo_ops.verify(undo.ops)
    if left:
        raise FaultError(f"{t.name}: not undone: {'; '.join(left)}")
    passed_ns = _await_open(p, t, wire_of(undo))
    serving = await_serving(p, t, gone_when="running")
    proof = f"nothing of the fault is left, packets pass both ways; {serving.proof}"
    return Evidence(proof, passed_ns, serving.facts)


def _refuse_cut(p: Ports, t: Target, wire: Wire) -> None:
    for way, echo in zip(ways(wire), send(p, ways(wire), "datagrams", FEW), strict=True):
        if echo.arrived < echo.sent:
            raise FaultError(
                f"{t.name}: {way} was cut before the fault: {echo.arrived} of {echo.sent} datagrams arrive"
            )


def _await_open(p: Ports, t: Target, wire: Wire) -> int:
    """The instant from which on packets pass both ways."""
    end = clock.now_ns() + int(p.recover_timeout_s * clock.NS)
    while True:
        echoes = send(p, ways(wire), "datagrams", FEW)
        shut = list(_shut(ways(wire), echoes))
        if not shut:
            return max(echo.arrived_ns or 0 for echo in echoes)
        if clock.now_ns() >= end:
            raise FaultError(
                f"{t.name}: packets don't pass {p.recover_timeout_s:g} s after undo: {', '.join(shut)}"
            )
        clock.sleep_s(_LOOK_S)


def _shut(along: Sequence[Way], echoes: Sequence[Echo]) -> Iterator[str]:
    return (str(way) for way, echo in zip(along, echoes, strict=True) if echo.arrived < echo.sent)


def _plain(wire: Wire) -> dict[str, Any]:
    hosts = [
        {**dataclasses.asdict(one), "addresses": list(one.addresses)}
        for one in (wire.target, wire.client, *wire.peers)
    ]
    return {"target": hosts[0], "client": hosts[1], "peers": hosts[2:]}


def _host(plain: dict[str, Any]) -> Host:
    return Host(**{**plain, "addresses": tuple(plain["addresses"])})
