"""The witness engine: every token it makes can be checked by the client that gets it.

Runs inside Dynamo's venv (standard library and dynamo only). Owns timing and the life of a stream;
which words, which lies and how much room are other modules' business.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from typing import Any

import control
from capacity import Capacity, Seat
from chain import Vocabulary
from dynamo.common.backend.engine import EngineConfig, LLMEngine, LlmRegistration
from dynamo.common.backend.health_check import build_health_check_payload
from dynamo.common.backend.publisher import ComponentSnapshot
from dynamo.common.backend.worker import WorkerConfig
from dynamo.llm.exceptions import EngineShutdown
from lies import Lies
from segments import Segments
from stream import Stream

LATE_S = 0.1  # a stream later than this (the process was stopped) goes on from now, without a burst
SLOW_FACTOR = 10
SILENT = ("hang", "first_then_silence")
PUBLISH_S = 0.05
DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True)
class Options:
    """What the launcher says, in the variable SQUALL_WITNESS."""

    words: str
    model_dir: str
    model_name: str
    control_port: int
    ttft_ms: float
    itl_ms: float
    kv_blocks: int
    block_size: int
    max_num_seqs: int
    context_length: int
    misbehave: list[dict[str, Any]]
    at_shutdown: str = (
        "cancel"  # cancel: streams that outlive the grace period are cancelled; migrate: handed on
    )
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    tokens_per_chunk: int = 1


class WitnessEngine(LLMEngine):
    """Dynamo's engine contract: start, generate, abort, health payload, load, cleanup."""

    def __init__(self, options: Options, vocabulary: Vocabulary, segments: Segments, token: str) -> None:
        self.options, self.vocabulary, self.segments = options, vocabulary, segments
        self.lies = Lies(options.misbehave, self._lied)
        self.capacity = Capacity(options.max_num_seqs, options.kv_blocks, options.block_size)
        self._token = token
        self._streams: dict[str, list[Stream]] = {}
        self._counters = dict.fromkeys(("requests", "tokens", "completed", "aborts", "canaries"), 0)
        self._publisher: Any = None
        self._server: asyncio.Server | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._worker_id: int | None = None
        self._ended: str | None = None  # why it makes nothing any more: report_death, shutdown

    @classmethod
    async def from_args(cls, argv: list[str] | None = None) -> tuple[LLMEngine, WorkerConfig]:
        raise NotImplementedError("main.py makes the engine")

    def worker_config(self) -> WorkerConfig:
        """Registration, with the fields that this version of Dynamo knows."""
        wanted = {
            "namespace": os.environ.get("DYN_NAMESPACE", "dynamo"),
            "component": "backend",
            "endpoint": "generate",
            "model_name": self.options.model_dir,
            "served_model_name": self.options.model_name,
            "endpoint_types": "chat,completions",
            "discovery_backend": os.environ.get("DYN_DISCOVERY_BACKEND", "file"),
            "request_plane": os.environ.get("DYN_REQUEST_PLANE", "tcp"),
            "event_plane": os.environ.get("DYN_EVENT_PLANE", "zmq"),
            "response_plane": os.environ.get("DYN_RESPONSE_PLANE", "tcp"),
            "reasoning_parser": self.options.reasoning_parser,
            "tool_call_parser": self.options.tool_call_parser,
        }
        known = {one.name for one in fields(WorkerConfig)}
        return WorkerConfig(**{key: value for key, value in wanted.items() if key in known})

    async def start(self, worker_id: int) -> EngineConfig:
        self._worker_id = worker_id
        self._server = await control.serve(self.options.control_port, self._token, self._command)
        self._publishing = asyncio.get_running_loop().create_task(self._publish())
        return EngineConfig(
            model=self.options.model_dir,
            served_model_name=self.options.model_name,
            llm=LlmRegistration(
                context_length=self.options.context_length,
                kv_cache_block_size=self.options.block_size,
                total_kv_blocks=self.options.kv_blocks,
                max_num_seqs=self.options.max_num_seqs,
                max_num_batched_tokens=8192,
            ),
        )

    async def generate(self, request: Any, context: Any) -> AsyncGenerator[dict[str, Any], None]:
        stream = self._open(request, context)
        try:
            self._check_alive(stream)
            if not await self._admitted(stream):
                self._check_alive(stream)
                yield self._last_chunk(stream, [], "cancelled")
                return
            due = time.monotonic() + self.options.ttft_ms / 1000
            while stream.left():
                silent = None
                if not stream.pending:
                    rule = stream.event(self.lies)
                    if rule is not None and rule.kind in SILENT:
                        silent = rule
                    elif rule is not None and rule.kind == "slow":
                        stream.slowed_by.add(rule)
                        due += self._itl_s(stream)
                    elif rule is not None:
                        await stream.until(due)
                        self._break(stream, rule.kind)  # raises or dies; returns to end early
                        return
                    if silent is None and not stream.plan(self.vocabulary, self.lies, self._keyed):
                        continue
                if not await (stream.until(due) if silent is None else stream.hold(silent)):
                    self._check_alive(stream)
                    stream.reason = "stopped"
                    yield self._last_chunk(stream, [], "cancelled")
                    return
                if silent is not None:
                    continue  # let go: on with the next token
                now = time.monotonic()
                most = self.options.tokens_per_chunk
                stream.fill(most, self.vocabulary, self.lies, self._keyed)
                tokens = stream.chunk(most)
                due = (now if now - due > LATE_S else due) + self._itl_s(stream) * min(len(tokens), most)
                self._made(stream, len(tokens))
                if stream.left():
                    yield {"token_ids": tokens, "index": 0}
                else:
                    yield self._last_chunk(stream, tokens, "length")
            if stream.reason != "length":  # nothing was left to make
                yield self._last_chunk(stream, [], "length")
        finally:
            self._close(stream)

    def _itl_s(self, stream: Stream) -> float:
        return self.options.itl_ms / 1000 * (SLOW_FACTOR if stream.slowed_by else 1)

    def _open(self, request: Any, context: Any) -> Stream:
        ids = _token_list(request.get("token_ids"))
        max_new = (request.get("stop_conditions") or {}).get("max_tokens")
        job = self.vocabulary.job(ids, DEFAULT_MAX_TOKENS if max_new is None else max_new)
        planned = self.lies.for_request(job.first, job.total) if job.keyed else self.lies.for_canary()
        seat = Seat(tokens=len(ids), most=job.prompt_tokens + job.total + len(job.marks))
        stream = Stream(context.id(), context, job, seat, len(ids), planned, job.first, marked=job.marked)
        self._streams.setdefault(stream.request_id, []).append(stream)
        self._counters["requests" if job.keyed else "canaries"] += 1
        if job.keyed:
            self.segments.write(
                "start", stream.request_id, a=job.a, b=job.b, first=job.first,
                max_tokens=job.total, prompt_tokens=job.prompt_tokens,
            )  # fmt: skip
        return stream

    def _close(self, stream: Stream) -> None:
        self.capacity.leave(stream.seat)
        same = self._streams[stream.request_id]
        same.remove(stream)
        if not same:
            del self._streams[stream.request_id]
        if stream.job.keyed:
            canaries = [one.seat for same in self._streams.values() for one in same if not one.job.keyed]
            self.segments.write(
                "end", stream.request_id, next=stream.next_word, reason=stream.reason, let_in_mono_ns=stream.let_in_ns,
                running=self.capacity.running - sum(seat.inside for seat in canaries),
                used=self.capacity.used - sum(seat.blocks for seat in canaries if seat.inside),
            )  # fmt: skip
            if stream.reason in {"aborted", "stopped"}:
                self._counters["aborts"] += 1

    async def _admitted(self, stream: Stream) -> bool:
        """Wait for a place; False when the client left first."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stream.waiter = turn
        self.capacity.enter(stream.seat, turn)
        await turn
        stream.waiter = None
        stream.let_in_ns = time.monotonic_ns() if stream.seat.inside else None
        return stream.seat.inside and not stream.stopped()

    def _keyed(self) -> list[Stream]:
        """The requests that have a chain."""
        return [stream for same in self._streams.values() for stream in same if stream.job.keyed]

    def _break(self, stream: Stream, event: str) -> None:
        stream.reason = event
        if event == "die":
            os._exit(1)  # no segment gets an end, as after a kill -9
        if event == "report_death":
            self._end("report_death")
            self._check_alive(stream)
        if event == "raise":
            raise RuntimeError(f"witness: told to raise in request {stream.request_id}")

    def _end(self, why: str) -> None:
        """From now on every stream, running or new, gets Dynamo's own word for a dead engine."""
        self._ended = why
        for stream in [one for same in self._streams.values() for one in same]:
            stream.abort()

    def _check_alive(self, stream: Stream) -> None:
        """Raises EngineShutdown, at which Dynamo takes the stream to another worker."""
        if self._ended is not None:
            stream.reason = self._ended
            raise EngineShutdown(f"witness: {self._ended}")

    def _made(self, stream: Stream, tokens: int) -> None:
        stream.made += tokens
        self._counters["tokens"] += tokens
        for _ in range(tokens):
            self.capacity.grow(stream.seat)

    def _last_chunk(self, stream: Stream, token_ids: list[int], finish_reason: str) -> dict[str, Any]:
        if finish_reason == "length":
            stream.reason = "length"
            self._counters["completed"] += 1
        prompt = stream.job.prompt_tokens
        naive = next((rule for rule in stream.planned if rule.kind == "naive_usage"), None)
        if naive is not None and stream.received != prompt:
            self.lies.note(naive, stream.request_id)
            prompt = stream.received
        done = stream.received - stream.job.prompt_tokens + stream.made
        usage = {"prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done}
        return {"token_ids": token_ids, "index": 0, "finish_reason": finish_reason, "completion_usage": usage}

    async def abort(self, context: Any) -> None:
        same = self._streams.get(context.id(), [])
        for stream in same:
            if len(same) == 1 or stream.stopped():  # a client may use one id twice
                stream.abort()

    async def health_check_payload(self) -> dict[str, Any] | None:
        return build_health_check_payload(bos_token_id=1)

    def component_metrics_dp_ranks(self) -> list[int]:
        return [0]

    def attach_snapshot_publisher(self, publisher: Any) -> None:
        self._publisher = publisher

    async def _publish(self) -> None:
        """Tell the router how full the cache is, whenever that changed."""
        last = -1
        while True:
            used, total = self.capacity.used, self.capacity.total
            if self._publisher is not None and used != last:
                last = used
                self._publisher.publish(
                    0,
                    ComponentSnapshot(
                        kv_used_blocks=used, kv_total_blocks=total, gpu_cache_usage=used / total, dp_rank=0
                    ),
                )
            await asyncio.sleep(PUBLISH_S)

    def _lied(self, kind: str, request_id: str, tag: str | None) -> None:
        self.segments.write("lie", request_id, kind=kind, **({} if tag is None else {"tag": tag}))

    def _add(self, tag: str, entry: dict[str, Any]) -> None:
        """One more rule. Requests that run already count as if they began with their next token."""
        rule = self.lies.add(tag, entry)
        if rule is None:
            return
        for stream in self._keyed():
            if rule.kind != "first_then_silence" or stream.following == stream.job.first:
                stream.planned |= self.lies.for_request(stream.following, stream.job.total, [rule])

    def _remove(self, tag: str) -> None:
        """Take a rule back: streams that it holds go on, what it planned doesn't happen."""
        rule = self.lies.remove(tag)
        if rule is not None:
            for stream in [one for same in self._streams.values() for one in same]:
                stream.spare(rule)

    def _command(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command of the control socket. Raises ValueError."""
        name = command.get("command")
        if name == "misbehave":
            self.lies.replace(command.get("misbehave") or [])
        elif name == "add":
            self._add(str(command.get("tag")), command.get("rule") or {})
        elif name == "remove":
            self._remove(str(command.get("tag")))
        elif name == "reset":
            self.lies = Lies(tell=self._lied)
            self._counters = dict.fromkeys(self._counters, 0)
        elif name != "status":
            raise ValueError(f"unknown command {name!r}; there are status, misbehave, add, remove, reset")
        return {
            "pid": os.getpid(), "worker_id": self._worker_id, **self._counters,
            "running": self.capacity.running, "waiting": self.capacity.waiting,
            "kv_used_blocks": self.capacity.used, "kv_total_blocks": self.capacity.total,
            "max_num_seqs": self.capacity.max_num_seqs, **self.lies.status(),
        }  # fmt: skip

    async def cleanup(self) -> None:
        """Dynamo calls this at the end of the grace period, before it cancels what still runs.

        The segment log stays open: streams end after this.
        """
        if self.options.at_shutdown == "migrate":
            self._end("shutdown")
            while self._streams:  # each raises at its next step
                await asyncio.sleep(0.001)
        if self._publishing is not None:
            self._publishing.cancel()
        if self._server is not None:
            self._server.close()


def _token_list(ids: Any) -> list[int]:
    """Token ids as a list; some versions can pack them as little-endian int32."""
    if isinstance(ids, list):
        return ids
    if isinstance(ids, bytes | bytearray | memoryview):
        raw = bytes(ids)
        return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]
    return [] if ids is None else list(ids)
