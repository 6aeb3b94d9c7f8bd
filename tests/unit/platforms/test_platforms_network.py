"""The network port on real hosts: who is where, what passes, and what it refuses to touch."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator

import pytest

from faults import undo_network
from faults.ports import Host, Probe, Target
from harness.core import netns, sutfile
from harness.core.errors import FaultError
from harness.platforms import network
from harness.platforms.network import NamespaceNetwork
from tests.fixtures import hosts_lab
from tests.fixtures.faults_lab import Lab

pytestmark = pytest.mark.netns

WORKER = Target("worker", 1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with hosts_lab.system(tmp_path_factory.mktemp("hosts"), workers=3, others=["etcd-1", "nats-1"]) as made:
        yield made


@pytest.fixture
def net(lab: Lab) -> NamespaceNetwork:
    return NamespaceNetwork(lab.run)


@pytest.mark.parametrize(
    ("peers", "names"),
    [
        (["frontend"], ["frontend-1"]),
        (["worker"], ["worker-2", "worker-3"]),
        (["control_plane"], ["etcd-1", "nats-1"]),
        (["all"], ["etcd-1", "frontend-1", "nats-1", "worker-2", "worker-3"]),
        (["nats-1", "worker-2", "nats"], ["nats-1", "worker-2"]),
    ],
)
def test_roles_and_names(net: NamespaceNetwork, peers: list[str], names: list[str]) -> None:
    wire = net.wire(WORKER, peers)
    assert [one.name for one in wire.peers] == names
    assert (wire.target.name, wire.client.name) == ("worker-1", "client")
    assert wire.client.netns not in {one.netns for one in [wire.target, *wire.peers]}


@pytest.mark.parametrize(
    ("target", "peers", "said"),
    [
        (WORKER, ["worker-9"], "no target 'worker-9'; this system has frontend-1, worker-1"),
        (WORKER, ["worker-1"], "can't be its own peer"),
        (WORKER, ["client"], "no target 'client'"),
        (Target("frontend", 1), ["frontend"], "means nobody but itself"),
        (Target("worker", 9), ["frontend"], "no target 'worker-9'"),
    ],
)
def test_refused_peers(net: NamespaceNetwork, target: Target, peers: list[str], said: str) -> None:
    with pytest.raises(FaultError, match=said):
        net.wire(target, peers)


def test_two_on_one_host_have_nothing_between_them(net: NamespaceNetwork, lab: Lab) -> None:
    state = lab.state
    process = state.process("worker-2")
    mine, process.netns = process.netns, state.process("worker-1").netns
    sutfile.save(lab.run, state)
    try:
        with pytest.raises(FaultError, match="worker-2 is on the same host"):
            net.wire(WORKER, ["worker"])
        process.netns = None
        sutfile.save(lab.run, state)
        with pytest.raises(FaultError, match="worker-2 has no host of its own"):
            net.wire(WORKER, ["worker"])
    finally:
        process.netns = mine
        sutfile.save(lab.run, state)


def test_an_address_is_what_the_kernel_says(net: NamespaceNetwork, lab: Lab) -> None:
    host = net.wire(WORKER, ["frontend"]).target
    assert host.addresses == (lab.state.process("worker-1").address,) and host.device == "eth0"
    assert host.inode == undo_network.inode(host.netns)


def test_commands_run_on_the_host_that_was_found(net: NamespaceNetwork) -> None:
    host = net.wire(WORKER, ["frontend"]).target
    assert host.addresses[0] in net.run(host, ["ip", "addr", "show", "eth0"])
    with pytest.raises(FaultError, match=r"worker-1: `ip` refused: .*nothing"):
        net.run(host, ["ip", "link", "show", "nothing"])
    with pytest.raises(FaultError, match=r"worker-1: `nonesuch` refused: .*nonesuch"):
        net.run(host, ["nonesuch"])
    with pytest.raises(FaultError, match=r"its host .* is gone"):
        net.run(dataclasses.replace(host, inode=1), ["ip", "addr"])


def test_probes_travel_between_the_very_hosts(net: NamespaceNetwork) -> None:
    wire = net.wire(WORKER, ["frontend"])
    here, there = wire.target, wire.peers[0]
    datagrams, connect, rate, echo = net.probe(
        [
            Probe("datagrams", here, there, 500),
            Probe("connect", there, here),
            Probe("rate", here, there, 100_000, 1.0),
            Probe("echo", there, here, 3),
        ]
    )
    assert (datagrams.sent, datagrams.arrived) == (500, 500)
    assert datagrams.arrived_ns is not None and datagrams.arrived_ns > datagrams.sent_ns
    assert connect.answer == "accepted"
    assert rate.arrived >= 100_000 and rate.kbit_per_s > 1000
    assert echo.arrived == 3 and echo.rtt_ms is not None and echo.rtt_ms > 0


def test_a_path_that_is_cut_is_silent(net: NamespaceNetwork) -> None:
    """The other host's device is down: no rule of ours, and no loopback that could stand in."""
    wire = net.wire(WORKER, ["etcd"])
    here, there = wire.target, wire.peers[0]
    netns.ip("-n", there.netns, "link", "set", "eth0", "down")
    try:
        gone, refused, slow = net.probe(
            [
                Probe("datagrams", here, there, 5),
                Probe("connect", here, there),
                Probe("echo", here, there, 1, 0.2),
            ]
        )
    finally:
        netns.ip("-n", there.netns, "link", "set", "eth0", "up")
    assert (gone.sent, gone.arrived, gone.arrived_ns) == (5, 0, None)
    assert refused.answer == "silent" and slow.rtt_ms is None and slow.arrived == 0


