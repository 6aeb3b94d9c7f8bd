"""The control socket: JSON lines on 127.0.0.1, each with the token; the engine does the work.

A command is {"token": ..., "command": "status" | "misbehave" | "reset", ...}; every line is answered
by one line with "ok". A wrong token is answered and the connection closed. Standard library only.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from typing import Any

MAX_LINE = 1 << 20

Handler = Callable[[dict[str, Any]], dict[str, Any]]


async def serve(port: int, token: str, handle: Handler) -> asyncio.Server:
    """Listen; port 0 takes any. `handle` raises ValueError for a bad command."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer, go_on = _answer(line, token, handle)
                writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
                await writer.drain()
                if not go_on:
                    break
        except (ConnectionError, ValueError):  # ValueError: a line longer than the limit
            pass
        finally:
            writer.close()

    return await asyncio.start_server(client, "127.0.0.1", port, limit=MAX_LINE)


def _answer(line: bytes, token: str, handle: Handler) -> tuple[dict[str, Any], bool]:
    try:
        command = json.loads(line)
        if not isinstance(command, dict):
            raise ValueError("a command is a JSON object")
        given = command.pop("token", None)
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), token.encode()):
            return {"ok": False, "error": "wrong token"}, False
        return {"ok": True, **handle(command)}, True
    except (ValueError, TypeError, RecursionError) as error:
        return {"ok": False, "error": str(error)}, True
