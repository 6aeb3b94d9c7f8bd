"""What a load of right types may still not say: users, arrivals, phases, lengths, retries.

Called by check.py; each refusal names file, path, value and remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core import lengths, phases
from harness.core.words import P

if TYPE_CHECKING:
    from harness.core.arrivals import Arrivals
    from harness.core.check import Need
    from harness.core.config import Cancel, Conversation, Load, Phase, Retry, Sut, UserClass
    from harness.core.lengths import Length

NAME_LENGTH = 64
MAX_SECONDS = 10_000_000  # four months
MAX_USERS = 100_000  # far beyond what one process can drive
MAX_RATE = 1_000_000  # requests a second, likewise
MAX_PROMPT_TOKENS = 1_000_000
MAX_TURNS = 1024  # a conversation's turns are numbered below it


def load(load: Load, need: Need) -> None:
    """Check the whole of `load`."""
    for field, low in (("duration_s", False), ("timeout_s", False), ("warmup_s", True), ("drain_s", True)):
        value = getattr(load, field)
        need(value > 0 or (low and value == 0), f"load.{field}",
             f"must be {'0 or more' if low else 'above 0'}, got {value}", "seconds")  # fmt: skip
        need(value <= MAX_SECONDS, f"load.{field}", f"{value} is above {MAX_SECONDS}", "seconds")
    need(bool(load.users), "load.users", "is empty", "name at least one user class with a count")
    for n, user in enumerate(load.users):
        _user(user, load, f"load.users[{n}]", need)
    if load.arrivals is not None:
        _arrivals(load.arrivals, load, need)
    _phases(load, need)


def _user(u: UserClass, load: Load, here: str, need: Need) -> None:
    if u.weight is None:
        remedy = (
            "number of users"
            if load.arrivals is None
            else "number of users, or `weight` for a share of load.arrivals"
        )
        need(u.count >= 1, f"{here}.count", f"must be 1 or more, got {u.count}", remedy)
    else:
        need(load.arrivals is not None, f"{here}.weight", f"{u.weight:g} of no load.arrivals",
             "write `count`, the number of users, or add load.arrivals")  # fmt: skip
        need(
            u.count == 0,
            f"{here}.count",
            f"{u.count} beside weight {u.weight:g}",
            "users by count or by weight: keep one",
        )
        need(
            0 < u.weight < float("inf"),
            f"{here}.weight",
            f"must be above 0, got {u.weight:g}",
            "a share, for example 1",
        )
    need(u.count <= MAX_USERS, f"{here}.count", f"{u.count} is above {MAX_USERS}", "number of users")
    need(u.think_s >= 0, f"{here}.think_s", f"must be 0 or more, got {u.think_s}", "seconds")
    _, longest = _length(u.prompt_tokens, f"{here}.prompt_tokens", need)
    need(longest <= MAX_PROMPT_TOKENS, f"{here}.prompt_tokens", f"{longest} is above {MAX_PROMPT_TOKENS}",
         "lower it")  # fmt: skip
    _, longest = _length(u.output_tokens, f"{here}.output_tokens", need)
    need(
        longest <= P,
        f"{here}.output_tokens",
        f"{longest} is above {P}, the length of the witness chain",
        "lower it",
    )
    need((u.cancel is not None) == (u.user_class == "CancellingUser"), f"{here}.cancel",
         f"{'is missing for' if u.cancel is None else 'does not fit'} {u.user_class}",
         "CancellingUser needs `cancel: {after_tokens: 20, mode: rst}`, the others have none")  # fmt: skip
    if u.cancel is not None:
        need(u.cancel.after_tokens >= 0, f"{here}.cancel.after_tokens", f"got {u.cancel.after_tokens}",
             "0 = during prefill")  # fmt: skip
        need(u.cancel.after_tokens <= longest, f"{here}.cancel.after_tokens",
             f"{u.cancel.after_tokens} never comes: answers have at most {longest} tokens", "lower it")  # fmt: skip
        need(u.stream or u.cancel.after_tokens == 0, f"{here}.cancel.after_tokens",
             f"{u.cancel.after_tokens} with `stream: false`: its tokens come all at once", "write 0 and after_ms")  # fmt: skip
        need(u.cancel.after_ms >= 0, f"{here}.cancel.after_ms", f"got {u.cancel.after_ms}", "0 or more")
        _cancel(u.cancel, f"{here}.cancel", need)
    if u.conversation is not None:
        _conversation(u, u.conversation, f"{here}.conversation", need)
    if u.prefix is not None:
        need(
            u.prefix.tokens >= 1,
            f"{here}.prefix.tokens",
            f"must be 1 or more, got {u.prefix.tokens}",
            "a count",
        )
        need(
            u.prefix.groups >= 1,
            f"{here}.prefix.groups",
            f"must be 1 or more, got {u.prefix.groups}",
            "1 = the same for all",
        )
    if u.retry is not None:
        _retry(u.retry, f"{here}.retry", need)


def shape(u: UserClass, sut: Sut, here: str, need: Need) -> None:
    """Thoughts and tool calls need the witness, and a frontend that knows their marks."""
    shortest, _ = _length(u.output_tokens, f"{here}.output_tokens", need)
    need(0 <= u.reasoning_tokens < shortest, f"{here}.reasoning_tokens",
         f"{u.reasoning_tokens} of answers that may have {shortest} tokens", "0 or more, and fewer than output_tokens")  # fmt: skip
    options = sut.engine_options
    for key, wanted, parser, example in (
        ("reasoning_tokens", u.reasoning_tokens > 0, options.reasoning_parser, "qwen3"),
        ("tool_call", u.tool_call, options.tool_call_parser, "hermes"),
    ):
        path, name = f"{here}.{key}", f"{'reasoning' if key == 'reasoning_tokens' else key}_parser"
        need(not wanted or u.user_class != "CompletionUser", path, "doesn't fit CompletionUser: /v1/completions "
             "knows neither thoughts nor calls", "use ChatUser or ResponsesUser")  # fmt: skip
        need(not wanted or (sut.url is None and sut.engine == "witness"), path, "needs the witness engine, which "
             "makes such answers on demand", "remove it, or write `engine: witness`")  # fmt: skip
        need(not wanted or parser is not None, path, f"needs sut.engine_options.{name}, by which Dynamo takes their "
             "marks out of the text", f"for example {name}: {example}")  # fmt: skip
    need(not u.chunk_usage or (u.stream and u.user_class != "ResponsesUser"), f"{here}.chunk_usage",
         "goes with streams of chat and completions only", "remove it")  # fmt: skip


def _cancel(cancel: Cancel, here: str, need: Need) -> None:
    need(cancel.stall_s > 0, f"{here}.stall_s", f"must be above 0, got {cancel.stall_s}", "seconds")
    need(cancel.mode != "timeout" or cancel.after_tokens == 0, f"{here}.after_tokens",
         f"{cancel.after_tokens}: mode timeout waits for a time, not for tokens", "set after_ms instead")  # fmt: skip
    storm_s = cancel.storm_every_s
    if storm_s is not None:
        need(storm_s > 0, f"{here}.storm_every_s", f"must be above 0, got {storm_s}", "seconds")
        need(cancel.after_tokens == 0, f"{here}.after_tokens",
             f"{cancel.after_tokens} beside storm_every_s: which of the two ends a stream?", "remove one")  # fmt: skip
        need(cancel.mode != "timeout", f"{here}.mode", "timeout beside storm_every_s: each client has its own",
             "use fin, rst, half_close or stall")  # fmt: skip


def _conversation(u: UserClass, talk: Conversation, here: str, need: Need) -> None:
    _, most = _length(talk.turns, f"{here}.turns", need)
    need(most <= MAX_TURNS, f"{here}.turns", f"{most} is above {MAX_TURNS}", "lower it")
    need(u.user_class in ("ChatUser", "CancellingUser"), here, f"doesn't fit {u.user_class}",
         "what was said before goes as messages of a chat: use ChatUser")  # fmt: skip
    need(not u.reasoning_tokens and not u.tool_call, here, "doesn't go with reasoning_tokens or tool_call: what "
         "was said before is plain text", "remove one of them")  # fmt: skip


def _retry(retry: Retry, here: str, need: Need) -> None:
    need(2 <= retry.max_attempts <= 100, f"{here}.max_attempts", f"got {retry.max_attempts}",
         "2 to 100, the first one included; leave `retry` out for none")  # fmt: skip
    need(retry.base_s > 0, f"{here}.base_s", f"must be above 0, got {retry.base_s:g}", "seconds")
    need(
        retry.cap_s >= retry.base_s,
        f"{here}.cap_s",
        f"{retry.cap_s:g} is below base_s {retry.base_s:g}",
        "raise it",
    )
    ratio = retry.budget_ratio
    need(ratio is None or 0 <= ratio <= 100, f"{here}.budget_ratio", f"got {ratio}", "for example 0.1")
    need(retry.budget_min >= 0, f"{here}.budget_min", f"got {retry.budget_min}", "0 or more")


def _arrivals(a: Arrivals, load: Load, need: Need) -> None:
    here = "load.arrivals"
    need(any(u.weight is not None for u in load.users), here, "are nobody's",
         "give an entry of load.users a `weight` instead of a `count`")  # fmt: skip
    trace = a.process == "trace"
    need(trace == (a.file is not None), f"{here}.file", f"{'is missing for' if trace else 'does not fit'} process {a.process}",
         "`process: trace` needs the file of a trace, the others have none")  # fmt: skip
    for n, user in enumerate(load.users):
        need(not trace or user.weight is None or not (user.reasoning_tokens or user.tool_call), f"load.users[{n}]",
             "asks for thoughts or tool calls, and the lengths are a trace's", "remove one of them")  # fmt: skip
    given = (a.rate_per_s is not None) + bool(a.stages)
    need(given == (0 if trace else 1), here, f"has {given} of rate_per_s and stages, process {a.process} needs "
         f"{'none' if trace else 'exactly one'}", "for example {process: poisson, rate_per_s: 10}")  # fmt: skip
    rates = [("rate_per_s", a.rate_per_s)]
    for n, stage in enumerate(a.stages):
        need(
            stage.duration_s > 0,
            f"{here}.stages[{n}].duration_s",
            f"must be above 0, got {stage.duration_s:g}",
            "seconds",
        )
        rates += [(f"stages[{n}].rate_per_s", stage.rate_per_s), (f"stages[{n}].to_per_s", stage.to_per_s)]
    for at, rate in rates:
        need(
            rate is None or 0 <= rate <= MAX_RATE,
            f"{here}.{at}",
            f"got {rate}",
            f"requests per second, 0 to {MAX_RATE}",
        )
    need(a.rate_per_s is None or a.rate_per_s > 0, f"{here}.rate_per_s", "is 0: nobody ever comes", "above 0")
    need(
        0.001 <= a.burstiness <= 1000,
        f"{here}.burstiness",
        f"got {a.burstiness:g}",
        "1 = Poisson, below it burstier",
    )
    need(a.burstiness == 1 or a.process == "gamma", f"{here}.burstiness", f"{a.burstiness:g} does not fit process "
         f"{a.process}", "write `process: gamma`")  # fmt: skip
    need(a.max_in_flight is None or a.max_in_flight >= 1, f"{here}.max_in_flight", f"got {a.max_in_flight}",
         "1 or more; leave it out for no limit")  # fmt: skip
    for key, value, least in (("speed_ratio", a.speed_ratio, 0.0), ("length_ratio", a.length_ratio, 0.0)):
        need(
            least < value < float("inf"),
            f"{here}.{key}",
            f"must be above 0, got {value:g}",
            "1 = as in the trace",
        )
        need(
            trace or value == 1,
            f"{here}.{key}",
            f"{value:g} does not fit process {a.process}",
            "it is of traces",
        )
    need(
        a.offset_s >= 0,
        f"{here}.offset_s",
        f"must be 0 or more, got {a.offset_s:g}",
        "seconds of the trace to skip",
    )
    need(
        trace or a.offset_s == 0,
        f"{here}.offset_s",
        f"{a.offset_s:g} does not fit process {a.process}",
        "it is of traces",
    )
    total_s = sum(stage.duration_s for stage in a.stages)
    need(not a.stages or abs(total_s - load.duration_s) < phases.TOLERANCE_S, f"{here}.stages",
         f"last {total_s:g} s, the load {load.duration_s:g} s", "make them equal")  # fmt: skip


def _phases(load: Load, need: Need) -> None:
    names: set[str] = set()
    for n, phase in enumerate(load.phases):
        here = f"load.phases[{n}]"
        _phase(phase, here, names, need)
        for user in load.users:
            most = phases.active(user, phase)
            need(most <= MAX_USERS, f"{here}.users_ratio", f"{phase.users_ratio:g} makes {most} users of {user.count}, "
                 f"above {MAX_USERS}", "lower it")  # fmt: skip
        counted = any(user.weight is None for user in load.users)
        need(counted or phase.users_ratio == 1, f"{here}.users_ratio", f"{phase.users_ratio:g} of no users: load.users "
             "has none with a `count`", "use rate_ratio")  # fmt: skip
        timed = load.arrivals is not None and load.arrivals.process != "trace"
        need(timed or phase.rate_ratio == 1, f"{here}.rate_ratio", f"{phase.rate_ratio:g} of no rate",
             "it scales load.arrivals with a rate; for users by count it is users_ratio")  # fmt: skip


def _phase(phase: Phase, here: str, names: set[str], need: Need) -> None:
    """Its name is part of a window's name, on the command line and in files."""
    plain = phase.name.isascii() and all(c.isalnum() or c in "-_." for c in phase.name)
    need(plain and 0 < len(phase.name) <= NAME_LENGTH, f"{here}.name", f"{phase.name!r} can't name a window",
         f"use 1 to {NAME_LENGTH} letters, digits, - and _")  # fmt: skip
    need(
        phase.name not in names,
        f"{here}.name",
        f"{phase.name!r} is used twice",
        "give each phase a name of its own",
    )
    names.add(phase.name)
    need(phase.duration_s > 0, f"{here}.duration_s", f"must be above 0, got {phase.duration_s:g}", "seconds")
    for key, ratio in (("users_ratio", phase.users_ratio), ("rate_ratio", phase.rate_ratio)):
        need(
            0 <= ratio < float("inf"),
            f"{here}.{key}",
            f"got {ratio:g}",
            "0 = none, 1 = all, 3 = three times as many",
        )


def _length(length: Length, path: str, need: Need) -> tuple[int, int]:
    wrong = lengths.problem(length)
    need(wrong is None, path, *(wrong or ("", "")))
    return lengths.bounds(length)
