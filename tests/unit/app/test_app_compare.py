"""`squall compare` from the command line, and what an experiment leaves when it is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures.sessions import archive as noise
from make_session import Truth, edit_manifest, make_session

from harness import archives, cli, comparing
from harness.core import expfile
from harness.core.rundir import RunDir
from harness.stats import archive


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_session(tmp_path_factory.mktemp("n") / "night", 5, Truth(ttft=0.2), looks=[5])


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_session(tmp_path_factory.mktemp("e") / "night", 5, same=True, looks=[5])


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["compare", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_table_a_verdict_and_a_file(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, str(night), "--json", str(tmp_path / "v.json"))
    assert code == 1 and "REGRESSION (exit code 1)" in out and "cold start for all metrics" in out
    assert next(line for line in out.splitlines() if line.startswith("ttft_p50_ms  ")).endswith("regression")
    written = json.loads((tmp_path / "v.json").read_text())
    assert (written["status"], written["exit_code"]) == ("regression", 1)


@pytest.mark.slow
def test_runs_one_by_one_say_the_same(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(one) for one in night.glob("pair-*")]
    assert run(capsys, *runs)[1] == run(capsys, str(night))[1]


def test_refused_data_are_one_line_and_exit_4(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = Path(shutil.copytree(night, tmp_path / "night"))
    edit_manifest(spoilt / "pair-03-a", fingerprint_class="other")
    code, out, _ = run(capsys, str(spoilt), "--json", str(tmp_path / "v.json"))
    assert code == 4
    line = next(one for one in out.splitlines() if one.startswith("verdict"))
    assert "INVALID" in line and "fingerprint_class" in line and "night-pair-03-a" in line
    assert json.loads((tmp_path / "v.json").read_text())["status"] == "invalid"


def test_an_absent_path_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path / "absent"))
    assert code == 2 and "absent" in err


def stored(path: Path, **changes: Any) -> Path:
    """An archive of 30 pairs that belongs to the made-up sessions."""
    rows = noise(30, sd=0.02).replace({"window": {"fault": "fault:kill", "recovery": "recovery:kill"}})
    rows = rows.assign(scenario="quickstart", fingerprint_class="c0ffee", experiment_id="earlier", valid=True)
    archive.write(path, rows.assign(**changes))
    return path


def test_an_archive_ends_the_cold_start(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stored(tmp_path / "archive.parquet")
    code, out, _ = run(capsys, str(night), "--archive", str(store))
    assert code == 1 and "cold start for" not in out


@pytest.mark.slow
def test_an_archive_with_the_five_columns_alone_is_enough(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = archive.read(stored(tmp_path / "archive.parquet"))
    bare = tmp_path / "bare.parquet"
    rows[["pair_id", "kind", "metric", "window", "d"]].to_parquet(bare)
    code, out, _ = run(capsys, str(night), "--archive", str(bare))
    assert code == 1 and "cold start for" not in out


def test_a_place_for_the_verdict_that_is_not_there_is_a_usage_error(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, str(night), "--json", str(tmp_path / "absent" / "v.json"))
    assert code == 2 and "absent" in err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("scenario", "other"), ("fingerprint_class", "f00d")])
def test_an_archive_of_something_else_is_refused(
    name: str, value: str, night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stored(tmp_path / "archive.parquet", **{name: value})
    code, out, _ = run(capsys, str(night), "--archive", str(store))
    assert code == 4 and name in out and value in out


@pytest.mark.slow
def test_a_truncated_archive_is_refused_and_an_absent_one_named(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stored(tmp_path / "archive.parquet")
    store.write_bytes(store.read_bytes()[:-100])
    code, out, _ = run(capsys, str(night), "--archive", str(store))
    assert code == 4 and "truncated" in out
    code, _, err = run(capsys, str(night), "--archive", str(tmp_path / "absent.parquet"))
    assert code == 2 and "absent.parquet" in err


def finish(directory: Path, store: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    found, judged = comparing.judge([directory], None)
    code = comparing.finish(
        RunDir(directory), found, judged, expfile.read(directory), store, ["squall", "ab"], said.append
    )
    return code, said


def test_an_experiment_leaves_verdict_and_reports(night: Path, tmp_path: Path) -> None:
    code, said = finish(night, tmp_path / "archive.parquet")
    assert code == 1
    assert json.loads((night / "verdict.json").read_text())["status"] == "regression"
    report = night / "report"
    assert {one.name for one in report.iterdir()} == {"report.html", "report.md", "report.json", "junit.xml"}
    page, comment = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert "1.6.1 against 1.4.2" in page and "<svg" in page
    assert (
        comment.startswith("## ❌ REGRESSION")
        and "ttft_p50_ms" in comment
        and "Faults in both arms" in comment
    )
    junit = (report / "junit.xml").read_text()
    assert 'name="ttft_p50_ms in steady"' in junit and "<failure" in junit and 'name="ledger_closes"' in junit
    assert any(line.startswith("archive") and "residuals" in line for line in said)


@pytest.mark.slow
def test_the_archive_grows_by_aa_pairs_and_by_residuals_once(
    night: Path, equal: Path, tmp_path: Path
) -> None:
    store = tmp_path / "archive.parquet"
    finish(equal, store)
    rows = archive.read(store)
    assert set(rows["kind"]) == {"aa"} and rows["pair_id"].nunique() == 5
    assert set(rows["scenario"]) == {"quickstart"} and set(rows["fingerprint_class"]) == {"c0ffee"}
    finish(equal, store)
    assert archive.read(store).equals(rows)
    other = Path(shutil.copytree(night, tmp_path / "other"))
    for one in other.glob("pair-*"):
        edit_manifest(one, experiment_id="other")
    finish(other, store)
    grown = archive.read(store)
    assert set(grown["kind"]) == {"aa", "residual"} and grown["pair_id"].nunique() > 5


@pytest.mark.slow
def test_an_experiment_is_not_its_own_yardstick(equal: Path, tmp_path: Path) -> None:
    store = tmp_path / "archive.parquet"
    finish(equal, store)
    assert len(archives.without(archive.read(store), "night")) == 0
    before = comparing.judge([equal], None)[1]
    assert comparing.judge([equal], store)[1] == before


@pytest.mark.slow
def test_the_copy_of_the_archive_makes_the_verdict_repeatable(night: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(night, tmp_path / "night"))
    store = stored(tmp_path / "archive.parquet")
    archives.snapshot(store, mine, "quickstart", "c0ffee")
    with_copy = comparing.judge([mine], None)[1]
    store.unlink()
    assert comparing.judge([mine], None)[1] == with_copy
    assert not any("cold start for" in one for one in with_copy["reasons"])
