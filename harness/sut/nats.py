"""The NATS server as a process of the system: what to start, and what it says of its clients.

Its monitoring pages answer what no client can: who is connected, from which port, and to what each
connection listens. Knows nothing of Dynamo.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from typing import NamedTuple

from harness.core import fetch
from harness.sut.place import Place

COMMAND, PACKAGE = "nats-server", "nats-server"
ROLE = "nats"
TIMEOUT_S = 1.0
MAX_CONNECTIONS = 4096


class Connection(NamedTuple):
    """A client's connection, by its own end, and the subjects that it listens to."""

    address: str
    port: int
    subjects: tuple[str, ...]


def argv(binary: str, place: Place) -> list[str]:
    """The server's command line. No JetStream: Dynamo's request plane doesn't store anything."""
    ports = ["-p", str(place.port), "-m", str(place.side_port)]
    return [binary, "-a", place.host.address, *ports, "--name", place.name]


def url(place: Place) -> str:
    """Where clients connect."""
    return f"nats://{place.host.address}:{place.port}"


def monitor_url(place: Place) -> str:
    """Base of /healthz and /connz."""
    return f"http://{place.host.address}:{place.side_port}"


def connections(monitor: str, vantage: str | None = None) -> list[Connection] | None:
    """Who is connected now; None when the server doesn't answer."""
    try:
        answer = fetch.get(f"{monitor}/connz?subs=1&limit={MAX_CONNECTIONS}", {}, TIMEOUT_S, vantage)
    except (OSError, HTTPException):
        return None
    body = answer.json()
    listed = body.get("connections") if isinstance(body, Mapping) else None
    if answer.status != 200 or not isinstance(listed, list):
        return None
    return [
        Connection(str(one.get("ip")), int(one.get("port", 0)), tuple(one.get("subscriptions_list") or ()))
        for one in listed
        if isinstance(one, Mapping)
    ]
