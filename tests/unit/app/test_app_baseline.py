"""A baseline is accepted by somebody, for a reason, and every acceptance stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_session import make_session

from harness import arms, baseline, cli, stages
from harness.core import config
from harness.core.errors import UsageError
from harness.core.rundir import project_root


@pytest.fixture
def night(tmp_path: Path) -> Path:
    directory = make_session(tmp_path / "night", 1, requests=30, looks=[3, 5, 7, 10])
    (directory / "verdict.json").write_text('{"status": "pass"}')
    return directory


def test_accepting_is_kept_with_who_and_why(night: Path, tmp_path: Path) -> None:
    runs, said = tmp_path / "runs", []
    assert baseline.accept(runs, night, "ann", "first release", said.append) == 0
    assert baseline.accept(runs, night, "bob", "second one", said.append) == 0
    shown: list[str] = []
    assert baseline.show(runs, "quickstart", shown.append) == 0
    assert len(shown) == 2 and "ann" in shown[0] and "first release" in shown[0] and "bob" in shown[1]
    assert baseline.current(runs, "quickstart").label == "1.6.1"
    lines = (runs / "baselines" / "quickstart.jsonl").read_text().splitlines()
    assert [json.loads(line)["who"] for line in lines] == ["ann", "bob"]


def test_an_arm_may_be_the_accepted_baseline(night: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    scenario = config.load_scenario(project_root() / "configs" / "scenarios" / "quickstart.yaml")
    with pytest.raises(UsageError, match="no baseline was accepted"):
        arms.resolve("baseline", scenario, "q", runs)
    accepted = json.loads((night / "experiment.json").read_text())
    accepted["b"]["sut"] = config.to_plain(scenario)["sut"] | {"workers": 5}
    (night / "experiment.json").write_text(json.dumps(accepted))
    baseline.accept(runs, night, "ann", "more workers", print)
    arm, built = arms.resolve("baseline", scenario, "q", runs)
    assert arm.label == "1.6.1" and built.sut.workers == 5


@pytest.mark.parametrize("status", ["fail", "invalid"])
def test_a_broken_experiment_gives_no_baseline(status: str, night: Path, tmp_path: Path) -> None:
    (night / "verdict.json").write_text(json.dumps({"status": status}))
    with pytest.raises(UsageError, match=status):
        baseline.accept(tmp_path / "runs", night, "ann", "because", print)
    assert not (tmp_path / "runs").exists()


def test_a_reason_is_needed(night: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--why"):
        baseline.accept(tmp_path / "runs", night, "ann", "  ", print)


def test_a_torn_file_is_named(night: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "baselines" / "quickstart.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"scenario": ')
    with pytest.raises(UsageError, match=r"quickstart\.jsonl"):
        baseline.current(tmp_path / "runs", "quickstart")


def test_the_command(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "runs_dir", lambda: tmp_path / "runs")
    assert cli.main(["baseline", "show"]) == 0 and "no baseline" in capsys.readouterr().out
    assert cli.main(["baseline", "accept", str(night), "--why", "it is good", "--who", "eve"]) == 0
    assert cli.main(["baseline", "show"]) == 0 and "eve: it is good" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["baseline", "accept", str(night)])
