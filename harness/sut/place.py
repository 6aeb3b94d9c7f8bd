"""Where a server of the control plane listens."""

from __future__ import annotations

from typing import NamedTuple

from harness.sut.hosts import Host


class Place(NamedTuple):
    """A planned process, its host, and two ports of its own there."""

    name: str  # etcd-1
    host: Host
    port: int  # for clients
    side_port: int  # etcd: for the other members; NATS: monitoring
