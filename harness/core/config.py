"""The scenario: strict structs for DESIGN section 4, and nothing else may be in the file.

Parsing, overrides, hashing; which values may stand together is in check.py. What a fault's
parameters mean is not known here (faults/timeline.py), nor which metrics exist (stats/metrics.py):
they check their part before a run starts.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from harness.core import check, inputs, phases, strict
from harness.core.arrivals import Arrivals
from harness.core.errors import ScenarioError, UsageError
from harness.core.lengths import Length

OVERLOAD_CODES = (503, 529)
GENERATOR_VERSION = 2  # changes when the same scenario and seed would send other requests


class Cancel(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Leave the answer after so many tokens; 0 = after_ms after sending, whatever came by then.

    timeout: an impatient client's plain close, always after_ms after sending. half_close: no more is
    sent, but reading goes on; stall: the connection stays open, unread; both close after stall_s.
    storm_every_s: all open streams of the entry at once, at each multiple of it since the load began.
    """

    after_tokens: int = 0
    mode: Literal["fin", "rst", "half_close", "stall", "timeout"] = "rst"
    after_ms: float = 10
    stall_s: float = 2
    storm_every_s: float | None = None


class Conversation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """So many requests one after the other, think_s apart, each with all that was said before. One that
    isn't answered in full ends the conversation."""

    turns: Length


