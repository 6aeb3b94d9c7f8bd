"""Well-formed witness streams, and ways to spoil them."""

from __future__ import annotations

import json
from typing import Any

from harness.core import words

ID, MODEL = "chatcmpl-1", "squall-words"


def event(value: Any) -> bytes:
    """One event of JSON data."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def token(text: str, finish: str | None = None, route: str = "chat", **extra: Any) -> bytes:
    """One event with text."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    choice.update({"delta": {"content": text}} if route == "chat" else {"text": text})
    return event({"id": ID, "object": "chat.completion.chunk", "model": MODEL, "choices": [choice], **extra})


def usage(prompt: int, completion: int) -> bytes:
    """The usage event."""
    return event({"id": ID, "model": MODEL, "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})  # fmt: skip


DONE = b"data: [DONE]\n\n"


def word(key: tuple[int, int], i: int) -> str:
    """Token i of the answer to `key`."""
    return " " + words.WORDS[(key[0] + i * key[1]) % words.P]


def witness(key: tuple[int, int], n: int, prompt: int = 30, route: str = "chat") -> list[bytes]:
    """The n token events, usage and [DONE] of a perfect answer."""
    last = n - 1
    tokens = [token(word(key, i), "length" if i == last else None, route) for i in range(n)]
    return [*tokens, usage(prompt, n), DONE]
