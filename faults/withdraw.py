"""The undo operation `engine`: take a lie back from a witness engine, over its control socket.

{"op": "engine", "target", "pid", "start_ticks", "port", "netns", "tag", "sut": path of sut.json}
    The rule with this tag is no longer in force; streams that it holds go on. An engine that is gone
    needs nothing. The socket's token is read from sut.json, so that the journal holds none.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core import control, proc
from harness.core.proc import Identity

_ANSWER_S = 2.0


def apply(op: Mapping[str, Any]) -> dict[str, Any]:
    """Take it back. Raises OSError or ValueError when the engine lives and can't be asked."""
    done = {"op": "engine", "target": op["target"], "pid": op["pid"]}
    if not _alive(op):
        return {**done, "did": "already gone"}
    answer = _ask(op, "remove")
    known = answer["tagged"].get(op["tag"])
    return {**done, "did": "never told" if known is None else f"took {known['kind']} back"}


def verify(op: Mapping[str, Any]) -> str | None:
    """What is still not as it was."""
    if not _alive(op):
        return None
    try:
        known = _ask(op, "status")["tagged"].get(op["tag"])
    except (OSError, ValueError) as error:
        return f"{op['target']}: its engine can't be asked: {error}" if _alive(op) else None
    return (
        f"{op['target']}: its engine is still told to {known['kind']}"
        if known and known["in_force"]
        else None
    )


def command(op: Mapping[str, Any]) -> str:
    """For a shell: only its end makes an engine that can't be asked harmless."""
    return f"kill -KILL {op['pid']}  # {op['target']}: its engine misbehaves and can't be asked"


def _alive(op: Mapping[str, Any]) -> bool:
    return proc.alive(Identity(int(op["pid"]), int(op["start_ticks"])))


def _ask(op: Mapping[str, Any], name: str) -> dict[str, Any]:
    token = str(json.loads(Path(op["sut"]).read_bytes())["control_token"])
    return control.ask(int(op["port"]), token, {"command": name, "tag": op["tag"]}, op["netns"], _ANSWER_S)
