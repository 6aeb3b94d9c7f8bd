"""Judges one answer: what arrived, when, what is wrong with it, and how the request ended.

Pure: pieces of a body with their receive times in, columns of a RequestRecord out. The outcome is the
first that holds in DESIGN section 6's order; a check that can't be made is neither pass nor violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import sub

import msgspec

from harness.core.records import VIOLATIONS, Outcome
from harness.traffic import chunks, responses, sse
from harness.traffic.calls import Arguments
from harness.traffic.chain import Chain
from harness.traffic.pieces import Like, Received
from harness.traffic.transcript import Expectation, Findings, Part, Transcript

LATE_NS = 5_000_000  # a coalesced chunk whose time may be off by more counts against the generator
MAX_ERROR_TEXT = 300
READ_AT_ONCE = 512  # parts of a body read between two turns


def judge(transcript: Transcript, want: Expectation) -> Findings:
    """All of the above in one go."""
    reader = Reader(want)
    reader.read(transcript.pieces, transcript.bodies)
    return reader.finish(transcript)


@dataclass(slots=True)
class _Said:
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
        "_behind", "_events", "_last", "_multiple", "_responses", "_said", "_sse", "_want", "_whole", "chain", "tokens",
    )  # fmt: skip

    def __init__(self, want: Expectation) -> None:
        self._want = want
        self._sse = sse.Parser()
        self._whole: list[tuple[int, bytes]] = []  # an answer that isn't streamed is read at its end
        self._said = _Said()
        self._responses = responses.Events() if want.route == "responses" else None
        self._events: list[int] = []  # for each event with tokens, the piece that completed it
        self._behind: list[int] = []  # positions in _events of those with more behind them in their piece
        self._multiple: dict[int, int] = {}  # position in _events -> tokens, when it isn't one
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
        self._events.extend(range(index, index + count))
        self.tokens += count
        if self.chain is not None:
            self.chain.accept(count)

    def feed(self, index: int, body: bytes) -> None:
        """Read the part of the body that piece `index` brought."""
        if not self._want.stream:
            self._whole.append((index, body))
            return
        self._last = b""
        data = self._sse.single(body) if self._responses is None else None
        if data is not None:
            tokens, expected = self.tokens, self.chain.expected if self.chain is not None else 0
            apart = self._said.apart
            self._data(index, data)
            right = self.chain is None or self.chain.expected == expected + 1
            if self.tokens == tokens + 1 and right and self._said.apart == apart:
                self._last = data
            return
        events = self._sse.feed(body)
        for number, event in enumerate(events, 1):
            before = len(self._events)
            self._event(index, event)
            if len(self._events) > before and (number < len(events) or self._sse.unfinished):
                self._behind.append(before)

    def _event(self, index: int, event: sse.Event) -> None:
        if self._responses is not None and event.data != b"[DONE]":
            self._response(index, event)
            return
        if event.name == b"message":
            self._data(index, event.data)
            return
        if self._said.done:
            self._said.violations.add("data_after_done")
        if event.name == b"error":
            self._error(index, event.data or event.comment)
        # else: an annotation

    def _response(self, index: int, event: sse.Event) -> None:
        """An event of a /v1/responses stream; the one that ends the answer takes the place of [DONE]."""
        said, events = self._said, self._responses
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
            chain.withhold(self._want.shape.reasoning)

    def _data(self, index: int, data: bytes) -> None:
        """The data of an unnamed event."""
        said = self._said
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
        self._failed(index, chunks.error_text(chunk) if chunk is not None and known else _text(data))

    def _failed(self, index: int, error: str) -> None:
        said = self._said
        said.violations.add("error_event")
        if said.error is None:
            said.error_at, said.error = index, error

    def _chunk(self, index: int, chunk: chunks.Chunk) -> None:
        said = self._said
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
                self._multiple[len(self._events)] = count
            self._events.append(index)
            self.tokens += count

    def _part(self, kind: str) -> None:
        """The words that thoughts, text or a call may hold, by the shape that was asked for."""
        chain, shape = self.chain, self._want.shape
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
        self._said.reasoning_tokens += count
        return count

    def _call(self, call: chunks.ToolCall) -> int:
        """Tokens of one fragment of a tool call: the words in its arguments, or one where nobody can tell."""
        said, function = self._said, call.function
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

    def _answer(self) -> None:
        """Read an answer that isn't streamed: all of it arrived with its last piece, without gaps."""
        decode = chunks.decode_whole if self._responses is None else responses.decode_whole
        said, chunk = self._said, decode(b"".join(part for _, part in self._whole))
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
            self._multiple.clear()
            if self.chain is None and self.tokens and said.usage is not None:
                self.tokens = said.usage.completion_tokens or self.tokens

    def finish(self, transcript: Transcript) -> Findings:
        """The verdict on the whole exchange."""
        said = self._said
        if self._whole and transcript.status == 200 and transcript.body_complete:
            self._answer()
        found = Findings(
            response_id=said.response_id,
            status=transcript.status,
            tokens_received=self.tokens,
            finish_reason=said.finish_reason,
            engine_worker_id=said.engine_worker_id,
            token_events=len(self._events),
            reasoning_tokens=said.reasoning_tokens,
            tool_tokens=said.tool_tokens,
        )
        if self.chain is not None:
            found.witness_tokens = self.tokens
            if said.finish_reason is not None:
                found.hidden_tokens = len(self._want.shape.marks) + self.chain.withheld
        if said.usage is not None:
            found.usage_reasoning_tokens = said.usage.reasoning_tokens
            found.usage_prompt_tokens = said.usage.prompt_tokens
            found.usage_completion_tokens = said.usage.completion_tokens
        self._timing(found, transcript)
        found.outcome = self._ended(transcript)
        if found.outcome not in ("shed", "http_error", "transport_error"):
            self._check(found, transcript)
            if found.outcome == "ok" and found.violations:
                found.outcome = "corrupted"
        found.error = self._explain(found, transcript)
        return found

    def _timing(self, found: Findings, transcript: Transcript) -> None:
        """First, last and gaps; tokens of one event arrive together.

        A read has the time of its last byte. An event with more behind it in the same read came no later than
        that, and no earlier than the read before, or than when there was nothing to read: time_error_us.
        coalesced: those that have another token behind them.
        """
        if not self._events:
            return
        times, start = transcript.times, transcript.start_ns
        found.t_first_ns, found.t_last_ns = times[self._events[0]], times[self._events[-1]]
        # Differences of whole microseconds, so that a stream's gaps add up to its length.
        at_us = [times[index] // 1000 for index in self._events]
        gaps = list(map(sub, at_us[1:], at_us))
        for position in sorted(self._multiple, reverse=True):
            gaps[position:position] = [0] * (self._multiple[position] - 1)
        found.gaps_us = gaps
        first = _firsts(transcript.pieces.joined())
        behind, worst = self._behind_in(first), 0
        for position in behind:
            index = self._events[position]
            read = first.get(index, index)
            before = times[read - 1] if read else start
            error = times[index] - max(before, min(transcript.pieces.since(index), times[index]))
            worst = max(worst, error)
            following = self._events[position + 1 : position + 2]
            joined = bool(following) and first.get(following[0], following[0]) == read
            found.coalesced += joined
            found.coalesced_late += joined and error > LATE_NS
        if behind:
            found.time_error_us = -(-worst // 1000)

    def _behind_in(self, first: dict[int, int]) -> list[int]:
        """Positions of the events that had more behind them in their read."""
        if not first:
            return self._behind
        inside = set(self._behind)
        return [n for n, index in enumerate(self._events) if index + 1 in first or n in inside]

    def _ended(self, transcript: Transcript) -> Outcome:
        """The outcome, violations left aside: "ok" here may still become "corrupted"."""
        status = transcript.status
        if transcript.end == "cancelled":
            return "cancelled"
        if status in self._want.overload_codes:
            return "shed"
        if status not in (0, 200):
            return "http_error"
        if "error_event" in self._said.violations:
            return "stream_error"
        if transcript.end in ("timeout", "drain"):
            return "timed_out"
        if status == 0:
            return "transport_error"
        unreadable = self._wrong_type(transcript) or (
            not self._want.stream and "malformed_event" in self._said.violations
        )
        if self._said.finish_reason is None and not (unreadable and transcript.body_complete):
            return "truncated"
        return "ok"

    def _check(self, found: Findings, transcript: Transcript) -> None:
        said, chain = self._said, self.chain
        broken = set(said.violations)
        if said.finish_reason is not None and not all(self._is_whole(call) for call in said.calls.values()):
            broken.add("malformed_event")
        if chain is not None:
            if said.finish_reason is not None or not self._want.shape.call:
                chain.foreign += sum(not call.has_value for call in said.calls.values())
            found.lost_tokens, found.duplicated_tokens = chain.lost, chain.duplicated
            found.reordered_tokens, found.foreign_tokens = chain.reordered, chain.foreign
            found.extra_tokens = chain.extra
        else:
            found.extra_tokens = self._counted_extra()
        broken.update(
            name
            for name in ("lost_tokens", "duplicated_tokens", "reordered_tokens", "foreign_tokens", "extra_tokens")
            if getattr(found, name)
        )  # fmt: skip
        if transcript.status == 200:
            if self._wrong_type(transcript):
                broken.add("wrong_content_type")
            if transcript.end == "malformed" or self._sse.overflow:
                broken.add("malformed_event")
        if self._usage_prompt_wrong():
            broken.add("usage_prompt_mismatch")
        if self._usage_completion_wrong(found.hidden_tokens):
            broken.add("usage_completion_mismatch")
        if found.outcome == "cancelled":
            if self._told_after(transcript.cancel_ns, transcript):
                broken.discard("error_event")
        else:
            if chain.short if chain is not None else self._counted_short():
                broken.add("short_stream")
            if said.finish_reason is None:
                broken.add("missing_finish")
            if not said.done and self._want.stream:
                broken.add("missing_done")
        found.violations = [name for name in VIOLATIONS if name in broken]

    def _told_after(self, cancel_ns: int | None, transcript: Transcript) -> bool:
        """Did the first error event come after we had left? It is the server's answer to that."""
        at = self._said.error_at
        return at is not None and cancel_ns is not None and transcript.times[at] > cancel_ns

    def _usage_prompt_wrong(self) -> bool:
        usage, wanted = self._said.usage, self._want.prompt_tokens
        return (
            usage is not None and None not in (usage.prompt_tokens, wanted) and usage.prompt_tokens != wanted
        )

    def _is_whole(self, call: Arguments) -> bool:
        """Are a call's arguments JSON? At a limit that isn't ours they may be cut."""
        return call.is_json or (self.chain is None and self._said.finish_reason == "length")

    def _usage_completion_wrong(self, hidden: int | None) -> bool:
        """Witness: what was counted and what is hidden. Else: more events than tokens, or `length` at another
        length."""
        usage = self._said.usage
        if usage is None or usage.completion_tokens is None:
            return False
        if self.chain is not None:
            if hidden is None and self._want.shape.marks:
                return False  # a part of the answer: nobody can tell how many of its marks were made
            return usage.completion_tokens != self.tokens + (hidden or 0)
        at_limit = self._said.finish_reason == "length"
        return usage.completion_tokens < self.tokens or (
            at_limit and usage.completion_tokens != self._want.tokens_expected
        )

    def _counted_extra(self) -> int:
        usage = self._said.usage
        told = (usage.completion_tokens or 0) if usage is not None else 0
        return max(0, self.tokens - self._want.tokens_expected, told - self._want.tokens_expected)

    def _counted_short(self) -> bool:
        """Without the words, an answer that says `stop` may be of any length.

        One that says `length` is measured by its usage: an event may hold several tokens.
        """
        said, wanted = self._said, self._want.tokens_expected
        if said.finish_reason is None:
            return self.tokens < wanted
        if said.finish_reason != "length" or said.usage is None or said.usage.completion_tokens is None:
            return False
        return said.usage.completion_tokens < wanted

    def _explain(self, found: Findings, transcript: Transcript) -> str | None:
        if found.outcome in ("ok", "cancelled"):
            return transcript.error
        if found.outcome in ("shed", "http_error"):
            return f"HTTP {transcript.status}: {_error_body(transcript)}"
        if found.outcome == "stream_error":
            return self._said.error
        if found.outcome == "corrupted":
            details = ", ".join(found.violations)
            shown = f": {_error_body(transcript)}" if "wrong_content_type" in found.violations else ""
            return f"{details}{shown}" + (f"; {transcript.error}" if transcript.error else "")
        if transcript.error is not None:
            return transcript.error
        return "the answer ended without finish_reason" if found.outcome == "truncated" else transcript.end

    def _wrong_type(self, transcript: Transcript) -> bool:
        media = (transcript.content_type or "").partition(";")[0].strip().lower()
        encoding = (transcript.content_encoding or "identity").strip().lower()
        wanted = "text/event-stream" if self._want.stream else "application/json"
        return media != wanted or encoding != "identity"


def _firsts(joined: Sequence[int]) -> dict[int, int]:
    """For each piece that isn't the first of its read: which piece is."""
    first: dict[int, int] = {}
    for index in joined:
        first[index + 1] = first.get(index, index)
    return first


def _like_text(data: bytes) -> Like | None:
    """Where tokens are only counted: any other text in the same place."""
    for name in (b'"content":"', b'"text":"'):
        if data.count(name) == 1:
            before, _, rest = data.partition(name)
            text, quote, after = rest.partition(b'"')
            return Like(before + name, quote + after) if text else None
    return None


def _error_body(transcript: Transcript) -> str:
    """The message in an error's body, or the start of it."""
    body = transcript.body()[:65_536]
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _text(body) or "(no body)"
    if isinstance(value, dict):
        error = value.get("error", value.get("message"))
        if isinstance(error, dict):
            error = error.get("message") or error
        if error is not None:
            return _text(str(error).encode())
    return _text(body)


def _text(data: bytes) -> str:
    return data[:MAX_ERROR_TEXT].decode("utf-8", "replace").strip()
