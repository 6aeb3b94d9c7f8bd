"""Scenarios: what is right loads with the documented defaults; what is wrong is refused by name and remedy."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.core import config, strict
from harness.core.errors import Exit, ScenarioError, UsageError
from harness.core.lengths import Distribution

ROOT = Path(__file__).resolve().parents[3]

FULL = """
schema: 1
name: full
seed: 3
sut: {dynamo: "1.6.1", engine: witness, workers: 2, frontends: 1, migration_limit: 3, frontend_args: [], worker_args: [],
      env: {A: b}, engine_options: {ttft_ms: 50, itl_ms: 20, misbehave: [{kind: repeat, one_in: 10000}]}}
load:
  duration_s: 60
  warmup_s: 5
  drain_s: 15
  timeout_s: 30
  users:
    - {class: ChatUser, count: 20, prompt_tokens: {uniform: [50, 200]}, output_tokens: 150, think_s: 0}
    - {class: CancellingUser, count: 4, prompt_tokens: 50, output_tokens: 150, cancel: {after_tokens: 20, mode: rst}}
slo: {ttft_ms: 500, itl_ms: 100}
overload_codes: [503, 529]
recover_timeout_s: 15
generator: {engine: auto, send_lag_p99_ms: 20, hub_lag_p99_ms: 50, coalesced_max_ratio: 0.01}
faults:
  - {id: kill, fault: process.kill, select: {role: worker, count: 1}, at_s: 15, restart_after_s: 2}
  - {id: pause, fault: process.pause, select: {role: worker, index: [1, 2]}, at_s: 35, hold_s: 8, every_s: 20, jitter_s: 1}
