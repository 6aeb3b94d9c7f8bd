"""The CI templates: they parse, call what exists, and the shell example maps every exit code as it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "docs" / "ci"
NIGHTLY = CI / "nightly.sh"


def commands(name: str) -> list[str]:
    """Lines of shell in a template."""
    tree: dict[Any, Any] = yaml.safe_load((CI / name).read_text())
    if name.startswith("gitlab"):
        return [line for job in tree.values() for line in job["script"]]
    return [step["run"] for job in tree["jobs"].values() for step in job["steps"] if "run" in step]


def faults(line: str) -> list[str]:
    """What a line calls that isn't there."""
    words = shlex.split(line)
    if words[0] == "make":
        rules = (ROOT / "Makefile").read_text()
        patterns = [re.escape(one).replace("%", ".+") for one in re.findall(r"^(\S+):", rules, re.MULTILINE)]
        return [word for word in words[1:] if not any(re.fullmatch(one, word) for one in patterns)]
    return [] if (ROOT / words[0]).is_file() and os.access(ROOT / words[0], os.X_OK) else [words[0]]


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_templates_call_what_exists(name: str) -> None:
    lines = commands(name)
    assert len(lines) >= 2 and any("nightly.sh" in line for line in lines)
    assert [fault for line in lines for fault in faults(line)] == []


@pytest.mark.parametrize("line", ["make .venv/.nothing", "docs/ci/absent.sh a b"])
def test_what_does_not_exist_would_be_seen(line: str) -> None:
    assert faults(line)


def test_locked_versions_are_those_that_there_are() -> None:
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        for version in re.findall(r"dynamo-([\d.]+)/", (CI / name).read_text()):
            assert (ROOT / "configs" / "sut" / f"{version}.lock").exists()


def test_artefacts_are_what_an_experiment_leaves() -> None:
    left = {"night/experiment.json", "night/verdict.json", "night/report", "night/report/junit.xml", "night"}
    tree = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["squall-nightly"]["artifacts"]
    assert {*tree["paths"], tree["reports"]["junit"]} <= left
    steps = yaml.safe_load((CI / "github-actions.yml").read_text())["jobs"]["nightly"]["steps"]
    kept = {
        path
        for step in steps
        for path in str(step.get("with", {}).get("path", "")).split()
        if path != "archive"
    }
    assert kept and kept <= left


def test_the_page_names_the_commands_that_there_are() -> None:
    known = cli.parser().format_help()
    said = set(re.findall(r"\bsquall ([a-z]+)", (ROOT / "docs" / "nightly.md").read_text()))
    assert {"ab", "compare", "baseline", "history", "run"} == said
    assert all(re.search(rf"^    {one} ", known, re.MULTILINE) for one in said)


def night(tmp_path: Path, code: int, *argv: str, **env: str) -> tuple[int, str, list[str]]:
    """The shell example with a squall that only notes its arguments: exit code, output, arguments."""
    stub, noted = tmp_path / "squall", tmp_path / "argv"
    stub.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {noted}\nmkdir -p night/report\necho "## verdict" > night/report/report.md\nexit {code}\n'
    )
    stub.chmod(0o755)
    done = subprocess.run(
        [str(NIGHTLY), *argv], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "SQUALL": str(stub), **env},
    )  # fmt: skip
    return (
        done.returncode,
        done.stdout + done.stderr,
        noted.read_text().split("\n")[:-1] if noted.exists() else [],
    )


@pytest.mark.parametrize(
    ("code", "wanted"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 5), (130, 130), (77, 77)]
)
def test_an_undecided_night_is_the_only_one_that_is_let_pass(code: int, wanted: int, tmp_path: Path) -> None:
    ended, said, argv = night(tmp_path, code, "1.4.2", "1.6.1")
    assert ended == wanted and said.startswith("night: ")
    assert argv == [
        "ab",
        "configs/scenarios/nightly.yaml",
        "--a",
        "1.4.2",
        "--b",
        "1.6.1",
        "--pairs",
        "auto",
        "--out",
        "night",
    ]
    parsed = cli.parser().parse_args(argv)
    assert (parsed.command, parsed.a, parsed.b) == ("ab", "1.4.2", "1.6.1")


def test_options_reach_squall(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    _, _, argv = night(
        tmp_path, 1, "--strict", "1.4.2", "b.yaml", "night", ARCHIVE="a/b.parquet", PAIRS="5", SCENARIO="x.yaml",
        GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    parsed = cli.parser().parse_args(argv)
    assert parsed.strict and parsed.pairs == "5" and parsed.archive == Path("a/b.parquet")
    assert parsed.scenario == Path("x.yaml") and summary.read_text() == "## verdict\n"


@pytest.mark.parametrize("argv", [[], ["1.4.2"], ["a", "b", "c", "d"]])
def test_wrong_usage_of_the_example_runs_nothing(argv: list[str], tmp_path: Path) -> None:
    ended, said, noted = night(tmp_path, 0, *argv)
    assert ended == 2 and "usage" in said and noted == []
