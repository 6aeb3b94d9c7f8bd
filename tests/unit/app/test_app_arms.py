"""What --a and --b may name, and what they make of the scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import arms
from harness.core import config
from harness.core.errors import UsageError
from harness.core.rundir import project_root
from harness.sut import outside

QUICKSTART = project_root() / "configs" / "scenarios" / "quickstart.yaml"


@pytest.fixture
def scenario() -> config.Scenario:
    return config.load_scenario(QUICKSTART, ["sut.workers=3", "sut.env={X: y}"])


def resolve(text: str, scenario: config.Scenario, runs: Path = Path("absent")) -> config.Sut:
    return arms.resolve(text, scenario, "quickstart.yaml", runs)[1].sut


def test_a_version_changes_the_version_only(scenario: config.Scenario) -> None:
    sut = resolve("1.4.2", scenario)
    assert (sut.dynamo, sut.workers, sut.env) == ("1.4.2", 3, {"X": "y"})


def test_both_arms_have_one_config_hash(scenario: config.Scenario) -> None:
    one, other = (arms.resolve(v, scenario, "q", Path("absent"))[1] for v in ("1.4.2", "1.6.1"))
    assert config.config_sha256(one) == config.config_sha256(other)
    assert config.trace_sha256(one) == config.trace_sha256(other)
    assert config.trace_sha256(arms.with_seed(one, 5)) != config.trace_sha256(one)


@pytest.mark.parametrize("around", [True, False])
def test_a_file_is_merged_over_sut(around: bool, scenario: config.Scenario, tmp_path: Path) -> None:
    body = "frontend_args: [--router-mode, kv]\nenv: {Z: w}\nengine_options: {ttft_ms: 70}\n"
    file = tmp_path / "kv.yaml"
    file.write_text("sut:\n" + "".join(f"  {line}\n" for line in body.splitlines()) if around else body)
    arm, built = arms.resolve(str(file), scenario, "q", Path("absent"))
    assert arm.label == "kv.yaml"
    assert built.sut.frontend_args == ["--router-mode", "kv"]
    assert built.sut.env == {"X": "y", "Z": "w"} and built.sut.workers == 3
    assert (built.sut.engine_options.ttft_ms, built.sut.engine_options.itl_ms) == (70, 20)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("workerz: 3", ["sut.workerz", "`workers`"]),
        ("workers: many", ["sut.workers", "many"]),
        ("[1, 2]", ["mapping"]),
        ("sut: 3", ["sut", "mapping"]),
        ("url: 'http://127.0.0.1:1'", ["sut.model"]),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    text: str, pieces: list[str], scenario: config.Scenario, tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        resolve(str(file), scenario)
    assert all(piece in str(refused.value) for piece in ["bad.yaml", *pieces]), refused.value


@pytest.mark.parametrize("text", ["9.9.9", "absent.yaml", "kv", ""])
def test_what_is_no_system_is_refused(text: str, scenario: config.Scenario) -> None:
    with pytest.raises(UsageError):
        resolve(text, scenario)


def test_a_url_is_an_outside_system(scenario: config.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "only_model", lambda _: "m")
    plain = config.load_scenario(QUICKSTART, ["faults=[]"])
    sut = resolve("http://127.0.0.1:9", plain)
    assert (sut.url, sut.model, sut.dynamo, sut.oracle) == ("http://127.0.0.1:9", "m", None, "count")


def test_a_url_replaces_the_url_of_an_outside_scenario() -> None:
    scenario = config.load_scenario(
        QUICKSTART,
        ["faults=[]", 'sut={url: "http://127.0.0.1:1", model: m, oracle: count, headers_env: {A: B}}'],
    )
    sut = resolve("http://127.0.0.1:2", scenario)
    assert (sut.url, sut.model, sut.headers_env) == ("http://127.0.0.1:2", "m", {"A": "B"})
    sut = resolve("1.6.1", scenario)
    assert (sut.url, sut.dynamo) == (None, "1.6.1")
