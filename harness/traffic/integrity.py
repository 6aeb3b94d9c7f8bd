"""Judges one answer: what arrived, when, what is wrong with it, and how the request ended.

Pure: what reading.py made of its events and the pieces' receive times in, columns of a RequestRecord out. The
outcome is the first that holds in DESIGN section 6's order; a check that can't be made is neither pass nor
violation.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import sub

import msgspec

from harness.core.records import VIOLATIONS, Outcome
from harness.traffic.calls import Arguments
from harness.traffic.reading import Reader, text_of
from harness.traffic.transcript import Expectation, Findings, Transcript

LATE_NS = 5_000_000  # a coalesced chunk whose time may be off by more counts against the generator


def judge(transcript: Transcript, want: Expectation) -> Findings:
    """Read and judge in one go."""
    reader = Reader(want)
    reader.read(transcript.pieces, transcript.bodies)
    return finish(reader, transcript)


def finish(reader: Reader, transcript: Transcript) -> Findings:
    """The verdict on an exchange that is over and read."""
    if transcript.status == 200 and transcript.body_complete:
        reader.end()
    return _Judge(reader).findings(transcript)


class _Judge:
    """Holds what was read against what was asked for."""

    def __init__(self, reader: Reader) -> None:
        self._said, self._want, self._chain, self._tokens = (
            reader.said,
            reader.want,
            reader.chain,
            reader.tokens,
        )
        self._events, self._behind, self._multiple = reader.events, reader.behind, reader.multiple
        self._overflow = reader.overflow

    def findings(self, transcript: Transcript) -> Findings:
        """The verdict on the whole exchange."""
        said = self._said
        found = Findings(
            response_id=said.response_id,
            status=transcript.status,
            tokens_received=self._tokens,
            finish_reason=said.finish_reason,
            engine_worker_id=said.engine_worker_id,
            token_events=len(self._events),
            reasoning_tokens=said.reasoning_tokens,
            tool_tokens=said.tool_tokens,
        )
        if self._chain is not None:
            found.witness_tokens = self._tokens
            if said.finish_reason is not None:
                found.hidden_tokens = len(self._want.shape.marks) + self._chain.withheld
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
        behind = set(self._behind)
        for follower in first:  # few, mostly: of the last read
            begin = bisect_left(self._events, follower - 1)
            behind.update(range(begin, bisect_right(self._events, follower - 1, begin)))
        return sorted(behind)

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
        said, chain = self._said, self._chain
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
            if transcript.end == "malformed" or self._overflow:
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
        return call.is_json or (self._chain is None and self._said.finish_reason == "length")

    def _usage_completion_wrong(self, hidden: int | None) -> bool:
        """Witness: what was counted and what is hidden. Else: more events than tokens, or `length` at another
        length."""
        usage = self._said.usage
        if usage is None or usage.completion_tokens is None:
            return False
        if self._chain is not None:
            if hidden is None and self._want.shape.marks:
                return False  # a part of the answer: nobody can tell how many of its marks were made
            return usage.completion_tokens != self._tokens + (hidden or 0)
        at_limit = self._said.finish_reason == "length"
        return usage.completion_tokens < self._tokens or (
            at_limit and usage.completion_tokens != self._want.tokens_expected
        )

    def _counted_extra(self) -> int:
        usage = self._said.usage
        told = (usage.completion_tokens or 0) if usage is not None else 0
        return max(0, self._tokens - self._want.tokens_expected, told - self._want.tokens_expected)

    def _counted_short(self) -> bool:
        """Without the words, an answer that says `stop` may be of any length.

        One that says `length` is measured by its usage: an event may hold several tokens.
        """
        said, wanted = self._said, self._want.tokens_expected
        if said.finish_reason is None:
            return self._tokens < wanted
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


def _error_body(transcript: Transcript) -> str:
    """The message in an error's body, or the start of it."""
    body = transcript.body()[:65_536]
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text_of(body) or "(no body)"
    if isinstance(value, dict):
        error = value.get("error", value.get("message"))
        if isinstance(error, dict):
            error = error.get("message") or error
        if error is not None:
            return text_of(str(error).encode())
    return text_of(body)
