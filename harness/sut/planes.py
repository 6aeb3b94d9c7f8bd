"""Discovery by etcd and the NATS request plane: which servers a scenario wants, and what Dynamo is told.

Pure but for finding the binaries. They are processes of the system like any other: roles etcd and
nats, started before the others, data under the run's discovery directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.core import proc
from harness.core.config import Scenario, Sut
from harness.core.errors import ScenarioError, UsageError
from harness.core.rundir import RunDir
from harness.core.sutfile import Process
from harness.sut import etcd, nats
from harness.sut.place import Place

ROLES = (etcd.ROLE, nats.ROLE)
SERVERS = {etcd.ROLE: (etcd.COMMAND, etcd.PACKAGE), nats.ROLE: (nats.COMMAND, nats.PACKAGE)}


def names(sut: Sut) -> list[str]:
    """etcd-1, ..., nats-1. Each needs two ports on its host."""
    return [f"{role}-{index}" for role, count in sut.servers.items() for index in range(1, count + 1)]


def find(command: str) -> str | None:
    """Where a server's binary is, None when it isn't installed."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:{proc.SYSTEM_PATH}")


def check(scenario: Scenario, file: str) -> None:
    """Raise ScenarioError when a server that the scenario needs isn't installed."""
    for role, path in ((etcd.ROLE, "sut.discovery"), (nats.ROLE, "sut.request_plane")):
        command, package = SERVERS[role]
        if role in scenario.sut.servers and find(command) is None:
            what = f"{role!r} needs `{command}`, which isn't on the PATH"
            raise ScenarioError(file, path, what, f"apt-get install {package}")


def processes(
    places: Sequence[Place], run: RunDir, token: str, env: Callable[[str], Mapping[str, str]]
) -> list[Process]:
    """The servers to start at these places, pid 0 for now. env: of a process by its name.

    Raises UsageError when a binary is missing.
    """
    members = [place for place in places if _role(place) == etcd.ROLE]
    found = []
    metrics: str | None
    for place in places:
        if _role(place) == etcd.ROLE:
            data = run.discovery / place.name
            argv = etcd.argv(_binary(etcd.ROLE), members, place, data, token)
            base = etcd.client_url(place)
            health, metrics = f"{base}/health", f"{base}/metrics"
        else:
            argv = nats.argv(_binary(nats.ROLE), place)
            health, metrics = f"{nats.monitor_url(place)}/healthz", None
        found.append(
            Process(
                name=place.name, role=_role(place), index=int(place.name.rpartition("-")[2]), pid=0,
                start_ticks=0, argv=place.host.argv(argv), env=dict(env(place.name)), cwd=str(run.path),
                log=str(run.log(place.name)), port=place.port, health=[health], metrics=metrics,
                address=place.host.address, netns=place.host.netns,
            )
        )  # fmt: skip
    return found


def dynamo_env(sut: Sut, places: Sequence[Place], file_kv: Path) -> dict[str, str]:
    """What tells Dynamo's processes how to find each other and how requests travel.

    Events go from process to process (zmq) whatever carries the requests.
    """
    by_role = {role: [place for place in places if _role(place) == role] for role in ROLES}
    env: dict[str, str] = {"DYN_DISCOVERY_BACKEND": sut.discovery, "DYN_REQUEST_PLANE": sut.request_plane}
    env["DYN_EVENT_PLANE"] = "zmq"
    if sut.discovery == "etcd":
        env["ETCD_ENDPOINTS"] = ",".join(etcd.client_url(place) for place in by_role[etcd.ROLE])
    else:
        env["DYN_FILE_KV"] = str(file_kv)
    if sut.request_plane == "nats":
        env["NATS_SERVER"] = nats.url(by_role[nats.ROLE][0])
    return env


def _role(place: Place) -> str:
    return place.name.rpartition("-")[0]


def _binary(role: str) -> str:
    command, package = SERVERS[role]
    found = find(command)
    if found is None:
        raise UsageError(f"`{command}` isn't on the PATH; apt-get install {package}")
    return found