gates: [{metric: ttft_p99_ms, window: steady, max: 500}]
known: [{violation: usage_prompt_mismatch, window: all, max_count: 100, reason: "why", expires: 2027-01-31}]
compare: {looks: [3, 5], margins: {ttft_p50_ms: 0.05}}
"""
LEAST = """
schema: 1
name: least
sut: {dynamo: "1.6.1"}
load: {duration_s: 10, users: [{class: ChatUser, count: 1}]}
"""


PARSED = {text: strict.parse_yaml(text, "f.yaml") for text in (FULL, LEAST)}


def tree(text: str = FULL) -> dict[str, Any]:
    return copy.deepcopy(PARSED[text])


def build(text: str = FULL, **overrides: str) -> config.Scenario:
    plain = tree(text)
    for path, value in overrides.items():
        strict.override(plain, f"{path.replace('__', '.')}={value}")
    return config.build(plain, "f.yaml")


def refused(*items: str, text: str = FULL) -> ScenarioError:
    plain = tree(text)
    for item in items:
        strict.override(plain, item)
    with pytest.raises(ScenarioError) as caught:
        config.build(plain, "f.yaml")
    assert caught.value.exit_code == Exit.USAGE
    assert str(caught.value).startswith("f.yaml: ")
    return caught.value


def test_every_documented_key_is_read() -> None:
    s = build()
    assert (s.name, s.seed, s.sut.dynamo, s.sut.env) == ("full", 3, "1.6.1", {"A": "b"})
    assert s.load.users[0].prompt_tokens == Distribution((50, 200))
    assert s.load.users[1].cancel == config.Cancel(after_tokens=20, mode="rst")
    assert (s.faults[0].params, s.faults[1].params) == ({"restart_after_s": 2}, {})
    assert s.faults[1].select.index == [1, 2]
    assert s.known[0].expires == date(2027, 1, 31)


def test_defaults_are_those_of_the_contract() -> None:
    s = build(LEAST)
    assert (s.seed, s.overload_codes, s.recover_timeout_s) == (1, [503, 529], 15)
    assert (s.load.warmup_s, s.load.drain_s, s.load.timeout_s) == (5, 15, 30)
    assert (s.slo.ttft_ms, s.slo.itl_ms) == (500, 100)
    assert s.generator == config.Generator("auto", 20, 50, 0.01, 0.9, 1)
    assert (s.sut.workers, s.sut.frontends, s.sut.migration_limit, s.sut.engine, s.sut.platform) == (
        2,
        1,
        3,
        "witness",
        "local",
    )
    assert (s.sut.engine_options.ttft_ms, s.sut.engine_options.itl_ms) == (50, 20)
    assert s.faults == s.gates == s.known == []


@pytest.mark.parametrize(
    ("item", "path", "text"),
    [
        ("sut.workrs=3", "sut.workrs", "did you mean `workers`?"),
        ("load.duration=60", "load.duration", "did you mean `duration_s`?"),
        ("load.duration_ms=60000", "load.duration_ms", "did you mean `duration_s`? (the unit is part of the name)"),
        ("slo.ttft_s=1", "slo.ttft_s", "did you mean `ttft_ms`?"),
        ("load.users.0.outputtokens=5", "load.users[0].outputtokens", "did you mean `output_tokens`?"),
        ("xyzzy=1", "xyzzy", "known here: compare, faults"),
        ("sut.dynamo=1.6", "sut.dynamo", 'quote it: "1.6"'),
        ("load.duration_s=60s", "load.duration_s", "write a plain number; the unit is in the key's name"),
        ("load.duration_s=0", "load.duration_s", "must be above 0, got 0"),
        ("load.duration_s=.inf", "load.duration_s", "no finite number"),
        ("load.duration_s=.nan", "load.duration_s", "no finite number"),
        ("load.timeout_s=-1", "load.timeout_s", "must be above 0"),
        ("load.warmup_s=-1", "load.warmup_s", "0 or more"),
        ("load.users=[]", "load.users", "is empty"),
        ("load.users.0.count=0", "load.users[0].count", "1 or more"),
        ("load.users.0.count=1.5", "load.users[0].count", "Expected `int`"),
        ("load.users.0.count=true", "load.users[0].count", "Expected `int`"),
        ("load.users.0.class=HttpUser", "load.users[0].class", "Invalid enum value"),
        ("load.users.0.prompt_tokens={uniform: [200, 50]}", "load.users[0].prompt_tokens", "200..50 is no range"),
        ("load.users.0.prompt_tokens={uniform: [1]}", "load.users[0].prompt_tokens.uniform", "length 2"),
        ("load.users.0.output_tokens=0", "load.users[0].output_tokens", "no range"),
        ("load.users.0.output_tokens=8094", "load.users[0].output_tokens", "8093"),
        ("load.users.0.cancel={after_tokens: 1}", "load.users[0].cancel", "does not fit ChatUser"),
        ("load.users.1.cancel=null", "load.users[1].cancel", "is missing for CancellingUser"),
        ("load.users.1.cancel.mode=hard", "load.users[1].cancel.mode", "Invalid enum value 'hard'"),
        ("load.users.1.cancel.after_tokens=-1", "load.users[1].cancel.after_tokens", "0 = during prefill"),
        ("load.users.1.stream=false", "load.users[1].cancel.after_tokens", "write 0 and after_ms"),
        ("load.users.0.reasoning_tokens=-1", "load.users[0].reasoning_tokens", "0 or more"),
        ("load.users.0.reasoning_tokens=150", "load.users[0].reasoning_tokens", "fewer than output_tokens"),
        ("load.users.0.reasoning_tokens=9", "load.users[0].reasoning_tokens", "reasoning_parser: qwen3"),
        ("load.users.0.tool_call=true", "load.users[0].tool_call", "tool_call_parser: hermes"),
        ("load.users.0={class: CompletionUser, count: 1, tool_call: true}", "load.users[0].tool_call", "ResponsesUser"),
        ("load.users.0={class: ResponsesUser, count: 1, chunk_usage: true}", "load.users[0].chunk_usage", "chat and"),
        ("sut.engine_options.tokens_per_chunk=0", "sut.engine_options.tokens_per_chunk", "1 to 64"),
        ("schema=2", "schema", "Invalid enum value 2"),
        ("seed=one", "seed", "Expected `int`"),
        ("name=a/b", "name", "can't name a directory"),
        ("name=''", "name", "can't name a directory"),
        ("sut.url=http://x", "sut", "exactly one of `dynamo` and `url`"),
        ("sut.workers=0", "sut.workers", "1 or more"),
        ("sut.http_port=70000", "sut.http_port", "any free port"),
        ("sut.migration_limit=-1", "sut.migration_limit", "0 = never"),
        ("sut.migration_max_seq_len=0", "sut.migration_max_seq_len", "1 or more"),
        ("sut.prefill_workers=-1", "sut.prefill_workers", "got -1"),
        ("sut.prefill_workers=1", "sut.prefill_workers", "engine: mocker"),
        ("load.duration_s=1.0e+300", "load.duration_s", "above 10000000"),
        ("load.users.0.count=010", "load.users[0].count", "write a plain decimal number"),
        ("load.duration_s=1:30", "load.duration_s", "write a plain decimal number"),
        ("load.duration_s=1e3", "load.duration_s", "write a plain decimal number"),
        ("sut.env={A: 1}", "sut.env[...]", 'Expected `str`'),
        ("sut.metrics=[localhost]", "sut.metrics", "no URL"),
        ("sut.metrics=['http://h:99999/']", "sut.metrics", "no URL"),
        ("sut.metrics=['http://[::1/']", "sut.metrics", "no URL"),
        ("sut.metrics=['http://h/a b']", "sut.metrics", "no URL"),
        ("sut.metrics=['http://user:secret@h/']", "sut.metrics", "sut.headers_env"),
        ("load.users.1.cancel.stall_s=0", "load.users[1].cancel.stall_s", "must be above 0"),
        ("load.users.1.cancel.mode=timeout", "load.users[1].cancel.after_tokens", "set after_ms instead"),
        ("load.users.1.cancel={storm_every_s: 0}", "load.users[1].cancel.storm_every_s", "must be above 0"),
        ("load.users.1.cancel.storm_every_s=5", "load.users[1].cancel.after_tokens", "remove one"),
        ("load.users.1.cancel={storm_every_s: 5, mode: timeout}", "load.users[1].cancel.mode", "use fin, rst"),
        ("load.users.1.cancel.after_tokens=151", "load.users[1].cancel.after_tokens", "never comes"),
        ("sut.env={A: 1}", "sut.env[...]", "quote each value"),
        ("sut.env={A=B: x}", "sut.env.A=B", "no environment variable"),
        ('sut.env={A: "\\0"}', "sut.env.A", "no environment variable"),
        ('sut.frontend_args=["\\0"]', "sut.frontend_args", "holds a NUL"),
        ('faults.0.id="a\\nb"', "faults[0].id", "can't stand in a line"),
        ("load.users.0.count=99999999999999999999", "load.users[0].count", "above 100000"),
        ("load.users.0.prompt_tokens=10000000", "load.users[0].prompt_tokens", "above 1000000"),
        ("load.users.0.class=chatuser", "load.users[0].class", "did you mean `ChatUser`?"),
        ("sut.engine=witnes", "sut.engine", "did you mean `witness`?"),
        ("sut.engine_options.misbehave.0.kind=lie", "sut.engine_options.misbehave[0].kind", "Invalid enum value"),
        ("sut.engine_options.misbehave.0.at_token=4", "sut.engine_options.misbehave[0]", "exactly one of"),
        ("sut.engine_options.misbehave.0.one_in=0", "sut.engine_options.misbehave[0].one_in", "1 or more"),
        ("sut.engine_options.itl_ms=-1", "sut.engine_options.itl_ms", "0 or more"),
        ("slo.ttft_ms=0", "slo.ttft_ms", "above 0"),
        ("overload_codes=[200]", "overload_codes[0]", "no HTTP error"),
        ("recover_timeout_s=0", "recover_timeout_s", "above 0"),
        ("generator.engine=c", "generator.engine", "Invalid enum value"),
        ("generator.processes=-1", "generator.processes", "0 for one on each core"),
        ("generator.processes=257", "generator.processes", "1 to 256"),
        ("generator.processes=25", "generator.processes", "25 for 24 users: some would have none"),
        ("generator.processes=auto", "generator.processes", "Expected `int`"),
        ("faults={}", "faults", "must be a list"),
        ("faults=[kill]", "faults[0]", "must be a mapping"),
        ("faults.0.id=pause", "faults[1].id", "used twice"),
        ("faults.0.id=''", "faults[0].id", "empty"),
        ("faults.0.at_s=61", "faults[0].at_s", "outside the run of 60"),
        ("faults.0.at_s=-1", "faults[0].at_s", "outside the run"),
        ("faults.0.hold_s=0", "faults[0].hold_s", "above 0"),
        ("faults.0.every_s=0", "faults[0].every_s", "above 0"),
        ("faults.0.jitter_s=-1", "faults[0].jitter_s", "0 or more"),
        ("faults.0.hold_s=.inf", "faults[0].hold_s", "no finite number"),
        ("faults.0.own=!!set {a}", "faults[0].own", "no text, number, list or mapping"),
        ("faults.0.select.count=0", "faults[0].select.count", "selects nothing"),
        ("faults.0.select.index=[]", "faults[0].select.index", "selects nothing"),
        ("faults.0.select.index=[0]", "faults[0].select.index", "numbered from 1"),
        ("faults.0.select.roles=x", "faults[0].select.roles", "did you mean `role`?"),
        ("gates.0.min=3", "gates[0]", "exactly one of max and min"),
        ("gates.0.maximum=3", "gates[0].maximum", "did you mean `max`?"),
        ("known.0.violation=lost_token", "known[0].violation", "did you mean `lost_tokens`?"),
        ("known.0.expires=soon", "known[0].expires", "encoded date"),
        ("known.0.max_count=0", "known[0].max_count", "remove the entry"),
        ("compare.margins={a: x}", "compare.margins[...]", "Expected `float`"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_path_and_remedy(item: str, path: str, text: str) -> None:
    error = refused(item)
    assert error.path == path
    assert text in str(error)


@pytest.mark.parametrize(
    "key", ["schema", "name", "sut", "load", "load.duration_s", "load.users", "faults.at_s", "known.reason"]
)
def test_missing_keys_are_named(key: str) -> None:
    plain: Any = tree()
    node, parts = plain, key.split(".")
    for part in parts[:-1]:
        node = node[part][0] if isinstance(node[part], list) else node[part]
    del node[parts[-1]]
    with pytest.raises(ScenarioError, match="is missing") as caught:
        config.build(plain, "f.yaml")
    assert caught.value.path.endswith(parts[-1])


def test_overrides_and_seed_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(FULL)
    s = config.load_scenario(
        path, ["sut.migration_limit=0", "load.users.0.count=7", "sut.env.NEW='1'"], seed=9
    )
    assert (s.sut.migration_limit, s.load.users[0].count, s.sut.env["NEW"], s.seed) == (0, 7, "1", 9)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("sut.workers", "write a dotted path"),
        ("=3", "write a dotted path"),
        ("name.x=1", "it has no 'x'"),
        ("load.users.9.count=1", "positions 0 to 1"),
        ("load.users.x.count=1", "positions 0 to 1"),
        ("load.users.².count=1", "positions 0 to 1"),
        ("sut.frontend_args.0=1", "no entries"),
        ("sut.env={", "no YAML value"),
        ("sut.env=!!int ''", "no YAML value"),
    ],
)
def test_wrong_overrides_are_usage_errors(tmp_path: Path, item: str, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(FULL)
    with pytest.raises(UsageError) as caught:
        config.load_scenario(path, [item])
    assert text in str(caught.value)
    assert item in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "absent.yaml", binary):
        with pytest.raises(UsageError) as caught:
            config.load_scenario(path)
        assert str(path) in str(caught.value)


def test_an_expired_known_is_refused_before_a_run_and_counted_after_it() -> None:
    s = build()
    config.refuse_expired(s, date(2027, 1, 31), "f.yaml")  # its last day
    assert config.expired(s, date(2027, 1, 31)) == []
    assert config.expired(s, date(2027, 2, 1)) == [0]
    with pytest.raises(
        ScenarioError, match=r"known\[0\].expires: usage_prompt_mismatch was accepted until 2027-01-31"
    ):
        config.refuse_expired(s, date(2027, 2, 1), "f.yaml")


def test_resolved_scenario_reads_back_as_itself() -> None:
    for text in (FULL, LEAST):
        s = build(text)
        assert config.build(strict.parse_yaml(config.to_yaml(s), "again"), "again") == s


def test_hashes_change_with_what_they_are_of() -> None:
    s = build()
    same = [build(name="other"), build(seed="8"), build(sut__workers="5")]
    other = [
        build(slo__itl_ms="50"),
        build(load__duration_s="61"),
        build(faults__0__at_s="16"),
        build(known="[]"),
    ]
    assert {config.config_sha256(x) for x in same} == {config.config_sha256(s)}
    assert len({config.config_sha256(x) for x in [s, *other]}) == 5
    assert config.trace_sha256(build(name="o", sut__workers="5", slo__itl_ms="50")) == config.trace_sha256(s)
    assert len({config.trace_sha256(x) for x in (s, build(seed="8"), build(load__users__0__count="3"))}) == 3
    spread = build(generator__processes="2")
    assert (
        config.config_sha256(spread)
        != config.config_sha256(s)
        == config.config_sha256(build(generator__processes="1"))
    )
    assert config.trace_sha256(spread) == config.trace_sha256(s), "the same requests, from wherever"
    assert config.build(strict.parse_yaml(config.to_yaml(spread), "f"), "f") == spread
    explicit = build(LEAST, recover_timeout_s="15.0")
    assert config.config_sha256(explicit) == config.config_sha256(build(LEAST))  # a default written out


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "scenarios").glob("*.yaml")), ids=lambda p: p.name
)
def test_shipped_scenarios_load(path: Path) -> None:
    assert config.load_scenario(path).name == path.stem


def test_a_misspelt_key_anywhere_is_refused() -> None:
    """Every mapping of the scenario but free ones (env, margins, a fault's own fields) is strict."""

    def places(node: Any, path: str = "") -> list[str]:
        if isinstance(node, dict):
            inner = [p for key, value in node.items() for p in places(value, f"{path}{key}.")]
            return [path, *inner]
        if isinstance(node, list):
            return [p for n, value in enumerate(node) for p in places(value, f"{path}{n}.")]
        return []

    free = {"sut.env.", "compare.margins.", "faults.0.", "faults.1."}
    for place in places(tree()):
        if place not in free:
            assert "zzz" in refused(f"{place}zzz=1").path


@pytest.mark.parametrize("odd", ["a\x85b", "\u2028", "\ufeffx", "näher", "日本"])
def test_odd_characters_survive_the_resolved_file(odd: str) -> None:
    s = build(sut__env=f'{{"ODD": {json.dumps(odd)}}}')
    assert s.sut.env["ODD"] == odd
    assert config.build(strict.parse_yaml(config.to_yaml(s), "again"), "again") == s


def scenario_or_error(text: str) -> None:
    try:
        s = config.build(strict.parse_yaml(text, "f.yaml"), "f.yaml")
    except UsageError as error:
        assert str(error).startswith("f.yaml: ")
        return
    assert config.build(strict.parse_yaml(config.to_yaml(s), "g"), "g") == s
    config.config_sha256(s)


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("a: !!int ''")
@example("a: !!bool x")
@example("a: !!timestamp x")
@example("a: !!map [b]")
@example("a: &x {b: *x}")
@example("[" * 3000)
@example("? [a]\n: b")
@example("a: " + "9" * 5000)
@example("\x00")
@example("1: 2")
def test_any_text_is_a_scenario_or_an_error_that_names_the_file(text: str) -> None:
    scenario_or_error(text)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates(), st.datetimes(),
    st.sampled_from(["1.6.1", "60s", "ChatUser", "process.kill", 10**400, b"x", {1}, (1,)]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
)


def paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [here, *(p for key, value in children for p in paths(value, (*here, key)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(paths(yaml.safe_load(FULL))[1:]), VALUES)
def test_any_value_anywhere_is_a_scenario_or_an_error_that_names_the_file(
    path: tuple[Any, ...], value: Any
) -> None:
    plain: Any = tree()
    node = plain
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    try:
        s = config.build(plain, "f.yaml")
    except ScenarioError as error:
        assert str(error).startswith("f.yaml: ")
        assert error.path
        return
    json.dumps(config.to_plain(s))
    again = config.build(strict.parse_yaml(config.to_yaml(s), "g"), "g")
    assert msgspec.to_builtins(again) == msgspec.to_builtins(s)
    assert config.config_sha256(again) == config.config_sha256(s)
