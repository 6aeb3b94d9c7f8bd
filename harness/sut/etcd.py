"""etcd members as processes of the system: what to start, and what a member says of itself.

The cluster is static: every member knows all of them, so one that is started again with its data
directory joins by itself. Knows nothing of Dynamo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import fetch
from harness.sut.place import Place

COMMAND, PACKAGE = "etcd", "etcd-server"
ROLE = "etcd"
TIMEOUT_S = 1.0
_JSON = {"Content-Type": "application/json"}


class Status(NamedTuple):
    """One member's own view. leader: a member's id, None when it knows none. term: of its election."""

    member_id: str
    leader: str | None
    term: int


def client_url(place: Place) -> str:
    """Where Dynamo, health checks and /metrics reach a member."""
    return f"http://{place.host.address}:{place.port}"


def argv(binary: str, members: Sequence[Place], mine: Place, data_dir: Path, token: str) -> list[str]:
    """One member's command line. `token` tells clusters apart that ever meet on one host."""
    peers = {place.name: f"http://{place.host.address}:{place.side_port}" for place in members}
    return [
        binary, "--name", mine.name, "--data-dir", str(data_dir),
        "--listen-client-urls", client_url(mine), "--advertise-client-urls", client_url(mine),
        "--listen-peer-urls", peers[mine.name], "--initial-advertise-peer-urls", peers[mine.name],
        "--initial-cluster", ",".join(f"{name}={url}" for name, url in peers.items()),
        "--initial-cluster-token", token, "--logger", "zap", "--log-outputs", "stderr",
    ]  # fmt: skip


def status(url: str, vantage: str | None = None) -> Status | None:
    """What the member at a client URL says, None when it doesn't answer."""
    answer = _call(url, "maintenance/status", vantage)
    header = answer.get("header") if answer else None
    if answer is None or not isinstance(header, Mapping) or "member_id" not in header:
        return None
    leader = str(answer.get("leader", "0"))  # the gateway leaves zeros out
    return Status(str(header["member_id"]), None if leader == "0" else leader, int(answer.get("raftTerm", 0)))


def members(url: str, vantage: str | None = None) -> dict[str, str] | None:
    """Name to id of every member, as the one at a client URL has it; None when it doesn't answer."""
    answer = _call(url, "cluster/member/list", vantage)
    listed = answer.get("members") if answer else None
    if not isinstance(listed, list):
        return None
    return {str(one.get("name", "")): str(one.get("ID", "")) for one in listed if isinstance(one, Mapping)}


def _call(url: str, path: str, vantage: str | None) -> dict[str, Any] | None:
    """One call of etcd's HTTP gateway."""
    try:
        answer = fetch.post(f"{url}/v3/{path}", b"{}", _JSON, TIMEOUT_S, vantage)
    except (OSError, HTTPException):
        return None
    body = answer.json()
    return body if answer.status == 200 and isinstance(body, dict) else None
