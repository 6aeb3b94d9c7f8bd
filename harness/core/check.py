"""What a scenario of right types may still not say: ranges, and keys that exclude each other.

Each refusal names file, path, value and remedy. Faults' parameters, metrics and windows are checked
where they are known (faults/timeline.py, stats/metrics.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from harness.core import check_load, phases, strict
from harness.core.errors import ScenarioError
from harness.core.records import VIOLATIONS

if TYPE_CHECKING:
    from harness.core.config import Load, Scenario, Step, Sut, When

NAME_LENGTH = check_load.NAME_LENGTH
NO_ENGINE = frozenset({"frontend", "etcd", "nats"})  # roles without a KV cache and streams of their own
MAX_PROCESSES = 256


class Need(Protocol):
    """Raises ScenarioError unless `ok`."""

    def __call__(self, ok: bool, path: str, what: str, remedy: str) -> None: ...


def check(s: Scenario, file: str) -> None:
    """Raise ScenarioError for the first thing in `s` that can't be."""

    def need(ok: bool, path: str, what: str, remedy: str) -> None:
        if not ok:
            raise ScenarioError(file, path, what, remedy)

    need(all(c.isascii() and (c.isalnum() or c in "-_.") for c in s.name) and 0 < len(s.name) <= NAME_LENGTH,
         "name", f"{s.name!r} can't name a directory", f"use 1 to {NAME_LENGTH} letters, digits, - and _")  # fmt: skip
    _sut(s.sut, need)
    check_load.load(s.load, need)
    for n, user in enumerate(s.load.users):
        check_load.shape(user, s.sut, f"load.users[{n}]", need)
    phases.check_sum(s.load, file)
    for path, seconds in (("recover_timeout_s", s.recover_timeout_s), ("slo.ttft_ms", s.slo.ttft_ms),
                          ("slo.itl_ms", s.slo.itl_ms)):  # fmt: skip
        need(seconds > 0, path, f"must be above 0, got {seconds}", "the unit is in the key's name")
    _processes(s, need)
    least = s.generator.delivered_min_ratio
    need(
        0 <= least <= 1,
        "generator.delivered_min_ratio",
        f"got {least:g}",
        "0 to 1; 0 = whatever it sends is enough",
    )
    for n, code in enumerate(s.overload_codes):
        need(400 <= code <= 599, f"overload_codes[{n}]", f"{code} is no HTTP error", "for example 503")
    seen: set[str] = set()
    for n, step in enumerate(s.faults):
        _step(step, f"faults[{n}]", s.load, seen, need)
    for n, gate in enumerate(s.gates):
        need((gate.max is None) != (gate.min is None), f"gates[{n}]", "needs exactly one of max and min",
             f"for example {{metric: {gate.metric}, window: {gate.window}, max: 500}}")  # fmt: skip
    for n, known in enumerate(s.known):
        need(known.violation in VIOLATIONS, f"known[{n}].violation", f"{known.violation!r} is no violation",
             strict.nearest(known.violation, VIOLATIONS))  # fmt: skip
        need(known.max_count is None or known.max_count >= 1, f"known[{n}].max_count", f"got {known.max_count}",
             "1 or more; remove the entry to allow none")  # fmt: skip


def _processes(s: Scenario, need: Need) -> None:
    count, users = s.generator.processes, sum(user.count for user in s.load.users)
    need(0 <= count <= MAX_PROCESSES, "generator.processes", f"got {count}",
         f"1 to {MAX_PROCESSES}, or 0 for one on each core")  # fmt: skip
    need(count <= users or s.load.arrivals is not None, "generator.processes",
         f"{count} for {users} users: some would have none", f"at most {users}")  # fmt: skip


