"""The command line: what it accepts, and that a bug of ours never reads as a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli, stages
from harness.core.errors import NotRestored, ScenarioError


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "run",
        "ab",
        "compare",
        "baseline",
        "history",
        "up",
        "down",
        "plan",
        "recover",
        "report",
        "doctor",
        "faults",
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["run"], ["run", "x.yaml", "--sed", "x"], ["plan", "x", "--seed", "one"]]
)
def test_wrong_usage_is_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScenarioError("f.yaml", "a.b", "is wrong"), 2),
        (NotRestored("left", ["kill 1"]), 5),
        (KeyError("bug"), 4),
    ],
)
def test_errors_end_in_their_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise error

    monkeypatch.setattr(stages, "plan", broken)
    monkeypatch.setattr(stages, "unfinished_notice", list)
    assert cli.main(["plan", "x.yaml"]) == code
    text = capsys.readouterr().err
    assert ("bug in squall" in text) == (code == 4)
    if code == 5:
        assert "kill 1" in text


def test_recover_leaves_a_directory_alone_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recover", str(tmp_path)]) == 2
    assert "holds nothing of a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
