"""What users ask: prompts of an exact length that carry the key of the answer, and the request's bytes.

Prompt k of user u is a pure function of (seed, class, u, k). Knows the witness's key format and the
tokenizer's counts; nothing of sockets or users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from harness.core import ids, lengths, words
from harness.core.config import Scenario, UserClass
from harness.core.errors import ScenarioError
from harness.core.trace import Row
from harness.sut import model
from harness.traffic import sharing

ROUTES = {
    "ChatUser": "chat", "CompletionUser": "completions", "CancellingUser": "chat", "ResponsesUser": "responses",
}  # fmt: skip
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses"}
FUNCTION = {
    "name": words.TOOL,
    "description": "Says the text.",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}


@dataclass(frozen=True)
class Prompt:
    """One request's content. `tokens`: template included for chat and responses, by the generated tokenizer;
    `output_tokens`: words of the answer, the marks of its shape not counted; `history`: (role, content) of
    the messages before `text`, in a conversation."""

    text: str
    key: tuple[int, int]
    tokens: int
    output_tokens: int
    history: tuple[tuple[str, str], ...] = ()
    shape: words.Shape = words.PLAIN


def shape(spec: UserClass) -> words.Shape:
    """What the answers of a load entry look like."""
    return words.Shape(spec.reasoning_tokens, spec.tool_call)


def shortest(route: str, shape: words.Shape = words.PLAIN) -> int:
    """Tokens of a prompt that is nothing but a key, and what asks for the answer's shape."""
    return _count(_text("", shape, (0, 1)), route)


def _text(filler: str, shape: words.Shape, key: tuple[int, int]) -> str:
    before = filler + shape.asked
    return f"{before} {words.key_text(*key)}" if before else words.key_text(*key)


def prompt(
    seed: int, spec: UserClass, user: int, k: int, base_tokens: int, row: Row | None = None, block: int = 0
) -> Prompt:
    """Prompt k of user `user`. `base_tokens` is shortest(route, shape(spec)); each further word is one token.

    row, block: of a trace, whose lengths are taken instead of the entry's (a prompt has room for its key
    at least), and the words for each of its ids.
    """
    r = ids.rng(seed, "prompt", spec.user_class, user, k)
    tokens = lengths.draw(spec.prompt_tokens, r)
    output_tokens = lengths.draw(spec.output_tokens, r)
    if row is not None:
        tokens, output_tokens = max(base_tokens, row.input_length), min(words.P, row.output_length)
    if tokens < base_tokens:
        raise ValueError(f"prompt_tokens {tokens}: a prompt with its key has at least {base_tokens}")
    key = r.randrange(words.P), r.randrange(1, words.P)
    first = sharing.beginning(seed, spec, user, k, row, tokens - base_tokens, block)
    more = r.choices(words.WORDS, k=tokens - base_tokens - len(first))
    filler = "".join(f" {word}" for word in (*first, *more))
    wanted = shape(spec)
    return Prompt(_text(filler, wanted, key), key, tokens, output_tokens, shape=wanted)


def body(
    asked: Prompt, route: str, model_name: str, dynamo: bool, stream: bool = True, chunk_usage: bool = False
) -> bytes:
    """The JSON body. stream False: one whole answer is wanted. `dynamo`: ask Dynamo to name the worker;
    others may refuse unknown fields. `chunk_usage`: ask for usage with every chunk."""
    extra: dict[str, Any] = {"nvext": {"extra_fields": ["worker_id"]}} if dynamo else {}
    if stream and route != "responses":
        each = {"continuous_usage_stats": True} if chunk_usage else {}
        extra["stream_options"] = {"include_usage": True} | each
    if asked.shape.call:
        extra["tools"] = _tools(route)
    limit = "max_output_tokens" if route == "responses" else "max_tokens"
    return msgspec.json.encode(
        {
            "model": model_name,
            **_content(asked, route),
            limit: asked.output_tokens + len(asked.shape.marks),
            "stream": stream,
            **extra,
        }
    )


def _content(asked: Prompt, route: str) -> dict[str, Any]:
    if route != "chat":
        return {"input" if route == "responses" else "prompt": asked.text}
    messages = (*asked.history, ("user", asked.text))
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


def _tools(route: str) -> list[dict[str, Any]]:
    flat = route == "responses"
    return [{"type": "function", **FUNCTION} if flat else {"type": "function", "function": FUNCTION}]


def request(
    url: str, route: str, headers: Mapping[str, str], request_id: str, content: bytes, stream: bool = True
) -> bytes:
    """The request as it goes over the wire. Dynamo takes its own id from x-dynamo-request-id."""
    parts = urlsplit(url)
    fields = {
        "Host": parts.netloc.rpartition("@")[2],
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if stream else "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "squall",
        "X-Request-Id": request_id,
        "x-dynamo-request-id": request_id,
        **headers,
        "Content-Length": str(len(content)),
    }
    lines = [
        f"POST {_path(parts.path, route)} HTTP/1.1",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + content


def check(scenario: Scenario, file: str) -> None:
    """Raise ScenarioError for the first load entry whose prompts can't be that short."""
    for n, spec in enumerate(scenario.load.users):
        low, _ = lengths.bounds(spec.prompt_tokens)
        least = shortest(ROUTES[spec.user_class], shape(spec)) + (
            spec.prefix.tokens if spec.prefix is not None else 0
        )
        if low < least:
            raise ScenarioError(
                file, f"load.users[{n}].prompt_tokens", f"{low} is too short: a prompt that carries its key"
                f"{' and its prefix' if spec.prefix else ''} has at least {least} tokens", f"write {least} or more",
            )  # fmt: skip


def _path(prefix: str, route: str) -> str:
    """A base URL may end in /v1, as OpenAI clients write it, or not."""
    prefix = prefix.rstrip("/")
    return prefix.removesuffix("/v1") + PATHS[route]


def _count(text: str, route: str) -> int:
    return model.count_text(text) if route == "completions" else model.count_chat([("user", text)])