def _sut(sut: Sut, need: Need) -> None:
    need((sut.dynamo is None) != (sut.url is None), "sut", "needs exactly one of `dynamo` and `url`",
         'write `dynamo: "1.6.1"` to start Dynamo here, or `url: "http://host:port"` for one that runs')  # fmt: skip
    if sut.url is not None:
        need(sut.model is not None, "sut.model", "is missing", "name the model that requests ask for")
        need(sut.platform == "local", "sut.platform", f"{sut.platform!r} doesn't go with sut.url",
             "an outside system is where it is: leave `platform` out")  # fmt: skip
    for path, urls in (
        ("url", [sut.url] if sut.url is not None else []),
        ("metrics", sut.metrics),
        ("health", sut.health),
    ):
        for url in urls:
            need(_is_url(url), f"sut.{path}", f"{url!r} is no URL",
                 "write http:// or https://, a host, and a port from 1 to 65535")  # fmt: skip
            need("@" not in urlsplit(url).netloc, f"sut.{path}", "credentials don't belong into a URL, which is shown everywhere",
                 "put them into an environment variable and name it in sut.headers_env")  # fmt: skip
    for key, value in sut.env.items():
        need(bool(key) and not {"=", "\0"} & set(key) and "\0" not in value, f"sut.env.{key}",
             f"{key!r}: {value!r} is no environment variable", "no = in the name, no NUL anywhere")  # fmt: skip
    for path, args in (("frontend_args", sut.frontend_args), ("worker_args", sut.worker_args)):
        need("\0" not in "".join(args), f"sut.{path}", f"{args!r} holds a NUL", "remove it")
    need(sut.workers >= 1, "sut.workers", f"must be 1 or more, got {sut.workers}", "set it to 2")
    _disaggregated(sut, need)
    need(sut.frontends >= 1, "sut.frontends", f"must be 1 or more, got {sut.frontends}", "set it to 1")
    need(sut.etcd_members == 1 or sut.discovery == "etcd", "sut.etcd_members",
         f"{sut.etcd_members} members of nothing: discovery is {sut.discovery!r}", "write `discovery: etcd`")  # fmt: skip
    need(sut.migration_limit >= 0, "sut.migration_limit", f"got {sut.migration_limit}", "0 = never")
    longest = sut.migration_max_seq_len
    need(longest is None or longest >= 1, "sut.migration_max_seq_len", f"got {longest}",
         "tokens of prompt and answer, 1 or more; leave it out for no limit")  # fmt: skip
    need(0 <= sut.http_port < 65536, "sut.http_port", f"got {sut.http_port}", "0 = any free port")
    need(
        sut.ready_timeout_s > 0,
        "sut.ready_timeout_s",
        f"must be above 0, got {sut.ready_timeout_s}",
        "seconds",
    )
    for key, seconds in (("wait_s", sut.canary.wait_s), ("timeout_s", sut.canary.timeout_s)):
        need(seconds >= 1, f"sut.canary.{key}", f"must be 1 or more, got {seconds}", "whole seconds")
    given = sut.canary.payload
    need(not isinstance(given, str) or given == "auto" or given.startswith("@"), "sut.canary.payload",
         f"{given!r} is neither `auto` nor \"@path\"", "or write the object itself: {token_ids: [1], ...}")  # fmt: skip
    options = sut.engine_options
    for field in ("ttft_ms", "itl_ms"):
        value = getattr(options, field)
        need(value >= 0, f"sut.engine_options.{field}", f"must be 0 or more, got {value}", "milliseconds")
    for field in ("kv_blocks", "block_size", "max_num_seqs"):
        value = getattr(options, field)
        need(value >= 1, f"sut.engine_options.{field}", f"must be 1 or more, got {value}", "a count")
    need(1 <= options.tokens_per_chunk <= 64, "sut.engine_options.tokens_per_chunk",
         f"got {options.tokens_per_chunk}", "1 to 64")  # fmt: skip
    for n, m in enumerate(options.misbehave):
        here = f"sut.engine_options.misbehave[{n}]"
        need((m.one_in is None) != (m.at_token is None), here, "needs exactly one of one_in and at_token",
             f"for example {{kind: {m.kind}, one_in: 10000}}")  # fmt: skip
        need(m.one_in is None or m.one_in >= 1, f"{here}.one_in", f"got {m.one_in}", "1 or more")
        need(m.at_token is None or m.at_token >= 0, f"{here}.at_token", f"got {m.at_token}", "0 or more")


