"""The control plane as faults see it: etcd members and NATS servers, asked over the network.

Reads sut.json; touches nothing. A server that answers only its health page and not its own interface
doesn't answer.
"""

from __future__ import annotations

from faults.ports import Target, View
from harness.core import health, proc, sutfile
from harness.core.errors import FaultError, TargetError
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState
from harness.sut import etcd, nats, planes, ready


class Servers:
    """faults.ports.ControlPlane for the servers that sut.json names."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def servers(self, role: str) -> tuple[Target, ...]:
        """All of a role, by index."""
        return tuple(Target(one.role, one.index) for one in sutfile.load(self.run).role(role))

    def view(self, target: Target) -> View | None:
        """Ask exactly this server; None when it doesn't answer. Raises FaultError for one that isn't there."""
        state = sutfile.load(self.run)
        try:
            process = state.process(target.name)
        except TargetError as error:
            raise FaultError(str(error)) from None
        return _etcd(process, state) if process.role == etcd.ROLE else _nats(process, state)


def of(run: RunDir) -> Servers | None:
    """The control plane of a system that squall started, None where it has none."""
    state = sutfile.load(run)
    has = state.owner != "outside" and any(one.role in planes.ROLES for one in state.processes)
    return Servers(run) if has else None


def _etcd(process: Process, state: SutState) -> View | None:
    url = process.health[0].removesuffix("/health")
    said = etcd.status(url, state.vantage)
    if said is None:
        return None
    names = {ident: name for name, ident in (etcd.members(url, state.vantage) or {}).items()}
    leader = names.get(said.leader) if said.leader is not None else None
    return View(_healthy(process, state), leader, frozenset(names.values()))


def _nats(process: Process, state: SutState) -> View | None:
    monitor = process.health[0].removesuffix("/healthz")
    found = nats.connections(monitor, state.vantage)
    if found is None:
        return None
    ends = {(one.address, one.port) for one in found}
    clients = frozenset(
        one.name
        for one in state.processes
        if any((one.address, port) in ends for port in proc.connected_ports(one.pid))
    )
    return View(_healthy(process, state), clients=clients)


def _healthy(process: Process, state: SutState) -> bool:
    answer = ready.ask(process.health[0], state.vantage)
    return answer is not None and answer.status == 200 and health.ready(answer.json()) is True
