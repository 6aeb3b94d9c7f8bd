"""`squall ab` on the real Dynamo: a slower engine is named, and kill -9 in the middle costs one pair."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipeline import QUICKSTART, command, left_over, sets, squall

from harness.core import clock, sutfile
from harness.core.rundir import RunDir

pytestmark = [pytest.mark.sut, pytest.mark.load, pytest.mark.timeout(900)]
SHORT = (
    "load.duration_s=18", "load.warmup_s=1", "load.drain_s=6", "load.users.0.count=8", "load.users.1.count=2", "gates=[]",
    "load.users.0.output_tokens=60",
    "faults=[{id: kill, fault: process.kill, select: {role: worker, count: 1}, at_s: 3, restart_after_s: 1}]",
    "generator.send_lag_p99_ms=5000", "generator.hub_lag_p99_ms=5000", "generator.coalesced_max_ratio=1",
)  # fmt: skip


def words(out: Path, slower: Path) -> list[str]:
    argv = ["ab", str(QUICKSTART), "--a", "1.6.1", "--b", str(slower), "--pairs", "3", "--out", str(out)]
    return [*argv, "--archive", str(out.parent / "archive.parquet"), *sets(*SHORT)]


def pairs_done(out: Path) -> int:
    try:
        return len(json.loads((out / "experiment.json").read_text())["pairs"])
    except (OSError, ValueError):
        return 0


@pytest.mark.alone  # what else runs would look like a machine that changes its speed, and drop the pair
def test_a_slower_engine_is_named_although_it_was_killed_after_a_pair(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    out, slower = tmp_path / "night", tmp_path / "slower.yaml"
    slower.write_text("engine_options: {ttft_ms: 200, itl_ms: 40}\n")
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(
            command(*words(out, slower)), stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, start_new_session=True
        )  # fmt: skip
    try:
        second = [out / f"pair-02-{arm}" for arm in "ab"]

        def begun() -> bool:
            return pairs_done(out) == 1 and any((one / "sut.json").exists() for one in second)

        assert clock.wait_until(begun, 300, 0.2) or child.poll() is None, (tmp_path / "output").read_text()
        (run,) = [one for one in second if (one / "manifest.json").exists()]
        run_id = json.loads((run / "manifest.json").read_text())["run_id"]
        killing(run_id)
    finally:
        child.kill()
        child.wait()
    assert clock.wait_until(lambda: left_over(run_id) == [], 30)
    kept = {one: one.read_bytes() for one in sorted(out.glob("pair-01-*/*.json"))}

    done = squall(*words(out, slower), out=out, timeout_s=600)
    said = done.out + done.err
    assert done.code == 1, said
    assert "going on after pair 1" in done.err
    assert {one: one.read_bytes() for one in kept} == kept
    assert pairs_done(out) == 3
    assert [one.name[:7] for one in (out / "aside").iterdir()] == ["pair-02"]
    verdict = done.json("verdict.json")
    assert verdict["status"] == "regression", said
    assert {row["metric"] for row in verdict["metrics"] if row["status"] == "regression"} & {
        "ttft_p50_ms",
        "itl_p50_ms",
    }
    assert {one.name for one in (out / "report").iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "junit.xml",
    }
    for run in out.glob("pair-*"):
        name = json.loads((run / "manifest.json").read_text())["run_id"]
        assert left_over(name) == [] and (run / "restored").exists()

    again = squall("compare", str(out), "--json", str(tmp_path / "again.json"), out=out)
    assert again.code == 1 and (tmp_path / "again.json").read_bytes() == (out / "verdict.json").read_bytes()


def test_an_interrupt_leaves_a_clean_host_and_whole_pairs(
    tmp_path: Path, killing: Callable[[str], None]
) -> None:
    import signal

    out, slower = tmp_path / "night", tmp_path / "same.yaml"
    slower.write_text("engine_options: {ttft_ms: 50}\n")
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(
            command(*words(out, slower)), stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, start_new_session=True
        )  # fmt: skip
    text = tmp_path / "output"
    try:
        first = [out / f"pair-01-{arm}" for arm in "ab"]
        assert clock.wait_until(lambda: any((one / "records-0.jsonl").exists() for one in first), 90), (
            text.read_text()
        )
        (run,) = [one for one in first if (one / "manifest.json").exists()]
        run_id = json.loads((run / "manifest.json").read_text())["run_id"]
        killing(run_id)
        child.send_signal(signal.SIGINT)
        assert child.wait(90) == 130, text.read_text()
    finally:
        child.kill()
        child.wait()
    assert left_over(run_id) == []
    assert pairs_done(out) == 0 and list(out.glob("pair-*")) == []
    assert [one.name[:7] for one in (out / "aside").iterdir()] == ["pair-01"]
    assert "go on with the same command" in text.read_text()


@pytest.fixture
def two_systems(tmp_path: Path) -> Iterator[list[str]]:
    """URLs of two systems that go on between the runs, the second one slower."""
    places = [tmp_path / "first", tmp_path / "second"]
    urls = []
    try:
        for place, options in zip(
            places, ("{ttft_ms: 50, itl_ms: 10}", "{ttft_ms: 200, itl_ms: 40}"), strict=True
        ):
            more = sets("faults=[]", "gates=[]", f"sut.engine_options={options}")
            done = squall("up", str(QUICKSTART), "--out", str(place), *more, out=place)
            assert done.code == 0, done.out + done.err
            urls += sutfile.load(RunDir(place)).urls
        yield urls
    finally:
        for place in places:
            assert squall("down", str(place), out=place).code == 0


@pytest.mark.alone
def test_two_systems_by_their_urls(tmp_path: Path, two_systems: list[str]) -> None:
    first, second = two_systems
    out = tmp_path / "night"
    done = squall(
        "ab", str(QUICKSTART), "--a", first, "--b", second, "--pairs", "3", "--out", str(out), "--archive",
        str(tmp_path / "archive.parquet"), *sets(*SHORT, "faults=[]", "load.duration_s=5"), out=out, timeout_s=300,
    )  # fmt: skip
    assert done.code == 1, done.out + done.err
    verdict = done.json("verdict.json")
    assert verdict["status"] == "regression"
    slower = {row["metric"] for row in verdict["metrics"] if row["status"] == "regression"}
    assert {"ttft_p50_ms", "itl_p50_ms", "e2e_p50_ms"} <= slower
    for arm, url in (("a", first), ("b", second)):
        state = json.loads((out / f"pair-01-{arm}" / "sut.json").read_text())
        assert (state["owner"], state["oracle"], state["urls"]) == ("outside", "count", [url])