def _disaggregated(sut: Sut, need: Need) -> None:
    count = sut.prefill_workers
    need(count >= 0, "sut.prefill_workers", f"got {count}", "0 = workers do prefill and decode")
    need(count == 0 or (sut.engine == "mocker" and sut.url is None), "sut.prefill_workers",
         f"{count} with engine {sut.engine}: only squall's own mockers can be disaggregated",
         "write `engine: mocker`, or leave it out")  # fmt: skip


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    printable = url.isascii() and url.isprintable() and " " not in url
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and printable


def _when(when: When, role: str | None, here: str, need: Need) -> None:
    one, *more = when.named or ["none of them"]
    need(bool(when.named) and not more, here, "needs exactly one of streams, past_token, queued and kv_use, got "
         f"{', '.join([one, *more])}", "for example {streams: 8, within_s: 30}")  # fmt: skip
    least = f"{here}.past_token.streams" if when.past_token is not None else f"{here}.{one}"
    if when.kv_use is not None:
        need(0 < when.kv_use <= 1, least, f"got {when.kv_use}", "above 0, at most 1 (1 = full)")
    else:
        need(when.least >= 1, least, f"got {when.least:g}, which always holds", "1 or more")
    if when.past_token is not None:
        need(when.past_token.token >= 0, f"{here}.past_token.token", f"got {when.past_token.token}",
             "0 or more")  # fmt: skip
    need(not when.on_target or when.streams is not None, f"{here}.on_target", f"doesn't go with {one}",
         "remove it; it goes with streams only")  # fmt: skip
    if when.kv_use is not None or when.on_target:
        need(role is not None and role not in NO_ENGINE, f"{here}.{'on_target' if when.on_target else 'kv_use'}",
             f"is of an engine, and {role or 'this target'} is none", "select a worker, or use queued or streams")  # fmt: skip
    need(when.within_s > 0, f"{here}.within_s", f"got {when.within_s}", "above 0")


def _step(step: Step, here: str, load: Load, seen: set[str], need: Need) -> None:
    need(step.id not in seen and bool(step.id), f"{here}.id", f"{step.id!r} is empty or used twice",
         "give each step an id of its own")  # fmt: skip
    need(step.id.isprintable() and len(step.id) <= NAME_LENGTH, f"{here}.id", f"{step.id!r} can't stand in a line",
         f"up to {NAME_LENGTH} characters, no line break")  # fmt: skip
    seen.add(step.id)
    if step.phase is None:
        need(0 <= step.at_s <= load.duration_s, f"{here}.at_s", f"{step.at_s} is outside the run of "
             f"{load.duration_s} s", "seconds from the end of warm-up, before the load ends")  # fmt: skip
    else:
        span = phases.of(load, step.phase)
        need(span is not None, f"{here}.phase", f"load.phases has no {step.phase!r}",
             strict.nearest(step.phase, [phase.name for phase in load.phases]))  # fmt: skip
        need(span is None or 0 <= step.at_s <= span.phase.duration_s, f"{here}.at_s", f"{step.at_s:g} is outside phase "
             f"{step.phase!r} of {span.phase.duration_s if span else 0:g} s", "seconds from the phase's start")  # fmt: skip
    need(step.hold_s is None or step.hold_s > 0, f"{here}.hold_s", f"got {step.hold_s}", "above 0")
    need(step.every_s is None or step.every_s > 0, f"{here}.every_s", f"got {step.every_s}", "above 0")
    need(step.jitter_s >= 0, f"{here}.jitter_s", f"got {step.jitter_s}", "0 or more")
    if step.when is not None:
        need(step.every_s is None, f"{here}.every_s", f"{step.every_s} doesn't go with `when`, which holds once",
             "write a step for each time")  # fmt: skip
        _when(step.when, None if step.select is None else step.select.role, f"{here}.when", need)
    if step.select is None:
        return
    need(step.select.count >= 1, f"{here}.select.count", f"{step.select.count} selects nothing",
         "select 1 or more; a fault without a target is an error")  # fmt: skip
    need(step.select.index != [], f"{here}.select.index", "is empty and selects nothing", "name one")
    for index in step.select.index or []:
        need(index >= 1, f"{here}.select.index", f"{index} is no target", "targets are numbered from 1")
