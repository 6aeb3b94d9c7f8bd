"""The scenario: strict structs for DESIGN section 4, and nothing else may be in the file.

Parsing, overrides, hashing. What a fault's parameters mean is not known here (faults/timeline.py),
nor which metrics exist (stats/metrics.py): they check their part before a run starts.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from harness.core import strict
from harness.core.errors import ScenarioError, UsageError
from harness.core.records import VIOLATIONS

GENERATOR_VERSION = 1  # changes when the same scenario and seed would send other requests


class Uniform(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whole numbers lo..hi, both included, equally likely."""

    uniform: tuple[int, int]


Length = int | Uniform


class Cancel(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Close the connection after so many tokens; 0 = during prefill, after_ms after sending."""

    after_tokens: int = 0
    mode: Literal["fin", "rst"] = "rst"
    after_ms: float = 10


class UserClass(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """So many users of one class; each sends its next request think_s after the last ended."""

    user_class: Literal["ChatUser", "CompletionUser", "CancellingUser"] = msgspec.field(name="class")
    count: int
    prompt_tokens: Length = 50
    output_tokens: Length = 150
    think_s: float = 0
    cancel: Cancel | None = None


class Load(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who sends what, for how long. duration_s excludes warmup_s."""

    duration_s: float
    users: list[UserClass]
    warmup_s: float = 5
    drain_s: float = 15
    timeout_s: float = 30


class Misbehave(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One lie of the witness engine: to about one token (or request) in N, or at token k of each."""

    kind: Literal[
        "drop", "repeat", "swap", "corrupt", "cross", "end_early", "hang", "first_then_silence", "slow",
        "naive_usage", "raise", "die",
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
    misbehave: list[Misbehave] = []


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
    request_plane: Literal["tcp", "nats"] = "tcp"
    workers: int = 2
    frontends: int = 1
    http_port: int = 0  # of the first frontend, the next ones follow; 0 = any free port
    migration_limit: int = 3
    frontend_args: list[str] = []
    worker_args: list[str] = []
    env: dict[str, str] = {}
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


class Select(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which targets: `count` of a role, drawn by the seed, or those with these indices (1, 2, ...)."""

    role: str
    count: int = 1
    index: list[int] | None = None


class Step(msgspec.Struct, frozen=True):
    """A fault at a time. Seconds from the end of warm-up; params are the fault's own fields."""

    id: str
    fault: str
    select: Select
    at_s: float
    hold_s: float | None = None
    every_s: float | None = None
    jitter_s: float = 0
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
    overload_codes: list[int] = msgspec.field(default_factory=lambda: [503, 529])
    recover_timeout_s: float = 15
    generator: Generator = Generator()
    faults: list[Step] = []
    gates: list[Gate] = []
    known: list[Known] = []
    compare: Compare = Compare()


STEP_KEYS = ("id", "fault", "select", "at_s", "hold_s", "every_s", "jitter_s")


def load_scenario(path: Path, overrides: list[str] | None = None, seed: int | None = None) -> Scenario:
    """Read, override, check. Raises UsageError or ScenarioError naming file, path, value, remedy."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; `ls configs/scenarios` shows what there is") from None
    tree = strict.parse_yaml(text, str(path))
    for item in overrides or []:
        strict.override(tree, item)
    if seed is not None:
        tree["seed"] = seed
    return build(tree, str(path))


def build(tree: dict[str, Any], file: str) -> Scenario:
    """A scenario from plain data; `file` names it in errors."""
    tree = dict(tree)
    faults = tree.get("faults")
    if faults is not None:
        if not isinstance(faults, list):
            raise ScenarioError(file, "faults", f"must be a list, got {faults!r}", "write `faults: []`")
        tree["faults"] = [_split_step(step, f"faults[{n}]", file) for n, step in enumerate(faults)]
    scenario = strict.convert(tree, Scenario, file)
    _check(scenario, file)
    return scenario


def _split_step(step: Any, path: str, file: str) -> Any:
    """Move a fault's own parameters into `params`."""
    if not isinstance(step, dict):
        raise ScenarioError(file, path, f"must be a mapping with id, fault, select, at_s, got {step!r}")
    own = {key: value for key, value in step.items() if key in STEP_KEYS}
    return {**own, "params": {key: value for key, value in step.items() if key not in STEP_KEYS}}


def _check(s: Scenario, file: str) -> None:
    def need(ok: bool, path: str, what: str, remedy: str) -> None:
        if not ok:
            raise ScenarioError(file, path, what, remedy)

    need(bool(s.name) and all(c.isalnum() or c in "-_." for c in s.name), "name", f"{s.name!r} can't name "
         "a directory", "use letters, digits, - and _")  # fmt: skip
    need((s.sut.dynamo is None) != (s.sut.url is None), "sut", "needs exactly one of `dynamo` and `url`",
         'write `dynamo: "1.6.1"` to start Dynamo here, or `url: "http://host:port"` for one that runs')  # fmt: skip
    if s.sut.url is not None:
        need(s.sut.model is not None, "sut.model", "is missing", "name the model that requests ask for")
        need(s.sut.url.startswith(("http://", "https://")), "sut.url", f"{s.sut.url!r} is no URL",
             "start it with http:// or https://")  # fmt: skip
    else:
        need(s.sut.workers >= 1, "sut.workers", f"must be 1 or more, got {s.sut.workers}", "set it to 2")
        need(
            s.sut.frontends >= 1, "sut.frontends", f"must be 1 or more, got {s.sut.frontends}", "set it to 1"
        )
        need(s.sut.migration_limit >= 0, "sut.migration_limit", f"got {s.sut.migration_limit}", "0 = never")
        need(0 <= s.sut.http_port < 65536, "sut.http_port", f"got {s.sut.http_port}", "0 = any free port")
    for n, m in enumerate(s.sut.engine_options.misbehave):
        here = f"sut.engine_options.misbehave[{n}]"
        need((m.one_in is None) != (m.at_token is None), here, "needs exactly one of one_in and at_token",
             f"for example {{kind: {m.kind}, one_in: 10000}}")  # fmt: skip
        need(m.one_in is None or m.one_in >= 1, f"{here}.one_in", f"got {m.one_in}", "1 or more")
        need(m.at_token is None or m.at_token >= 0, f"{here}.at_token", f"got {m.at_token}", "0 or more")
    need(s.load.duration_s > 0, "load.duration_s", f"must be above 0, got {s.load.duration_s}", "seconds")
    for field in ("warmup_s", "drain_s"):
        value = getattr(s.load, field)
        need(value >= 0, f"load.{field}", f"must be 0 or more, got {value}", "seconds")
    need(s.load.timeout_s > 0, "load.timeout_s", f"must be above 0, got {s.load.timeout_s}", "seconds")
    need(bool(s.load.users), "load.users", "is empty", "name at least one user class with a count")
    for n, u in enumerate(s.load.users):
        here = f"load.users[{n}]"
        need(u.count >= 1, f"{here}.count", f"must be 1 or more, got {u.count}", "number of users")
        need(u.think_s >= 0, f"{here}.think_s", f"must be 0 or more, got {u.think_s}", "seconds")
        _check_length(u.prompt_tokens, 1, f"{here}.prompt_tokens", file)
        _check_length(u.output_tokens, 1, f"{here}.output_tokens", file)
        need((u.cancel is not None) == (u.user_class == "CancellingUser"), f"{here}.cancel",
             f"{'is missing for' if u.cancel is None else 'does not fit'} {u.user_class}",
             "CancellingUser needs `cancel: {after_tokens: 20, mode: rst}`, the others have none")  # fmt: skip
        if u.cancel is not None:
            need(u.cancel.after_tokens >= 0, f"{here}.cancel.after_tokens", f"got {u.cancel.after_tokens}",
                 "0 = during prefill")  # fmt: skip
    need(
        s.recover_timeout_s > 0, "recover_timeout_s", f"must be above 0, got {s.recover_timeout_s}", "seconds"
    )
    seen: set[str] = set()
    for n, step in enumerate(s.faults):
        here = f"faults[{n}]"
        need(step.id not in seen and bool(step.id), f"{here}.id", f"{step.id!r} is empty or used twice",
             "give each step an id of its own")  # fmt: skip
        seen.add(step.id)
        need(0 <= step.at_s <= s.load.duration_s, f"{here}.at_s", f"{step.at_s} is outside the run of "
             f"{s.load.duration_s} s", "seconds from the end of warm-up, before the load ends")  # fmt: skip
        need(step.hold_s is None or step.hold_s > 0, f"{here}.hold_s", f"got {step.hold_s}", "above 0")
        need(step.every_s is None or step.every_s > 0, f"{here}.every_s", f"got {step.every_s}", "above 0")
        need(step.jitter_s >= 0, f"{here}.jitter_s", f"got {step.jitter_s}", "0 or more")
        need(step.select.count >= 1, f"{here}.select.count", f"{step.select.count} selects nothing",
             "select 1 or more; a fault without a target is an error")  # fmt: skip
        need(step.select.index != [], f"{here}.select.index", "is empty and selects nothing", "name one")
    for n, gate in enumerate(s.gates):
        need((gate.max is None) != (gate.min is None), f"gates[{n}]", "needs exactly one of max and min",
             f"for example {{metric: {gate.metric}, window: {gate.window}, max: 500}}")  # fmt: skip
    for n, known in enumerate(s.known):
        need(known.violation in VIOLATIONS, f"known[{n}].violation", f"{known.violation!r} is no violation",
             strict.nearest(known.violation, VIOLATIONS))  # fmt: skip


def _check_length(length: Length, low: int, path: str, file: str) -> None:
    lo, hi = length.uniform if isinstance(length, Uniform) else (length, length)
    if not low <= lo <= hi:
        raise ScenarioError(file, path, f"{lo}..{hi} is no range of token counts", "lo <= hi, both above 0")
    if "output" in path and hi > 8093:
        raise ScenarioError(file, path, f"{hi} is above 8093, the length of the witness chain", "lower it")


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
    """The resolved scenario as plain data that `build` reads back; defaults written out."""
    tree: dict[str, Any] = msgspec.to_builtins(scenario)
    for step in tree["faults"]:
        step.update(step.pop("params"))
    return tree


def to_yaml(scenario: Scenario) -> str:
    """The resolved scenario as YAML."""
    return yaml.safe_dump(to_plain(scenario), sort_keys=False, allow_unicode=True, width=110)


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_sha256(scenario: Scenario) -> str:
    """Hash of the resolved scenario without sut, seed and name: equal = comparable."""
    tree = to_plain(scenario)
    for key in ("sut", "seed", "name"):
        del tree[key]
    return _sha256(tree)


def trace_sha256(scenario: Scenario) -> str:
    """Hash of load, seed and generator version: equal = the same requests were to be sent."""
    return _sha256([to_plain(scenario)["load"], scenario.seed, GENERATOR_VERSION])
