"""What one event of a /v1/responses stream says, as the Chunk that says the same of a chat answer.

Events have names, and numbers that rise by one; text comes in deltas and again whole when its part is
done. Knows nothing of streams but what it needs to hold one event against those before it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from harness.traffic.chunks import (
    Choice,
    Chunk,
    Count,
    Delta,
    Details,
    Function,
    Text,
    ToolCall,
    Usage,
)

REASONS = {"max_output_tokens": "length"}  # of an incomplete answer, by chat's name for it
LAST = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_DELTAS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "content",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
    "response.function_call_arguments.delta": "arguments",
}
_WHOLES = {  # the event that repeats a part whole -> its field, and the deltas that it must equal
    "response.output_text.done": ("text", "response.output_text.delta"),
    "response.refusal.done": ("refusal", "response.refusal.delta"),
    "response.reasoning_text.done": ("text", "response.reasoning_text.delta"),
    "response.reasoning_summary_text.done": ("text", "response.reasoning_summary_text.delta"),
    "response.function_call_arguments.done": ("arguments", "response.function_call_arguments.delta"),
}
Number = Annotated[int, msgspec.Meta(ge=0)]


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    output_tokens_details: Details | None = None


class _Why(msgspec.Struct):
    reason: Text = None


class _Part(msgspec.Struct):
    """A piece of an item's content."""

    type: Text = None
    text: Text = None
    refusal: Text = None


class _Item(msgspec.Struct):
    """One entry of a whole answer's output: a message, a function call or reasoning."""

    type: Text = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    arguments: Text = None


class _Response(msgspec.Struct):
    id: Text = None
    model: Text = None
    status: Text = None
    error: Any = None
    usage: _Usage | None = None
    incomplete_details: _Why | None = None
    output: list[_Item] | None = None
    object: Any = None
    message: Any = None
    nvext: Any = None


class _Event(msgspec.Struct):
    type: str
    sequence_number: Number | None = None
    response: _Response | None = None
    delta: Any = None
    text: Text = None
    refusal: Text = None
    arguments: Text = None
    output_index: Number = 0
    content_index: Number = 0
    summary_index: Number = 0
    code: Any = None
    message: Any = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Response)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Events:
    """The events of one stream, in their order."""

    __slots__ = ("_next", "_parts", "over", "wrong")

    def __init__(self) -> None:
        self._next: int | None = None  # the number that the next event must have
        self._parts: dict[tuple[str, int, int, int], list[str]] = {}  # deltas by what they are a part of
        self.over = False  # the event that ends the answer came
        self.wrong = False  # one was out of its turn, had another's name, or contradicts earlier ones

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        """What the event says; None when it is none."""
        try:
            event = _EVENT.decode(data)
        except _UNREADABLE:
            return None
        kind, number = event.type, event.sequence_number
        self.wrong |= name not in (b"message", kind.encode())
        self.wrong |= number is not None and self._next not in (None, number)
        self._next = None if number is None else number + 1
        if kind in LAST:
            self.over = True
            return _last(event)
        if kind in _DELTAS:
            return self._delta(event)
        if kind in _WHOLES:
            field, of = _WHOLES[kind]
            told = getattr(event, field)
            known = "".join(self._parts.pop(_part(of, event), []))
            self.wrong |= told is not None and told != known
            return Chunk(choices=[])
        answer = event.response
        return Chunk(choices=[]) if answer is None else Chunk(answer.id, answer.model, [])

    def _delta(self, event: _Event) -> Chunk | None:
        text, field = event.delta, _DELTAS[event.type]
        if not isinstance(text, str):
            return None
        self._parts.setdefault(_part(event.type, event), []).append(text)
        return Chunk(choices=[Choice(_delta_of(field, text, event.output_index))])


def decode_whole(data: bytes) -> Chunk | None:
    """An answer that isn't streamed; None: it is none."""
    try:
        answer = _WHOLE.decode(data)
    except _UNREADABLE:
        return None
    if answer.error is not None or answer.object == "error":
        return Chunk(error=answer.error, object=answer.object, message=answer.message)
    if answer.output is None:
        return None
    reason = _reason(answer)
    choices = [
        Choice(_delta_of(field, text, n))
        for n, item in enumerate(answer.output)
        for field, text in _said(item)
    ]
    return Chunk(
        answer.id, answer.model, [*choices, Choice(finish_reason=reason)], _usage(answer), nvext=answer.nvext
    )


def _said(item: _Item) -> list[tuple[str, str]]:
    """(field of a delta, text) of one entry of an answer's output."""
    if item.type == "function_call":
        return [("arguments", item.arguments or "")]
    field = "reasoning_content" if item.type == "reasoning" else "content"
    parts = [*(item.summary or []), *(item.content or [])]
    return [(field, part.text or part.refusal or "") for part in parts]


def _delta_of(field: str, text: str, index: int) -> Delta:
    if field == "arguments":
        return Delta(tool_calls=[ToolCall(index, Function(arguments=text))])
    return Delta(content=text) if field == "content" else Delta(reasoning_content=text)


def _part(kind: str, event: _Event) -> tuple[str, int, int, int]:
    return kind, event.output_index, event.content_index, event.summary_index


def _last(event: _Event) -> Chunk:
    """The event that ends an answer: its usage and why it ended, or an error."""
    answer = event.response
    if event.type == "error":
        return Chunk(error=event.error or {"message": event.message, "code": event.code})
    if answer is None:
        return Chunk(error="the last event holds no response") if event.type == "response.failed" else Chunk()
    if event.type == "response.failed":
        return Chunk(answer.id, answer.model, error=answer.error or "the response failed")
    return Chunk(answer.id, answer.model, [Choice(finish_reason=_reason(answer))], _usage(answer))


def _reason(answer: _Response) -> str | None:
    """Why it ended, by chat's names."""
    if answer.status == "completed":
        return "stop"
    why = answer.incomplete_details.reason if answer.incomplete_details is not None else None
    return REASONS.get(why or "", why) if answer.status == "incomplete" else None


def _usage(answer: _Response) -> Usage | None:
    usage = answer.usage
    if usage is None:
        return None
    return Usage(usage.input_tokens, usage.output_tokens, usage.output_tokens_details)
