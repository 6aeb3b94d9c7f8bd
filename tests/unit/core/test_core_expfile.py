"""experiment.json comes back as it was written, and a malformed one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core import expfile, rundir
from harness.core.errors import UsageError
from harness.core.expfile import Arm, ExperimentFile, Pair


def made(**changes: object) -> ExperimentFile:
    fields: dict[str, object] = {
        "schema": 1, "experiment_id": "e", "scenario": "s", "config_sha256": "c", "fingerprint_class": "f", "seed": 1,
        "looks": [3, 5], "a": Arm("1", {"dynamo": "1"}), "b": Arm("2", {"dynamo": "2"}),
    }  # fmt: skip
    return ExperimentFile(**(fields | changes))  # type: ignore[arg-type]


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    one = made(pairs=[Pair(1, 7, "AB", "done"), Pair(2, 8, "BA", "dropped", "late")])
    assert not expfile.exists(tmp_path)
    expfile.write(tmp_path, one)
    assert expfile.read(tmp_path) == one and expfile.exists(tmp_path)
    assert not one.same_arms and made(b=Arm("again", {"dynamo": "1"})).same_arms


@pytest.mark.parametrize(
    "spoil", [{"schema": 2}, {"looks": "many"}, {"strange": 1}, {"pairs": [{"pair_id": "one"}]}]
)
def test_a_malformed_one_is_named(spoil: dict[str, object], tmp_path: Path) -> None:
    expfile.write(tmp_path, made())
    path = tmp_path / expfile.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | spoil))
    with pytest.raises(UsageError, match=r"experiment\.json"):
        expfile.read(tmp_path)
    path.write_text("{")
    with pytest.raises(UsageError, match=r"experiment\.json"):
        expfile.read(tmp_path)


def test_runs_inside_an_experiment_are_found(tmp_path: Path) -> None:
    """So that `squall recover` finds one that was killed."""
    night = tmp_path / "night"
    for name in ("pair-01-a", "pair-01-b", "aside"):
        (night / name).mkdir(parents=True)
    (night / "pair-01-a" / "manifest.json").write_text("{}")
    assert rundir.all_runs(tmp_path) == []
    expfile.write(night, made())
    assert [run.path.name for run in rundir.unfinished(tmp_path)] == ["pair-01-a"]
