"""The wire of the witness engine's control socket: one JSON line each way. Standard library only.

The socket is on 127.0.0.1 of the engine's own host. The guardian uses this module too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.core import netns

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 5.0
MAX_ANSWER = 16 << 20


def ask(
    port: int, token: str, command: Mapping[str, Any], host: str | None = None, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Send one command, return the answer. `host`: the namespace of the engine's host; None: ours.

    Raises OSError when nobody answers in time, ValueError when the answer is no JSON object or a refusal.
    """
    line = json.dumps({**command, "token": token}).encode() + b"\n"
    with netns.connect(host, (LOOPBACK, port), timeout_s) as connection:
        connection.sendall(line)
        with connection.makefile("rb") as stream:
            raw = stream.readline(MAX_ANSWER)
    try:
        answer = json.loads(raw)
    except ValueError:
        raise ValueError(f"answered no JSON: {raw[:100]!r}") from None
    if not isinstance(answer, dict) or answer.pop("ok", None) is not True:
        why = answer.get("error") if isinstance(answer, dict) else answer
        raise ValueError(f"refused {command.get('command')!r}: {why}")
    return answer
