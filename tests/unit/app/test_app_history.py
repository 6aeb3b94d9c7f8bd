"""The history finds a creep that no night's margin sees, says when, and gates nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness import cli, history, otava, stages
from harness.core import expfile
from harness.core.errors import InvalidRun, ProvisionError, UsageError
from harness.core.expfile import Arm, ExperimentFile
from harness.otava import Point


def nights(place: Path, ratios: Sequence[float], label: str = "1.4.2", scenario: str = "nightly") -> Path:
    """An experiment for each ratio of ttft_p50_ms; itl stays."""
    draw = np.random.default_rng(1)
    for n, ratio in enumerate(ratios):
        directory = place / f"{label}-{n:03d}"
        directory.mkdir(parents=True)
        file = ExperimentFile(
            schema=1, experiment_id=f"e{n:03d}", scenario=scenario, config_sha256="c", fingerprint_class="f", seed=1,
            looks=[3], a=Arm(label, {}), b=Arm(f"build-{n}", {}), started_at=f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}T02:00:00.000Z",
        )  # fmt: skip
        expfile.write(directory, file)
        rows = [
            {"metric": "ttft_p50_ms", "window": "steady", "delta_ratio": ratio - 1},
            {"metric": "itl_p50_ms", "window": "steady", "delta_ratio": float(draw.normal(0, 0.005))},
            {"metric": "shed_ratio", "window": "all", "delta_ratio": None},
        ]
        (directory / "verdict.json").write_text(json.dumps({"status": "pass", "metrics": rows}))
    return place


def creeping(n: int = 40, at: int = 25) -> list[float]:
    draw = np.random.default_rng(2)
    return [float((1.0 if k < at else 1.06) + draw.normal(0, 0.01)) for k in range(n)]


def show(place: Path, out: Path, **more: object) -> list[str]:
    said: list[str] = []
    options: dict[str, object] = {"scenario": None, "against": None, "changes": True} | more
    assert (
        history.history(
            [place], options["scenario"], options["against"], out, options["changes"], said.append
        )
        == 0
    )  # type: ignore[arg-type]
    return said


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Otava says of the creep, without Otava."""

    def points(series: dict[str, Sequence[float]], _: object) -> dict[str, list[Point]]:
        assert set(series) == {"ttft_p50_ms @ steady", "itl_p50_ms @ steady"}
        return {"ttft_p50_ms @ steady": [Point(25, 1e-6, 1.0, 1.06)], "itl_p50_ms @ steady": []}

    monkeypatch.setattr(otava, "change_points", points)


@pytest.mark.usefixtures("found")
def test_a_change_is_named_with_its_night(tmp_path: Path) -> None:
    said = show(nights(tmp_path / "runs", creeping()), tmp_path / "page.html")
    (line,) = [one for one in said if one.startswith("changed")]
    assert "ttft_p50_ms in steady: +6.0% from 2026-01-26 on" in line and "build-25" in line
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 and "1 of 2 series changed" in page and "+6.0%" in page
    assert page.index("ttft_p50_ms") < page.index("itl_p50_ms") and "<script" not in page


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_otava_finds_the_creep_and_nothing_else(tmp_path: Path) -> None:
    try:
        said = show(nights(tmp_path / "runs", creeping()), tmp_path / "page.html")
    except ProvisionError as error:
        pytest.skip(f"Apache Otava can't be installed here: {error}")
    changed = [one for one in said if one.startswith("changed")]
    assert len(changed) == 1 and "ttft_p50_ms" in changed[0] and "2026-01-26" in changed[0]
    level = show(nights(tmp_path / "level", creeping(at=99)), tmp_path / "page2.html")
    assert not any(one.startswith("changed") for one in level)


def test_without_changes_nothing_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otava, "change_points", lambda *_: pytest.fail("asked"))
    said = show(nights(tmp_path / "runs", creeping(5)), tmp_path / "page.html", changes=False)
    assert any("no change found" in one or "5 nights" in one for one in said)
    assert "Nobody looked for changes" in (tmp_path / "page.html").read_text()


def test_an_otava_that_cannot_be_had_names_the_way_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from harness.core import proc, rundir

    monkeypatch.setattr(proc, "run", lambda *_, **__: proc.Finished(1, "", "no network"))
    monkeypatch.setattr(rundir, "project_root", lambda: tmp_path)
    (tmp_path / "configs" / "locks").mkdir(parents=True)
    (tmp_path / "configs" / "locks" / "otava.lock").write_text("x")
    with pytest.raises(ProvisionError, match="--no-changes"):
        otava.change_points({"a": [1.0]}, print)


def test_too_few_nights_are_no_history(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="2 nights"):
        show(nights(tmp_path / "runs", [1.0, 1.0]), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_several_histories_need_a_choice(tmp_path: Path) -> None:
    place = nights(tmp_path / "runs", creeping(5))
    nights(place, creeping(5), label="1.5.0")
    with pytest.raises(UsageError, match="--against"):
        show(place, tmp_path / "page.html")
    show(place, tmp_path / "page.html", against="1.5.0", changes=False)
    assert "against 1.5.0" in (tmp_path / "page.html").read_text()


def test_unfinished_and_invalid_experiments_are_left_out(tmp_path: Path) -> None:
    place = nights(tmp_path / "runs", creeping(6))
    (place / "1.4.2-000" / "verdict.json").unlink()
    (place / "1.4.2-001" / "verdict.json").write_text('{"status": "invalid", "metrics": []}')
    said = show(place, tmp_path / "page.html", changes=False)
    assert any(one.startswith("4 nights") for one in said)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        stages,
        "runs_dir",
        lambda: (
            nights(tmp_path / "runs", creeping(4)) if not (tmp_path / "runs").exists() else tmp_path / "runs"
        ),
    )
    assert cli.main(["history", "--no-changes"]) == 0
    assert "history.html" in capsys.readouterr().out and (tmp_path / "runs" / "history.html").exists()
    assert cli.main(["history", str(tmp_path / "absent")]) == 2
