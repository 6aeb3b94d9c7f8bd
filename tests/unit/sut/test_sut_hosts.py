"""Hosts: the plan is pure; the network between them is real, and gone with them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from harness.core import ids, netns
from harness.core.errors import ProvisionError
from harness.sut import hosts

NAMES = ["frontend-1", "worker-1", "worker-2"]


def test_locally_everything_is_here() -> None:
    placed = hosts.plan("local", "sut-1", NAMES)
    assert set(placed) == {"client", *NAMES} and set(placed.values()) == {hosts.LOCAL}
    assert hosts.namespaces(placed, "sut-1") == []
    hosts.build(placed, "sut-1")  # makes nothing
    assert hosts.LOCAL.argv(["a", "b"]) == ["a", "b"]
    assert hosts.LOCAL.filled("{address} {interface} x") == "127.0.0.1 lo x"


def test_on_netns_each_has_an_address_and_a_namespace_of_the_systems_own() -> None:
    placed = hosts.plan("netns", "sut-1", NAMES)
    assert placed == hosts.plan("netns", "sut-1", NAMES)
    start = netns.prefix("sut-1")
    assert [host.netns for host in placed.values()] == [f"{start}{name}" for name in ("client", *NAMES)]
    net = {host.address.rpartition(".")[0] for host in placed.values()}
    assert len(net) == 1 and net.pop().startswith("198.1")
    assert [host.address.rpartition(".")[2] for host in placed.values()] == ["1", "2", "3", "4"]
    assert {host.interface for host in placed.values()} == {"eth0"}
    other = hosts.plan("netns", "sut-2", NAMES)
    assert {host.netns for host in placed.values()}.isdisjoint({host.netns for host in other.values()})
    assert hosts.namespaces(placed, "sut-1")[0] == f"{start}switch"
    assert len(hosts.namespaces(placed, "sut-1")) == 5
    assert placed["worker-1"].filled("{address} {interface}") == f"{placed['worker-1'].address} eth0"


@pytest.fixture
def sut_id() -> Iterator[str]:
    found = ids.token()
    yield found
    netns.remove(netns.prefix(found))


@pytest.mark.netns
def test_hosts_reach_each_other_and_nothing_is_left_here(sut_id: str) -> None:
    before = sorted(socket.if_nameindex())
    placed = hosts.plan("netns", sut_id, [*NAMES, "a-very-long-role-name-1"])
    hosts.build(placed, sut_id)
    assert netns.named(netns.prefix(sut_id)) == sorted(hosts.namespaces(placed, sut_id))
    assert sorted(socket.if_nameindex()) == before
    for name in ("worker-1", "a-very-long-role-name-1"):
        host = placed[name]
        with netns.socket_in(host.netns) as server:
            server.bind((host.address, 4711))  # the same port on each
            server.listen()
            for other in placed.values():
                with netns.connect(other.netns, (host.address, 4711), 5) as client:
                    assert client.getsockname()[0] == other.address
    with pytest.raises(ConnectionRefusedError):
        netns.connect(placed["client"].netns, (placed["worker-1"].address, 4711), 5)
    gone, problems = netns.remove(netns.prefix(sut_id))
    assert (sorted(gone), problems) == (sorted(hosts.namespaces(placed, sut_id)), [])
    assert sorted(socket.if_nameindex()) == before


@pytest.mark.netns
def test_two_systems_at_the_same_addresses_do_not_meet(sut_id: str) -> None:
    other_id = ids.token()
    one, two = (hosts.plan("netns", which, ["worker-1"]) for which in (sut_id, other_id))
    two = {name: hosts.Host(one[name].address, host.netns, host.interface) for name, host in two.items()}
    try:
        hosts.build(one, sut_id)
        hosts.build(two, other_id)
        with netns.socket_in(one["worker-1"].netns) as server:
            server.bind((one["worker-1"].address, 4711))
            server.listen()
            with pytest.raises(ConnectionRefusedError):
                netns.connect(two["client"].netns, (two["worker-1"].address, 4711), 5)
    finally:
        netns.remove(netns.prefix(other_id))


@pytest.mark.netns
def test_what_is_in_the_way_is_named(sut_id: str) -> None:
    netns.add(f"{netns.prefix(sut_id)}client")
    with pytest.raises(ProvisionError, match=r"namespaces can't be made: .*File exists; `squall doctor`"):
        hosts.build(hosts.plan("netns", sut_id, NAMES), sut_id)