def test_a_probe_that_can_not_be_sent_is_said(net: NamespaceNetwork) -> None:
    wire = net.wire(WORKER, ["frontend"])
    with pytest.raises(FaultError, match="probe packets can't be sent"):
        net.probe([Probe("connect", wire.target, Host("x", "sq-nowhere", 1, "eth0", ("10.0.0.1",)))])


def test_a_kill_resets_a_live_connection(net: NamespaceNetwork) -> None:
    wire = net.wire(WORKER, ["frontend"])
    here, there = wire.target, wire.peers[0]
    kill = ("ss", "--kill", "--tcp", "--no-header", "dst", there.addresses[0])
    assert net.probe([Probe("kill", here, there, argv=kill)])[0].answer == "reset"
    missed = (*kill[:-1], "192.0.2.1")
    assert net.probe([Probe("kill", here, there, argv=missed)])[0].answer == "accepted"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections_as_the_kernel_lists_them(family: socket.AddressFamily) -> None:
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]) as client:
            ends = tuple(f"{address}:{end[1]}" for end in (client.getsockname(), client.getpeername()))
            assert ends in list(network.established(os.getpid()))
        with server.accept()[0]:
            pass
    assert list(network.established(2**22)) == []


def test_connections_between_target_and_peers(net: NamespaceNetwork, lab: Lab) -> None:
    wire = net.wire(WORKER, ["nats"])
    here, there = wire.target, wire.peers[0]
    assert net.connections(wire) == []
    with netns.socket_in(there.netns) as server:
        server.bind((there.addresses[0], 0))
        server.listen()
        with netns.connect(here.netns, server.getsockname(), 2):
            (line,) = net.connections(wire)
    assert (
        line.startswith(f"{here.addresses[0]}:")
        and line.split()[1] == f"{there.addresses[0]}:{line.rpartition(':')[2]}"
    )


def test_what_is_offered_is_what_the_kernel_can(lab: Lab) -> None:
    queues = network.kernel_queues()
    assert queues <= {"htb", "tbf", "netem"}
    assert network.offers() == {"network"} | (queues & {"netem"})
    assert lab.ports().offers >= network.offers()


def test_without_a_command_there_is_no_port(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(network, "COMMANDS", ("ip", "nonesuch"))
    assert "nonesuch" in (network.refusal() or "") and network.offers() == frozenset()
    assert "network" not in lab.ports().offers
