"""Reads one answer's events: which tokens came with which piece, and what else they said.

Pure, and judges nothing: that is integrity.py's, when the answer is over. Events that differ from the last one
in their word only are counted without being decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.traffic import chunks, responses, sse
from harness.traffic.calls import Arguments
from harness.traffic.chain import Chain
from harness.traffic.pieces import Like, Received
from harness.traffic.transcript import Expectation, Part

MAX_ERROR_TEXT = 300
READ_AT_ONCE = 512  # parts of a body read between two turns


@dataclass(slots=True)
class Said:
    """What the events of one stream said, besides the answer's text."""

    response_id: str | None = None
    model: str | None = None
    usage: chunks.Usage | None = None
    finish_reason: str | None = None
    engine_worker_id: str | None = None
    done: bool = False
    error: str | None = None
    error_at: int | None = None  # the piece that brought the first error event
    violations: set[str] = field(default_factory=set)
    reasoning_tokens: int = 0
    tool_tokens: int = 0
    calls: dict[int, Arguments] = field(default_factory=dict)

    @property
    def apart(self) -> int:
        """Tokens that are no text of the answer."""
        return self.reasoning_tokens + self.tool_tokens


class Reader:
    """Reads a body as it comes; `tokens` counts so far. `feed` never raises, whatever the bytes."""

    __slots__ = (
        "_last", "_responses", "_sse", "_whole", "behind", "chain", "events", "multiple", "said", "tokens", "want",
    )  # fmt: skip

    def __init__(self, want: Expectation) -> None:
        self.want = want
        self._sse = sse.Parser()
        self._whole: list[tuple[int, bytes]] = []  # an answer that isn't streamed is read at its end
        self.said = Said()
        self._responses = responses.Events() if want.route == "responses" else None
        self.events: list[int] = []  # for each event with tokens, the piece that completed it
        self.behind: list[int] = []  # positions in _events of those with more behind them in their piece
        self.multiple: dict[int, int] = {}  # position in _events -> tokens, when it isn't one
        self.chain = Chain(*want.key, want.tokens_expected) if want.key is not None else None
        if self.chain is not None:
            self._part("text")
        self.tokens = 0
        self._last = b""  # the last event's data, when it was one right token and nothing else

    def read(self, pieces: Received, bodies: Iterable[Part], turn: Callable[[], None] | None = None) -> None:
        """Read what framing made of the pieces; `turn` is called now and then when that takes long."""
        fed = 0
        for index, part in bodies:
            at, end = index, index + (1 if isinstance(part, bytes) else part)
            while at < end:
                count = 0 if isinstance(part, bytes) else self._run(pieces, at, end)
                if not count:
                    self.feed(at, part if isinstance(part, bytes) else pieces.body(at))
                    fed, count = fed + 1, 1
                    if fed % READ_AT_ONCE == 0 and turn is not None:
                        turn()
                at += count

    def _run(self, pieces: Received, index: int, end: int) -> int:
        """Take the pieces that are like the last event; how many."""
        like = self.like()
        count = pieces.run(index, end, like) if like is not None else 0
        if count:
            self.repeat(index, count)
        return count

    def like(self) -> Like | None:
        """What an event may be that says the same as the last one, but for its word; None: none may.

        The text must be seen as what it is: a string of JSON without escapes, there once only.
        """
        data, chain = self._last, self.chain
        if not data or b"\\" in data or not self._sse.clean:
            return None
        if chain is None:
            return _like_text(data)
        text, start, step, limit = chain.ahead()
        before, found, after = data.partition(b'"%s"' % text.encode())
        if not found or found in after or limit <= 0:
            return None
        return Like(before + b'" ', b'"' + after, start, step, limit)

    def repeat(self, index: int, count: int) -> None:
        """`count` pieces from `index` on say what the last event said, each with the next word."""
        self.events.extend(range(index, index + count))
        self.tokens += count
        if self.chain is not None:
            self.chain.accept(count)

    def feed(self, index: int, body: bytes) -> None:
        """Read the part of the body that piece `index` brought."""
        if not self.want.stream:
            self._whole.append((index, body))
            return
        self._last = b""
        data = self._sse.single(body) if self._responses is None else None
        if data is not None:
            tokens, expected = self.tokens, self.chain.expected if self.chain is not None else 0
            apart = self.said.apart
            self._data(index, data)
            right = self.chain is None or self.chain.expected == expected + 1
            if self.tokens == tokens + 1 and right and self.said.apart == apart:
                self._last = data
            return
        events = self._sse.feed(body)
        for number, event in enumerate(events, 1):
            before = len(self.events)
            self._event(index, event)
            if len(self.events) > before and (number < len(events) or self._sse.unfinished):
                self.behind.append(before)

    def _event(self, index: int, event: sse.Event) -> None:
        if self._responses is not None and event.data != b"[DONE]":
            self._response(index, event)
            return
        if event.name == b"message":
            self._data(index, event.data)
            return
        if self.said.done:
            self.said.violations.add("data_after_done")
        if event.name == b"error":
            self._error(index, event.data or event.comment)
        # else: an annotation

    def _response(self, index: int, event: sse.Event) -> None:
        """An event of a /v1/responses stream; the one that ends the answer takes the place of [DONE]."""
        said, events = self.said, self._responses
        assert events is not None
        if said.done:
            said.violations.add("data_after_done")
        chunk = events.read(event.name, event.data)
        said.done = events.over
        if events.wrong:
            said.violations.add("malformed_event")
        if chunk is not None and chunks.is_error(chunk):
            self._failed(index, chunks.error_text(chunk))
        elif chunk is None or chunk.choices is None:
            said.violations.add("malformed_event")
        else:
            self._withhold(chunk)
            self._chunk(index, chunk)

    def _withhold(self, chunk: chunks.Chunk) -> None:
        """A server may keep its thoughts to itself on this route: what begins with the answer has none."""
        chain, choice = self.chain, next(iter(chunk.choices or ()), None)
        delta = choice.delta if choice is not None else None
        if (
            chain is not None
            and chain.expected == 0
            and delta is not None
            and (delta.content or delta.tool_calls)
        ):
            chain.withhold(self.want.shape.reasoning)

    def _data(self, index: int, data: bytes) -> None:
        """The data of an unnamed event."""
        said = self.said
        if said.done and (self._responses is None or data != b"[DONE]"):
            said.violations.add("data_after_done")
        chunk = chunks.decode(data)
        if chunk is None:
            if data == b"[DONE]":
                said.done = True
            else:
                said.violations.add("malformed_event")
        elif chunk.choices is not None and chunk.error is None:
            self._chunk(index, chunk)
        elif chunks.is_error(chunk):
            self._error(index, data)
        elif chunk.usage is not None:
            self._chunk(index, chunk)
        else:
            said.violations.add("malformed_event")

    def _error(self, index: int, data: bytes) -> None:
        chunk = chunks.decode(data)
        known = chunk is not None and chunks.is_error(chunk)
        self._failed(index, chunks.error_text(chunk) if chunk is not None and known else text_of(data))

    def _failed(self, index: int, error: str) -> None:
        said = self.said
        said.violations.add("error_event")
        if said.error is None:
            said.error_at, said.error = index, error

    def _chunk(self, index: int, chunk: chunks.Chunk) -> None:
        said = self.said
        if chunk.id is not None and chunk.id != said.response_id:
            if said.response_id is not None:
                said.violations.add("id_changed")
            else:
                said.response_id = chunk.id
        if chunk.model is not None and chunk.model != said.model:
            if said.model is not None:
                said.violations.add("model_changed")
            else:
                said.model = chunk.model
        if chunk.usage is not None:
            said.usage = chunk.usage
        if chunk.nvext is not None:
            said.engine_worker_id = chunks.engine_worker_id(chunk) or said.engine_worker_id
        count = 0
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                said.finish_reason = choice.finish_reason
            delta = choice.delta
            if delta is not None and (delta.reasoning_content or delta.reasoning):
                count += self._thought(delta.reasoning_content or delta.reasoning or "")
            text = (delta.content if delta is not None else None) or choice.text
            if text:
                count += self.chain.take(text) if self.chain is not None else 1
            if delta is not None and delta.tool_calls:
                count += sum(self._call(call) for call in delta.tool_calls)
        if count and self.chain is None and chunk.usage is not None:  # usage with each chunk counts better
            count = max(count, (chunk.usage.completion_tokens or 0) - self.tokens)
        if count:
            if count > 1:
                self.multiple[len(self.events)] = count
            self.events.append(index)
            self.tokens += count

    def _part(self, kind: str) -> None:
        """The words that thoughts, text or a call may hold, by the shape that was asked for."""
        chain, shape = self.chain, self.want.shape
        assert chain is not None
        if kind == "thought":
            chain.low, chain.high = 0, shape.reasoning
        elif (kind == "call") == shape.call:
            chain.low, chain.high = shape.reasoning, chain.n
        else:
            chain.low = chain.high = 0

    def _thought(self, text: str) -> int:
        """Tokens of one piece of reasoning."""
        count = 1
        if self.chain is not None:
            self._part("thought")
            count = self.chain.take(text)
            self._part("text")
        self.said.reasoning_tokens += count
        return count

    def _call(self, call: chunks.ToolCall) -> int:
        """Tokens of one fragment of a tool call: the words in its arguments, or one where nobody can tell."""
        said, function = self.said, call.function
        if function is None or not (function.name or function.arguments):
            return 0
        number = len(said.calls) if call.index is None else call.index
        words = said.calls.setdefault(number, Arguments()).add(function.arguments or "")
        count = 1
        if self.chain is not None:
            self._part("call")
            count = self.chain.take(words)
            self._part("text")
        said.tool_tokens += count
        return count

    @property
    def overflow(self) -> bool:
        """An event was too long to be read, and so what came after it."""
        return self._sse.overflow

    def end(self) -> None:
        """The body is complete. An answer that isn't streamed is read now: all of it arrived with its last piece,
        without gaps."""
        if not self._whole:
            return
        decode = chunks.decode_whole if self._responses is None else responses.decode_whole
        said, chunk = self.said, decode(b"".join(part for _, part in self._whole))
        if chunk is None:
            said.violations.add("malformed_event")
        elif chunks.is_error(chunk):
            self._error(self._whole[-1][0], b"".join(part for _, part in self._whole))
        elif chunk.choices is None:
            said.violations.add("malformed_event")
        else:
            if self._responses is not None:
                self._withhold(chunk)
            self._chunk(self._whole[-1][0], chunk)
            self.multiple.clear()
            if self.chain is None and self.tokens and said.usage is not None:
                self.tokens = said.usage.completion_tokens or self.tokens


def _like_text(data: bytes) -> Like | None:
    """Where tokens are only counted: any other text in the same place."""
    for name in (b'"content":"', b'"text":"'):
        if data.count(name) == 1:
            before, _, rest = data.partition(name)
            text, quote, after = rest.partition(b'"')
            return Like(before + name, quote + after) if text else None
    return None


def text_of(data: bytes) -> str:
    """The beginning of what a server said, to be shown."""
    return data[:MAX_ERROR_TEXT].decode("utf-8", "replace").strip()
