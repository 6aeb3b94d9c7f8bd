"""The client's side of the witness engine's control socket: one JSON line each way on 127.0.0.1 of its host."""

from __future__ import annotations

import json
from typing import Any

from harness.core import netns
from harness.core.errors import SquallError, TargetError
from harness.core.sutfile import Process
from harness.sut.ports import LOOPBACK

TIMEOUT_S = 5.0
MAX_ANSWER = 16 << 20


def call(process: Process, token: str, command: dict[str, Any]) -> dict[str, Any]:
    """Send one command ({"command": "status" | "misbehave" | "reset", ...}), return the answer.

    The answer is the engine's state: pid, worker_id (its instance id), requests, tokens, completed,
    aborts, canaries, running, waiting, kv_used_blocks, kv_total_blocks, max_num_seqs, misbehave (rules
    in force), lies {kind: {count, request_ids}}. Raises TargetError when the process has no control
    socket or doesn't answer, SquallError when it refuses.
    """
    if process.control_port is None:
        raise TargetError(f"{process.name}: has no control socket; only `engine: witness` workers do")
    line = json.dumps({**command, "token": token}).encode() + b"\n"
    try:
        with netns.connect(process.netns, (LOOPBACK, process.control_port), TIMEOUT_S) as connection:
            connection.sendall(line)
            with connection.makefile("rb") as stream:
                raw = stream.readline(MAX_ANSWER)
    except OSError as error:
        raise TargetError(f"{process.name}: control socket {process.control_port}: {error}") from None
    try:
        answer = json.loads(raw)
    except ValueError:
        raise TargetError(f"{process.name}: control socket answered no JSON: {raw[:100]!r}") from None
    if not isinstance(answer, dict) or answer.pop("ok", None) is not True:
        why = answer.get("error") if isinstance(answer, dict) else answer
        raise SquallError(f"{process.name}: control socket refused {command.get('command')!r}: {why}")
    return answer