class Prefix(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Prompts begin with one of `groups` texts of so many tokens, drawn for each request or conversation."""

    tokens: int
    groups: int = 1


class Retry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a client does about an answer that never began: an error status or overload code, no connection,
    a connection lost before the status.

    It asks again after Retry-After where the answer says that (retry_after), else after min(cap_s, base_s x
    2^n), of which full jitter takes a random share. budget_ratio: of its class's requests in one process,
    at most this share is sent again (and budget_min more).
    """

    max_attempts: int = 3  # the first one included
    base_s: float = 0.5
    cap_s: float = 8
    jitter: Literal["full", "none"] = "full"
    retry_after: bool = True
    budget_ratio: float | None = None
    budget_min: int = 10


class UserClass(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`count` users of one class, each sends its next request think_s after the last ended; or, by `weight`,
    a share of load.arrivals, each of which is a user of its own."""

    user_class: Literal["ChatUser", "CompletionUser", "CancellingUser", "ResponsesUser"] = msgspec.field(
        name="class"
    )
    count: int = 0
    prompt_tokens: Length = 50
    output_tokens: Length = 150
    think_s: float = 0
    stream: bool = True  # False: one whole JSON answer
    cancel: Cancel | None = None
    weight: float | None = None
    conversation: Conversation | None = None
    prefix: Prefix | None = None
    retry: Retry | None = None
    reasoning_tokens: int = 0  # so many of output_tokens, the first ones, are thoughts
    tool_call: bool = False  # the rest of the answer is a tool call
    chunk_usage: bool = False  # ask for usage with every chunk


class Phase(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A stretch of the load with users_ratio times as many active users, rate_ratio times the arrivals."""

    name: str
    duration_s: float
    users_ratio: float = 1
    rate_ratio: float = 1


class Load(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who sends what, for how long. duration_s excludes warmup_s; with phases it is their sum."""

    duration_s: float
    users: list[UserClass]
    warmup_s: float = 5
    drain_s: float = 15
    timeout_s: float = 30
    phases: list[Phase] = []
    arrivals: Arrivals | None = None


class Misbehave(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One lie of the witness engine: to about one token (or request) in N, or at token k of each."""

    kind: Literal[
        "drop", "repeat", "swap", "corrupt", "cross", "end_early", "hang", "first_then_silence", "slow",
        "naive_usage", "raise", "die", "report_death",
    ]  # fmt: skip
    one_in: int | None = None
    at_token: int | None = None


class EngineOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The witness engine's model of time and memory."""

    ttft_ms: float = 50
    itl_ms: float = 20
    kv_blocks: int = 2000
    block_size: int = 16
    max_num_seqs: int = 256
    at_shutdown: Literal["cancel", "migrate"] = "cancel"  # streams that outlive a drain's grace period
    misbehave: list[Misbehave] = []
    reasoning_parser: str | None = (
        None  # of the frontend, by Dynamo's name for it: takes thoughts out of the text
    )
    tool_call_parser: str | None = None  # the same for tool calls
    tokens_per_chunk: int = 1  # so many tokens leave the engine together, as with speculative decoding


class Canary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests by which each worker checks its own engine; its /health goes red when they fail.

    wait_s: so long without traffic before one is sent; timeout_s: so long it may take. payload: `auto`
    (of the engine), an object, or "@path" of a file that holds one. For an outside system `enabled` only
    says that it has them.
    """

    enabled: bool = False
    wait_s: int = 10
    timeout_s: int = 3
    payload: str | dict[str, Any] = "auto"


class TargetSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A process of an outside system that faults may touch."""

    role: str
    pid: int


class Sut(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The system under test: one that squall starts (dynamo) or an outside one (url)."""

    dynamo: str | None = None
    engine: Literal["witness", "mocker"] = "witness"
    engine_type: Literal["vllm", "sglang", "trtllm"] = "vllm"
    platform: Literal["local", "netns", "kubernetes"] = "local"
    discovery: Literal["file", "etcd"] = "file"
    etcd_members: Literal[1, 3] = 1  # with `discovery: etcd`
    request_plane: Literal["tcp", "nats"] = "tcp"
    workers: int = 2
    prefill_workers: int = 0  # above 0: disaggregated, and `workers` only decode
    frontends: int = 1
    http_port: int = 0  # of the first frontend, the next ones follow; 0 = any free port
    migration_limit: int = 3
    migration_max_seq_len: int | None = None  # streams longer than this (prompt + answer) don't migrate
    frontend_args: list[str] = []
    worker_args: list[str] = []
    env: dict[str, str] = {}
    canary: Canary = Canary()
    engine_options: EngineOptions = EngineOptions()
    ready_timeout_s: float = 60
    model_dir: str | None = None  # None: the generated one
    url: str | None = None
    model: str | None = None
    oracle: Literal["witness", "count"] = "witness"
    headers_env: dict[str, str] = {}
    metrics: list[str] = []
    health: list[str] = []
    targets: list[TargetSpec] = []

    @property
    def servers(self) -> dict[str, int]:
        """How many servers Dynamo needs beside it, by role; a role without any is left out."""
        found: dict[str, int] = {"etcd": self.etcd_members} if self.discovery == "etcd" else {}
        return found | ({"nats": 1} if self.request_plane == "nats" else {})


class Slo(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a user counts as good: ttft and mean gap at most this."""

    ttft_ms: float = 500
    itl_ms: float = 100


class Generator(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Beyond these limits the load generator was too slow and the run is invalid."""

    engine: Literal["auto", "hub", "reactor"] = "auto"
    send_lag_p99_ms: float = 20
    hub_lag_p99_ms: float = 50
    coalesced_max_ratio: float = 0.01
    delivered_min_ratio: float = 0.9  # of the arrivals, or of the users, that were asked for
    processes: int = 1  # Locust processes that the users are spread over; 0 = one for each core


class Select(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which targets: `count` of a role, drawn by the seed, or those with these indices (1, 2, ...)."""

    role: str
    count: int = 1
    index: list[int] | None = None


CONDITIONS = ("streams", "past_token", "queued", "kv_use")


class PastToken(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """So many open streams have received more than so many tokens."""

    token: int
    streams: int = 1


class When(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a fault waits for from at_s on: exactly one condition, for at most within_s."""

    streams: int | None = None  # so many in flight or more
    past_token: PastToken | None = None
    queued: int | None = None  # so many requests without a first token, in the whole system, or more
    kv_use: float | None = None  # so full the cache of the fullest target, or more; 1 = full
    on_target: bool = False  # `streams` of the busiest target instead of all
    within_s: float = 30

    @property
    def named(self) -> list[str]:
        """Keys of the conditions that are given."""
        return [key for key in CONDITIONS if getattr(self, key) is not None]

    @property
    def of_system(self) -> bool:
        """Does the system have to be asked? Else what the client sees is enough."""
        return self.queued is not None or self.kv_use is not None or self.on_target

    @property
    def least(self) -> float:
        """The value at which it holds."""
        if self.past_token is not None:
            return self.past_token.streams
        return next((one for one in (self.streams, self.queued, self.kv_use) if one is not None), 0)

    @property
    def text(self) -> str:
        """The condition for people."""
        what = "streams on the target" if self.on_target else "streams"
        if self.past_token is not None:
            what = f"streams past token {self.past_token.token}"
        elif self.queued is not None:
            what = "requests queued"
        elif self.kv_use is not None:
            what = "KV use"
        return f"{what} >= {self.least:g}"


class Step(msgspec.Struct, frozen=True):
    """A fault at a time. Seconds from the end of warm-up, or from the start of the phase that it names;
    params are the fault's own fields."""

    id: str
    fault: str
    at_s: float
    select: Select | None = None  # only faults that find their target themselves go without
    hold_s: float | None = None
    every_s: float | None = None
    jitter_s: float = 0
    when: When | None = None
    phase: str | None = None
    params: dict[str, Any] = {}


class Gate(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A limit on a metric in a window."""

    metric: str
    window: str = "steady"
    max: float | None = None
    min: float | None = None


class Known(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A violation accepted for now, with a reason and an end."""

    violation: str
    reason: str
    expires: date
    window: str = "all"
    max_count: int | None = None


class Compare(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Overrides of STATISTICS.md's defaults; they go into the config hash."""

    looks: list[int] | None = None
    metrics: list[str] | None = None
    margins: dict[str, float] = {}
    floors: dict[str, float] = {}


class Scenario(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One file under configs/scenarios."""

    schema: Literal[1]
    name: str
    sut: Sut
    load: Load
    seed: int = 1
    slo: Slo = Slo()
    overload_codes: list[int] = msgspec.field(default_factory=lambda: list(OVERLOAD_CODES))
    recover_timeout_s: float = 15
    generator: Generator = Generator()
    faults: list[Step] = []
    gates: list[Gate] = []
    known: list[Known] = []
    compare: Compare = Compare()


LATER_IN_GENERATOR: dict[str, Any] = {"delivered_min_ratio": 0.9, "processes": 1}
LATER_IN_PHASE: dict[str, Any] = {"rate_ratio": 1.0}
LATER_IN_STEP = {"when": None, "phase": None}
LATER_IN_LOAD: dict[str, Any] = {"phases": [], "arrivals": None}
LATER_IN_USER: dict[str, Any] = {"weight": None, "conversation": None, "prefix": None, "retry": None}
STEP_KEYS = ("id", "fault", "select", "at_s", "hold_s", "every_s", "jitter_s", "when", "phase")


def load_scenario(path: Path, overrides: list[str] | None = None, seed: int | None = None) -> Scenario:
    """Read, override, check. Raises UsageError or ScenarioError naming file, path, value, remedy."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; `ls configs/scenarios` shows what there is") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text in UTF-8 ({error.reason}); name a scenario") from None
    tree = strict.parse_yaml(text, str(path))
    for item in overrides or []:
        strict.override(tree, item)
    if seed is not None:
        tree["seed"] = seed
    inputs.resolve(tree, path)
    return build(tree, str(path))


def build(tree: dict[str, Any], file: str) -> Scenario:
    """A scenario from plain data; `file` names it in errors."""
    strict.check_plain(tree, file)
    tree = dict(tree)
    if "load" in tree:
        tree["load"] = phases.fill_duration(tree["load"])
    faults = tree.get("faults")
    if faults is not None:
        if not isinstance(faults, list):
            raise ScenarioError(file, "faults", f"must be a list, got {faults!r}", "write `faults: []`")
        tree["faults"] = [_split_step(step, f"faults[{n}]", file) for n, step in enumerate(faults)]
    scenario = strict.convert(tree, Scenario, file)
    check.check(scenario, file)
    return scenario


def _split_step(step: Any, path: str, file: str) -> Any:
    """Move a fault's own parameters into `params`."""
    if not isinstance(step, dict):
        raise ScenarioError(file, path, f"must be a mapping with id, fault, select, at_s, got {step!r}")
    own = {key: value for key, value in step.items() if key in STEP_KEYS}
    return {**own, "params": {key: value for key, value in step.items() if key not in STEP_KEYS}}


def expired(scenario: Scenario, today: date) -> list[int]:
    """Indices of `known` entries whose last day is before `today` (UTC)."""
    return [n for n, known in enumerate(scenario.known) if known.expires < today]


def refuse_expired(scenario: Scenario, today: date, file: str) -> None:
    """Raise ScenarioError for the first expired `known`, before a run starts."""
    for n in expired(scenario, today):
        known = scenario.known[n]
        raise ScenarioError(
            file, f"known[{n}].expires", f"{known.violation} was accepted until {known.expires} only",
            "fix the cause and remove the entry, or look again and set a later date",
        )  # fmt: skip


def to_plain(scenario: Scenario) -> dict[str, Any]:
    """The resolved scenario as plain data that `build` reads back; defaults written out, but for keys
    that came later: a scenario without them stays what it was, hash and all."""
    tree: dict[str, Any] = msgspec.to_builtins(scenario)
    for step in tree["faults"]:
        step.update(step.pop("params"))
        _leave_out(step, LATER_IN_STEP)
    for phase in tree["load"]["phases"]:
        _leave_out(phase, LATER_IN_PHASE)
    _leave_out(tree["load"], LATER_IN_LOAD)
    _leave_out(tree["generator"], LATER_IN_GENERATOR)
    for user in tree["load"]["users"]:
        _leave_out(user, LATER_IN_USER)
    return tree


def _leave_out(tree: dict[str, Any], later: dict[str, Any]) -> None:
    for key, default in later.items():
        if tree[key] == default:
            del tree[key]


def to_yaml(scenario: Scenario) -> str:
    """The resolved scenario as YAML."""
    return yaml.safe_dump(to_plain(scenario), sort_keys=False, width=110)


def _canonical(value: Any) -> Any:
    """Equal scenarios are equal text: 15 and 15.0 are one number."""
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sha256(value: Any) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_sha256(scenario: Scenario) -> str:
    """Hash of the resolved scenario without sut, seed and name: equal = comparable."""
    tree = to_plain(scenario) | {"load": _load_by_content(scenario)}
    for key in ("sut", "seed", "name"):
        del tree[key]
    return _sha256(tree)


def trace_sha256(scenario: Scenario) -> str:
    """Hash of load, seed and generator version: equal = the same requests were to be sent."""
    return _sha256([_load_by_content(scenario), scenario.seed, GENERATOR_VERSION])


def _load_by_content(scenario: Scenario) -> Any:
    """The load as plain data; a trace is what is in the file, wherever it is."""
    load = to_plain(scenario)["load"]
    if load.get("arrivals") and load["arrivals"]["sha256"]:
        del load["arrivals"]["file"]
    return load
