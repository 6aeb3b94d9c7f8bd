"""Hosts: where each process of a system is put, and the network between them.

On `local` every process is on this host, at 127.0.0.1. On `netns` each has a namespace of its own,
and so has the load generator's side (`client`): one device, eth0, on a bridge in one more namespace
(`switch`). Nothing of it is in our own namespace, so the hosts of two runs never meet, and all of it
is gone with the namespaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core import netns
from harness.core.errors import ProvisionError
from harness.sut.ports import LOOPBACK

CLIENT = "client"  # the load generator's side
SWITCH = "switch"  # holds the bridge, and no process
BRIDGE = "br0"
MAX_HOSTS = 250  # of a /24


@dataclass(frozen=True)
class Host:
    """Where one process listens, and in which namespace (None: ours)."""

    address: str = LOOPBACK
    netns: str | None = None
    interface: str = "lo"

    def argv(self, argv: Sequence[str]) -> list[str]:
        """argv that starts a process on this host."""
        return netns.command(self.netns, argv)

    def filled(self, text: str) -> str:
        """`text` with this host's {address} and {interface}."""
        return text.replace("{address}", self.address).replace("{interface}", self.interface)


LOCAL = Host()


def plan(platform: str, sut_id: str, names: Sequence[str]) -> dict[str, Host]:
    """Process name to host, `client` included; a pure function."""
    if platform != "netns":
        return dict.fromkeys((CLIENT, *names), LOCAL)
    digest = hashlib.sha256(sut_id.encode()).digest()
    net = f"198.{18 + digest[-2] % 2}.{digest[-1]}"  # RFC 2544: of no real network, if we ever asked from outside
    start = netns.prefix(sut_id)
    return {
        name: Host(f"{net}.{n}", f"{start}{name}", "eth0") for n, name in enumerate((CLIENT, *names), start=1)
    }


def namespaces(hosts: Mapping[str, Host], sut_id: str) -> list[str]:
    """Names of all namespaces that `build` makes, the switch's too; none for local hosts."""
    found = [host.netns for host in hosts.values() if host.netns is not None]
    return [netns.prefix(sut_id) + SWITCH, *found] if found else []


def build(hosts: Mapping[str, Host], sut_id: str) -> None:
    """Make the namespaces and the network between them; nothing for local hosts. Raises ProvisionError."""
    if not namespaces(hosts, sut_id):
        return
    switch = netns.prefix(sut_id) + SWITCH
    try:
        netns.add(switch, sut_id)
        netns.ip("-n", switch, "link", "add", BRIDGE, "type", "bridge", sut_id=sut_id)
        netns.ip("-n", switch, "link", "set", BRIDGE, "addrgenmode", "none", "up", sut_id=sut_id)
        for name, host in hosts.items():
            if host.netns is not None:
                _join(name, host.netns, host, switch, sut_id)
    except (OSError, TimeoutError) as error:
        raise ProvisionError(f"network namespaces can't be made: {error}; `squall doctor` tries it") from None


def _join(name: str, namespace: str, host: Host, switch: str, sut_id: str) -> None:
    """A host with its eth0 on the bridge; the bridge's port bears the host's name."""
    device, port = host.interface, name[-15:].lstrip("-")  # what a device may be called
    netns.add(namespace, sut_id)
    for where, *args in (
        (namespace, "link", "add", device, "type", "veth", "peer", "name", port, "netns", switch),
        (namespace, "addr", "add", f"{host.address}/24", "dev", device),
        (namespace, "link", "set", device, "addrgenmode", "none", "up"),
        (switch, "link", "set", port, "master", BRIDGE, "addrgenmode", "none", "up"),
    ):
        netns.ip("-n", where, *args, sut_id=sut_id)
