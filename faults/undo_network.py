"""Undo of network faults: remove exactly our table and our queue from one host, and nothing else.

Operations as faults/undo.py keeps them, carried out there. Standard library only; idempotent; a host
is known by its namespace's inode, so a later one with the same name is never touched.

{"op": "nft_table", "host", "netns", "inode", "table", "text", "whole_until_ns"}
    `text` is what we made of it: another listing means that somebody changed it (`drifted`).
    Until `whole_until_ns` (CLOCK_MONOTONIC) no element of its sets can have expired.
{"op": "tc_root", "host", "netns", "inode", "device", "kind", "handle"}
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from faults import nft, tc
from harness.core import clock, netns, proc
from harness.core.proc import Finished

Op = Mapping[str, Any]
COMMAND_S = 20.0


def run(namespace: str, argv: Sequence[str]) -> Finished:
    """A command on a host. Raises OSError."""
    env = {"PATH": proc.SYSTEM_PATH, "LC_ALL": "C"}
    return proc.run(netns.command(namespace, argv), env=env, timeout_s=COMMAND_S)


def inode(namespace: str) -> int | None:
    """Who a host is, None when it is gone."""
    try:
        return (netns.DIRECTORY / namespace).stat().st_ino
    except FileNotFoundError:
        return None


def apply_table(op: Op) -> dict[str, Any]:
    """Remove the table, say `drifted` when it wasn't as we made it."""
    listing = _table(op)
    if listing is None:
        return _done(op, f"table {op['table']} already gone")
    sooner = clock.now_ns() < int(op["whole_until_ns"])
    drift = nft.drift(op["text"], listing, may_have_expired=not sooner)
    _ok(run(op["netns"], nft.delete(op["table"])))
    return _done(op, f"table {op['table']} removed" + (f" (drifted: {drift})" if drift else ""), drift)


def verify_table(op: Op) -> str | None:
    """None when it isn't there."""
    try:
        there = _table(op) is not None
    except OSError as error:
        return f"{op['host']}: table {op['table']}: {error}"
    return f"{op['host']}: table {op['table']} is still there" if there else None


def table_command(op: Op) -> str:
    """Shell command."""
    return shlex.join(netns.command(op["netns"], nft.delete(op["table"])))


def apply_root(op: Op) -> dict[str, Any]:
    """Remove the root queue if it is ours; another one is left alone and named."""
    root = _root(op)
    if root == _ours(op):
        _ok(run(op["netns"], tc.delete(op["device"])))
        return _done(op, f"queue {op['handle']} of {op['device']} removed")
    if root is None or root.handle == "0:":
        return _done(op, f"queue {op['handle']} of {op['device']} already gone")
    drift = f"{op['device']} has the queue {root.kind} {root.handle} now"
    return _done(op, f"queue {op['handle']} already gone (drifted: {drift}, left alone)", drift)


def verify_root(op: Op) -> str | None:
    """None when it isn't there."""
    try:
        there = _root(op) == _ours(op)
    except (OSError, ValueError) as error:
        return f"{op['host']}: queue of {op['device']}: {error}"
    return f"{op['host']}: queue {op['handle']} of {op['device']} is still there" if there else None


def root_command(op: Op) -> str:
    """Shell command."""
    return shlex.join(netns.command(op["netns"], tc.delete(op["device"])))


def _table(op: Op) -> str | None:
    """The table's listing, None when it, or its host, isn't there."""
    if not _same_host(op):
        return None
    if f"{nft.FAMILY} {op['table']}" not in nft.tables(_ok(run(op["netns"], nft.show_all()))):
        return None
    return _ok(run(op["netns"], nft.show(op["table"])))


def _root(op: Op) -> tc.Root | None:
    if not _same_host(op):
        return None
    done = run(op["netns"], tc.show(op["device"]))
    if "Cannot find device" in done.err:
        return None
    return tc.root_of(_ok(done))


def _ours(op: Op) -> tc.Root:
    return tc.Root(str(op["kind"]), str(op["handle"]))


def _same_host(op: Op) -> bool:
    return inode(str(op["netns"])) == int(op["inode"])


def _ok(done: Finished) -> str:
    if done.code != 0:
        raise OSError(" ".join(done.err.split()) or f"exit code {done.code}")
    return done.out


def _done(op: Op, did: str, drift: str | None = None) -> dict[str, Any]:
    return {"op": op["op"], "target": op["host"], "did": did, "drifted": drift}
