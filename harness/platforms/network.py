"""The network port of faults on hosts that are network namespaces, read from sut.json.

Owns who is where, what the kernel can do to packets, commands and probes on hosts. Touches only
namespaces that sut.json names, and never the load generator's side. Knows no fault.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from faults import tc, undo_network
from faults.peers import ALL, CLIENT, is_name, roles
from faults.ports import CAPABILITIES, Echo, Host, Probe, Target, Wire
from harness.core import ids, netns, proc, sutfile
from harness.core.errors import FaultError, TargetError
from harness.core.rundir import RunDir, project_root
from harness.core.sutfile import Process, SutState

COMMANDS = ("ip", "nft", "tc", "ss", "nsenter")
QUEUES = ("htb", "tbf", "netem")
_PROBE_S = 60.0
_PROGRAM = Path(__file__).with_name(
    "netprobe.py"
)  # by its path: our package needs more than the standard library


def refusal() -> str | None:
    """Why this machine can't cut, slow or reset anything between hosts; None when it can."""
    why = netns.refusal()
    lacking = [name for name in COMMANDS if shutil.which(name, path=proc.SYSTEM_PATH) is None]
    return why or (
        f"needs {', '.join(lacking)}: apt-get install iproute2 nftables util-linux" if lacking else None
    )


def offers() -> frozenset[str]:
    """What faults get here: the port, and what the kernel can do of faults.ports.CAPABILITIES."""
    return frozenset() if refusal() else frozenset({"network"}) | ({*CAPABILITIES} & _known_queues())


def kernel_queues() -> frozenset[str]:
    """Kinds of queues that this kernel has, tried on a namespace made for it. Raises OSError."""
    found = set()
    name = f"{netns.prefix(ids.token())}try"
    netns.add(name)
    try:
        for kind in QUEUES:
            if all(undo_network.run(name, argv).code == 0 for argv in tc.tries(kind)):
                found.add(kind)
            undo_network.run(name, tc.delete("lo"))
    finally:
        netns.remove(name)
    return frozenset(found)


def _known_queues() -> frozenset[str]:
    """None where they can't be tried: no fault may count on them then."""
    try:
        return kernel_queues()
    except OSError:
        return frozenset()


class NamespaceNetwork:
    """faults.ports.NetworkControl."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def wire(self, target: Target, peers: Sequence[str]) -> Wire:
        """Who is where now. Raises FaultError for a peer that isn't there, or that shares the target's host."""
        state = sutfile.load(self._run)
        mine = _process(state, target.name)
        others = _chosen(state, mine, peers)
        for one in others:
            if one.netns == mine.netns:
                raise FaultError(
                    f"{target.name}: {one.name} is on the same host: nothing between them to cut"
                )
        if state.vantage is None:
            raise FaultError("sut.json names no host of the load generator's side: write `platform: netns`")
        client = _host(CLIENT, state.vantage)
        return Wire(_place(mine), tuple(_place(one) for one in others), client)

    def queues(self) -> frozenset[str]:
        """htb, tbf, netem, as far as the kernel has them."""
        return self._queues

    @cached_property
    def _queues(self) -> frozenset[str]:
        return frozenset() if refusal() else _known_queues()

    def run(self, host: Host, argv: Sequence[str]) -> str:
        """Output of a command on a host. Raises FaultError with what it said."""
        if undo_network.inode(host.netns) != host.inode:
            raise FaultError(f"{host.name}: its host {host.netns} is gone")
        try:
            done = undo_network.run(host.netns, argv)
        except OSError as error:
            raise FaultError(f"{host.name}: {argv[0]}: {error}") from None
        if done.code != 0:
            raise FaultError(f"{host.name}: `{argv[0]}` refused: {' '.join(done.err.split())}")
        return done.out

    def probe(self, probes: Sequence[Probe]) -> list[Echo]:
        """All at once, in a process of their own. Raises FaultError when the probe itself doesn't work."""
        jobs = [
            {**dataclasses.asdict(one), "sender": _end(one.sender), "receiver": _end(one.receiver)}
            for one in probes
        ]
        argv = [sys.executable, "-S", "-P", str(_PROGRAM), json.dumps(jobs)]
        env = {"PATH": proc.SYSTEM_PATH, "PYTHONPATH": str(project_root())}
        try:
            done = proc.run(argv, env=env, timeout_s=_PROBE_S)
        except OSError as error:
            raise FaultError(f"probe packets can't be sent: {error}") from None
        if done.code != 0:
            raise FaultError(f"probe packets can't be sent: {done.err.strip()[-300:]}")
        return [Echo(**one) for one in json.loads(done.out)]

    def connections(self, wire: Wire) -> list[str]:
        """Established connections of the target's host with its peers, as /proc lists them."""
        peers = {address for peer in wire.peers for address in peer.addresses}
        pid = _process(sutfile.load(self._run), wire.target.name).pid
        return sorted(
            f"{ours} {theirs}" for ours, theirs in established(pid) if theirs.rpartition(":")[0] in peers
        )


def established(pid: int) -> Iterator[tuple[str, str]]:
    """(own end, other end) of each established TCP connection on the host of this process."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "01":
                yield _end_of(fields[1]), _end_of(fields[2])


def _end_of(text: str) -> str:
    """`0100007F:1F90` as /proc writes it to `127.0.0.1:8080`; a v4 address in v6's clothes is v4."""
    address, _, port = text.rpartition(":")
    raw = b"".join(bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8))
    ip = ipaddress.ip_address(raw)
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return f"{plain}:{int(port, 16)}"


def _end(host: Host) -> dict[str, str]:
    if not host.addresses:
        raise FaultError(f"{host.name}: its host {host.netns} has no address")
    return {"netns": host.netns, "address": host.addresses[0]}


def _process(state: SutState, name: str) -> Process:
    try:
        return state.process(name)
    except TargetError as error:
        raise FaultError(str(error)) from None


def _chosen(state: SutState, mine: Process, peers: Sequence[str]) -> list[Process]:
    """The processes that roles and names mean, the target left out of its own role."""
    found: dict[str, Process] = {}
    for word in peers:
        if word == mine.name:
            raise FaultError(f"{mine.name} can't be its own peer: name others")
        group = [
            one for one in state.processes if word == ALL or (one.role in roles(word) and not is_name(word))
        ]
        group = group or [_process(state, word)]
        found |= {one.name: one for one in group if one.name != mine.name}
    if not found:
        raise FaultError(f"{mine.name}: {', '.join(peers)} means nobody but itself: name others")
    return [found[name] for name in sorted(found)]


def _place(process: Process) -> Host:
    if process.netns is None:
        raise FaultError(f"{process.name} has no host of its own: write `platform: netns`")
    return _host(process.name, process.netns)


def _host(name: str, namespace: str) -> Host:
    """Its addresses as its kernel has them, v4 first, and the device of the first one."""
    inode = undo_network.inode(namespace)
    if inode is None:
        raise FaultError(f"{name}: its host {namespace} is gone")
    try:
        links = json.loads(netns.ip("-n", namespace, "-json", "addr", "show"))
    except (OSError, ValueError) as error:
        raise FaultError(f"{name}: {error}") from None
    found = [
        (":" in one["local"], one["local"], link["ifname"])
        for link in links
        if "LOOPBACK" not in link["flags"]
        for one in link["addr_info"]
    ]
    found.sort()
    if not found:
        raise FaultError(f"{name}: its host {namespace} has no address")
    return Host(name, namespace, inode, found[0][2], tuple(address for _, address, _ in found))
