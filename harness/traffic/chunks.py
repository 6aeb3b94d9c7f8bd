"""What one event of an OpenAI-compatible stream says: text, finish reason, usage, error.

Chat and completions share one shape here. Knows nothing of streams: one event in, one Chunk out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Text = str | None
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Function(msgspec.Struct):
    name: Text = None
    arguments: Text = None


class ToolCall(msgspec.Struct):
    """A fragment of call number `index`; a whole answer's calls have no number."""

    index: int | None = None
    function: Function | None = None


class Delta(msgspec.Struct):
    """Part of a chat answer. Tool calls and reasoning are output tokens as well."""

    content: Text = None
    reasoning_content: Text = None
    reasoning: Text = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    text: Text = None
    finish_reason: Text = None


class WholeChoice(msgspec.Struct):
    """A choice of an answer that isn't streamed."""

    message: Delta | None = None
    text: Text = None
    finish_reason: Text = None


class Details(msgspec.Struct):
    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    completion_tokens_details: Details | None = None

    @property
    def reasoning_tokens(self) -> int | None:
        """How many of completion_tokens were thoughts, where the server says so."""
        details = self.completion_tokens_details
        return None if details is None else details.reasoning_tokens


class Chunk(msgspec.Struct):
    """One event's data; fields that we don't judge are not looked at."""

    id: Text = None
    model: Text = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None
    nvext: Any = None


class Whole(msgspec.Struct):
    """An answer that isn't streamed."""

    id: Text = None
    model: Text = None
    choices: list[WholeChoice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None
    nvext: Any = None


_WHOLE = msgspec.json.Decoder(Whole)
_DECODER = msgspec.json.Decoder(Chunk)


def decode(data: bytes) -> Chunk | None:
    """An event's data as a chunk, None when it is none: no JSON object, or a field of the wrong type."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _only_error(data)


def decode_whole(data: bytes) -> Chunk | None:
    """The body of an answer that isn't streamed, as the one chunk that says the same; None: it is none."""
    try:
        whole = _WHOLE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _only_error(data)
    choices = whole.choices
    return Chunk(
        id=whole.id, model=whole.model, usage=whole.usage, error=whole.error, object=whole.object,
        message=whole.message, nvext=whole.nvext,
        choices=None if choices is None else [Choice(c.message, c.text, c.finish_reason) for c in choices],
    )  # fmt: skip


def _only_error(data: bytes) -> Chunk | None:
    """An error event whose other fields are of an unexpected type is an error event all the same."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, dict) and value.get("error") is not None:
        return Chunk(error=value["error"])
    return None


def is_error(chunk: Chunk) -> bool:
    """Does it report an error instead of tokens?"""
    return chunk.error is not None or chunk.object == "error"


def error_text(chunk: Chunk) -> str:
    """The message of an error event, with its type and code when given."""
    error = chunk.error if chunk.error is not None else chunk.message
    if isinstance(error, dict):
        extra = [str(error[key]) for key in ("type", "code") if error.get(key) is not None]
        message = str(error.get("message") or error)
        return f"{message} ({', '.join(extra)})" if extra else message
    return str(error)


def engine_worker_id(chunk: Chunk) -> str | None:
    """`nvext.worker_id.decode_worker_id`: Dynamo's instance that made the answer."""
    nvext = chunk.nvext
    if isinstance(nvext, dict) and isinstance(worker := nvext.get("worker_id"), dict):
        value = worker.get("decode_worker_id")
        if isinstance(value, int | str) and not isinstance(value, bool):
            return str(value)
    return None
