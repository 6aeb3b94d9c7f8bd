"""Real Dynamo with each process on a host of its own: it comes up, is reached, found and restarted there."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from sutclient import VERSIONS, System

from faults.ports import Target
from harness.core import clock, netns, proc, sutfile
from harness.platforms import PLATFORMS
from harness.sut import ready

pytestmark = [pytest.mark.sut, pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", params=VERSIONS)
def system(request: pytest.FixtureRequest, start: Callable[..., System]) -> System:
    return start(dynamo=request.param, platform="netns", workers=2)


def network_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def test_each_process_is_on_its_host_and_answers_there(system: System) -> None:
    state = system.state
    assert len({network_of(one.pid) for one in state.processes}) == 3
    for one in state.processes:
        assert one.netns is not None
        assert network_of(one.pid) == (netns.DIRECTORY / one.netns).stat().st_ino
        assert one.pid == proc.tree(one.identity)[0].pid and "nsenter" not in proc.command_line(one.pid)
        assert proc.environ(one.pid)[proc.TARGET_ENV] == one.name
        assert ready.ask(one.health[0], state.vantage) is not None
    assert set(ready.instances(state)) == {"worker-1", "worker-2"}
    assert {status["pid"] for status in system.command(command="status")} == {
        one.pid for one in state.role("worker")
    }


def test_a_request_crosses_the_hosts(system: System) -> None:
    reply = system.ask("say it\nkey: baba babe", 30)
    assert reply.positions(0, 1) == list(range(30)) and reply.done


def test_nothing_is_in_our_own_network(system: System) -> None:
    assert [name for _, name in socket.if_nameindex() if "worker" in name or "frontend" in name] == []
    routes = Path("/proc/net/route").read_text()
    net = system.state.processes[0].address.split(".")[:3]
    assert "".join(f"{int(octet):02X}" for octet in reversed(net)) not in routes


def test_a_worker_that_was_killed_comes_back_on_its_host(system: System) -> None:
    ports = PLATFORMS["netns"].ports(system.run, 15).processes
    worker = Target("worker", 1)
    found = ports.find(worker)
    assert found.ports and not any(ports.refuses(worker, port) for port in found.ports)
    proc.stop_all([found.identity], 0)
    assert clock.wait_until(lambda: all(ports.refuses(worker, port) for port in found.ports), 5)
    assert not ports.refuses(Target("worker", 2), ports.find(Target("worker", 2)).ports[0])
    assert found.respawn is not None
    who = ports.respawn(found.respawn)
    system.state = sutfile.load(system.run)
    assert system.state.process("worker-1").identity == who
    assert (
        network_of(who.pid) == (netns.DIRECTORY / str(system.state.process("worker-1").netns)).stat().st_ino
    )
    assert clock.wait_until(lambda: ports.serving(worker).healthy is True, 30)
    assert clock.wait_until(lambda: ports.serving(worker).listed is True, 30)


def test_with_the_system_its_hosts_are_gone(start: Callable[..., System]) -> None:
    from harness.sut import launch

    system = start(platform="netns", workers=1)
    prefix = netns.prefix(system.state.sut_id)
    assert sorted(netns.named(prefix)) == sorted(system.state.namespaces)
    assert launch.teardown(system.state) == []
    assert netns.named(prefix) == []
