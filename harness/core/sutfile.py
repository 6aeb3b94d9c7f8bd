"""sut.json: what the system under test is made of, where it listens and who its processes are.

Faults touch only what is named here. Written 0600: environments hold the engine's control token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

import msgspec

from harness.core import proc, rundir
from harness.core.errors import TargetError, UsageError
from harness.core.proc import Identity
from harness.core.rundir import RunDir

ENGINES = frozenset({"worker", "prefill"})
"""Roles whose processes run an engine: frontends list their instances."""


class Process(msgspec.Struct, kw_only=True):
    """One process of the SUT. `name` is the planned target, such as worker-1."""

    name: str
    role: str  # worker | prefill | frontend | ...
    index: int  # from 1, within the role
    pid: int
    start_ticks: int
    argv: list[str] = []  # empty: an outside process, which we can't start again
    env: dict[str, str] = {}
    cwd: str | None = None
    log: str | None = None
    port: int | None = None  # of the service itself (a frontend's HTTP port)
    health: list[str] = []  # full URLs of its readiness, bodies are read: what "ready" means everywhere
    live: list[str] = []  # full URLs of its liveness: probed and shown, nobody acts on them
    metrics: str | None = None  # full URL of /metrics
    control_port: int | None = None  # the witness engine's control socket, 127.0.0.1 of its host
    address: str = "127.0.0.1"  # where its service listens, on its host
    netns: str | None = None  # name of its network namespace (`ip netns`); None: squall's own

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)


class SutState(msgspec.Struct, kw_only=True):
    """The whole of sut.json."""

    schema: int = 1
    sut_id: str  # value of proc.SUT_ENV in every process of it
    owner: Literal["run", "up", "outside"]  # who made it, so who may tear it down
    dynamo: str | None = None
    engine: str | None = None
    oracle: Literal["witness", "count"]
    model: str
    urls: list[str]  # base URLs of the frontends, the first is the default
    headers_env: dict[str, str] = {}
    control_token: str | None = None
    discovery_dir: str | None = None
    health: list[str] = []  # an outside system's, owned by no process named here
    metrics: list[str] = []
    processes: list[Process] = []
    namespaces: list[str] = []
    vantage: str | None = None  # the namespace from which clients and probes reach it; None: squall's own

    def process(self, name: str) -> Process:
        """The process named `name`. Raises TargetError."""
        for one in self.processes:
            if one.name == name:
                return one
        names = ", ".join(p.name for p in self.processes) or "none"
        raise TargetError(f"sut.json: no target {name!r}; this system has {names}")

    def engines(self) -> list[Process]:
        """Processes that frontends list, in the order of sut.json."""
        return [p for p in self.processes if p.role in ENGINES]

    def role(self, role: str) -> list[Process]:
        """Processes of one role, by index."""
        return sorted((p for p in self.processes if p.role == role), key=lambda p: p.index)


def listener(processes: Iterable[Process], address: str, port: int) -> str | None:
    """The process that listens on a port of the host at `address`, None when none of these does.

    Two hosts may use the same port, so the address tells them apart; processes of our own host may
    be reached by any of its addresses.
    """
    for one in processes:
        here = one.netns is None or one.address == address
        if here and port in proc.listening_ports(one.pid):
            return one.name
    return None


def load(run: RunDir) -> SutState:
    """Read sut.json. Raises UsageError when absent or torn."""
    data = rundir.read_json(run.sut)
    try:
        return msgspec.convert(data, SutState)
    except msgspec.ValidationError as error:
        raise UsageError(f"{run.sut}: {error}") from None


def save(run: RunDir, state: SutState) -> None:
    """Write sut.json atomically."""
    rundir.write_atomic(run.sut, json.dumps(msgspec.to_builtins(state), indent=2).encode() + b"\n")


def replace_identity(run: RunDir, name: str, who: Identity) -> SutState:
    """Write down that target `name` is another process now; the fresh state is returned."""
    state = load(run)
    process = state.process(name)
    process.pid, process.start_ticks = who
    save(run, state)
    return state
