"""The client's side of the witness engine's control socket."""

from __future__ import annotations

from typing import Any

from harness.core import control
from harness.core.errors import SquallError, TargetError
from harness.core.sutfile import Process


def call(process: Process, token: str, command: dict[str, Any]) -> dict[str, Any]:
    """Send one command ({"command": "status" | "misbehave" | "add" | "remove" | "reset", ...}).

    The answer is the engine's state: pid, worker_id (its instance id), requests, tokens, completed,
    aborts, canaries, running, waiting, kv_used_blocks, kv_total_blocks, max_num_seqs, misbehave (rules
    in force), lies {kind: {count, request_ids}}, tagged {tag: {kind, count, first_ns, in_force}}. Raises
    TargetError when the process has no control socket or doesn't answer, SquallError when it refuses.
    """
    if process.control_port is None:
        raise TargetError(f"{process.name}: has no control socket; only `engine: witness` workers do")
    try:
        return control.ask(process.control_port, token, command, process.netns)
    except OSError as error:
        raise TargetError(f"{process.name}: control socket {process.control_port}: {error}") from None
    except ValueError as error:
        raise SquallError(f"{process.name}: control socket {error}") from None
