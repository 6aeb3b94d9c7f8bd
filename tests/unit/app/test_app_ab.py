"""The loop of `squall ab`, on made-up runs: order, looks, stopping, dropping, resuming, refusing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_run import write_run
from make_session import Truth, make_parts

from harness import ab, arms, cli, preflight, speed, stages
from harness.core import config, expfile, manifest
from harness.core.errors import Exit, InvalidRun, UsageError
from harness.core.rundir import RunDir, project_root
from harness.stats import analyse, archive

pytestmark = pytest.mark.timeout(180)  # ten pairs, each written, judged and rendered
QUICKSTART = project_root() / "configs" / "scenarios" / "quickstart.yaml"
SETS = [
    "faults=[{id: kill, fault: process.kill, select: {role: worker}, at_s: 15, restart_after_s: 2}]", "gates=[]",
    "load.users=[{class: ChatUser, count: 8, output_tokens: 12}]",
]  # fmt: skip


class Bench:
    """Stands in for real runs: writes what a run leaves. before: called with (pair, arm) first, may raise."""

    def __init__(self, tmp_path: Path, truth: Truth) -> None:
        self.out, self.truth = tmp_path / "night", truth
        self.archive = tmp_path / "archive.parquet"
        self.ran: list[tuple[int, str]] = []
        self.seeds: list[int] = []
        self.before: Callable[[int, str], int | None] = lambda pair, arm: None
        self.spoil: Callable[[int, str, RunDir], None] = lambda pair, arm, run: None
        self.draw = np.random.default_rng(3)

    def run_scenario(
        self, run: RunDir, scenario: Any, run_id: str, command: Any, progress: Any, signals: Any, show: Any,
        place: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        assert place is not None
        pair, arm = place["pair_id"], place["arm"]
        manifest.create(run, scenario, run_id, command)
        manifest.update(run, **place)
        run.scenario.write_text(config.to_yaml(scenario))
        code = self.before(pair, arm)
        if code is not None:
            manifest.update(run, interrupted=True, valid=False)
            run.restored.touch()
            return code
        self.ran.append((pair, arm))
        self.seeds.append(scenario.seed)
        parts = make_parts(self.draw, pair, arm, self.truth, 300)
        said = json.loads(run.manifest.read_text())
        parts.scenario = arms._tree(scenario)
        parts.manifest = said | {
            key: json.loads(json.dumps(value))
            for key, value in parts.manifest.items()
        } | {"restored": True, "anchor": {"mono_ns": 5_000_000_000_000, "wall_ns": 1_767_225_600_000_000_000},
             "generator": {"send_lag_p99_ms": 0.5, "hub_lag_p99_ms": 1.0, "coalesced_ratio": 0.0}, "counts": None}  # fmt: skip
        write_run(run.path, parts)
        self.spoil(pair, arm, run)
        found = analyse.analyse(run)
        analyse.write(run, found)
        run.restored.touch()
        return found.exit_code

    def __call__(self, *more: str) -> int:
        sets = [word for one in SETS for word in ("--set", one)]
        argv = ["ab", str(QUICKSTART), "--a", "1.4.2", "--b", "1.6.1", "--out", str(self.out), *sets]
        return cli.main([*argv, "--archive", str(self.archive), *more])

    @property
    def file(self) -> expfile.ExperimentFile:
        return expfile.read(self.out)

    @property
    def verdict(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "verdict.json").read_text())
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bench:
    made = Bench(tmp_path, getattr(request, "param", Truth()))
    monkeypatch.setattr(stages, "run_scenario", made.run_scenario)
    monkeypatch.setattr(stages, "unfinished_notice", list)
    monkeypatch.setattr(stages, "runs_dir", lambda: tmp_path / "runs")
    monkeypatch.setattr(preflight, "check", lambda *_: None)
    monkeypatch.setattr(speed, "probe_ms", lambda: 20.0)
    return made


@pytest.mark.slow
def test_abba_with_one_trace_a_pair(bench: Bench) -> None:
    assert bench() == 0
    assert [arm for _, arm in bench.ran[:8]] in (
        list("ABBAABBA")[: len(bench.ran)],
        list("BAABBAAB")[: len(bench.ran)],
    )
    pairs = bench.file.pairs
    assert [pair.pair_id for pair in pairs] == list(range(1, len(pairs) + 1))
    assert bench.seeds == [pair.seed for pair in pairs for _ in "AB"]
    assert len({pair.seed for pair in pairs}) == len(pairs)
    said = [json.loads((bench.out / f"pair-01-{arm}" / "manifest.json").read_text()) for arm in "ab"]
    assert said[0]["trace_sha256"] == said[1]["trace_sha256"]
    assert {one["slot"] for one in said} == {0, 1} and {one["probe_ms"] for one in said} == {20.0}


def test_the_coin_depends_on_the_seed_alone() -> None:
    orders = {seed: [ab.order_of(seed, pair) for pair in range(1, 5)] for seed in range(20)}
    assert {"".join(one) for one in orders.values()} == {"ABBAABBA", "BAABBAAB"}


@pytest.mark.slow
@pytest.mark.parametrize("bench", [Truth(ttft=0.5)], indirect=True)
def test_it_stops_at_the_first_look_that_decides(bench: Bench) -> None:
    assert bench() == 1
    assert bench.verdict["status"] == "regression"
    assert len(bench.file.pairs) == bench.verdict["pairs_used"] < 10
    assert bench.file.status == "regression"
    assert (bench.out / "report" / "junit.xml").exists() and bench.archive.exists()


@pytest.mark.slow
@pytest.mark.parametrize("bench", [Truth(noise=0.3)], indirect=True)
def test_noise_goes_to_the_last_look_and_strict_makes_it_fail(bench: Bench) -> None:
    assert bench() == 3
    assert len(bench.file.pairs) == 10 and bench.verdict["exit_code"] == 3
    assert bench("--strict") == 1
    assert len(bench.ran) == 20 and bench.verdict["exit_code"] == 3


@pytest.mark.slow
def test_a_fixed_number_is_one_look(bench: Bench) -> None:
    assert bench("--pairs", "4") == 0
    assert len(bench.file.pairs) == 4 == bench.verdict["pairs_used"]


@pytest.mark.parametrize("pairs", ["2", "0", "many", "-3"])
def test_a_number_that_can_say_nothing_is_refused(
    pairs: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = bench("--pairs", pairs)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2 and bench.ran == [] and not bench.out.exists()


def test_killed_after_pair_3_it_goes_on_with_pair_4(bench: Bench) -> None:
    def die(pair: int, arm: str) -> None:
        if pair == 4:
            raise SystemExit(137)

    bench.before = die
    with pytest.raises(SystemExit):
        bench("--pairs", "5")
    assert len(bench.file.pairs) == 3
    kept = {one: one.read_bytes() for one in bench.out.glob("pair-0[123]-*/manifest.json")}
    bench.before = lambda pair, arm: None
    for run in bench.out.glob("pair-04-*"):
        (run / "restored").touch()  # what the guardian does for a run that was killed
    assert bench("--pairs", "5") == 0
    assert [pair for pair, _ in bench.ran] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {one: one.read_bytes() for one in kept} == kept
    assert [one.name[:7] for one in (bench.out / "aside").iterdir()] == ["pair-04"]


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_whole(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.before = lambda pair, arm: 130 if (pair, arm) == (2, ab.order_of(1, 2)[1]) else None
    assert bench("--pairs", "3") == 130
    assert [pair.pair_id for pair in bench.file.pairs] == [1]
    assert sorted(one.name for one in bench.out.glob("pair-*")) == ["pair-01-a", "pair-01-b"]
    assert "go on with the same command" in capsys.readouterr().out
    bench.before = lambda pair, arm: None
    assert bench("--pairs", "3") == 0


@pytest.mark.slow
def test_what_is_left_behind_stops_it(bench: Bench) -> None:
    bench.before = lambda pair, arm: int(Exit.NOT_RESTORED) if pair == 2 else None
    assert bench() == 5


def late(pairs: set[int]) -> Callable[[int, str, RunDir], None]:
    """A load generator that was too slow in arm B of these pairs."""

    def spoil(pair: int, arm: str, run: RunDir) -> None:
        if pair in pairs and arm == "B":
            manifest.update(
                run, generator={"send_lag_p99_ms": 9000, "hub_lag_p99_ms": 1, "coalesced_ratio": 0}
            )

    return spoil


@pytest.mark.slow
def test_a_dropped_pair_is_run_again_as_another(bench: Bench) -> None:
    bench.spoil = late({2})
    assert bench("--pairs", "3") == 0
    states = [(pair.pair_id, pair.state) for pair in bench.file.pairs]
    assert states == [(1, "done"), (2, "dropped"), (3, "done"), (4, "done")]
    assert "send_lag" in bench.file.pairs[1].reason
    assert bench.verdict["dropped"][0]["pair_id"] == 2 and bench.verdict["pairs_used"] == 3


@pytest.mark.slow
def test_after_two_reruns_it_gives_up(bench: Bench) -> None:
    bench.spoil = late({1, 2, 3, 4, 5, 6})
    assert bench("--pairs", "3") == 4
    assert len(bench.file.pairs) == 3 and bench.verdict["status"] == "invalid"
    assert not bench.archive.exists()


@pytest.mark.slow
def test_a_system_that_does_not_come_up_drops_its_pair(bench: Bench) -> None:
    def broken(pair: int, arm: str) -> None:
        if pair == 2 and arm == "B":
            raise InvalidRun("worker-1 exited with code 3")

    def forget(pair: int, arm: str) -> None:
        try:
            broken(pair, arm)
        except InvalidRun as error:
            run = RunDir(bench.out / expfile.run_name(pair, arm))
            manifest.add_reasons(run, [str(error)])
            run.restored.touch()
            raise

    bench.before = forget
    assert bench("--pairs", "3") == 0
    assert "worker-1 exited" in bench.verdict["dropped"][0]["reason"]


def test_a_breach_of_the_candidate_ends_it_at_once(bench: Bench) -> None:
    def duplicate(pair: int, arm: str, run: RunDir) -> None:
        if (pair, arm) == (1, "B"):
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pq.read_table(run.requests)
            values = [1] + [None] * (table.num_rows - 1)
            at = table.column_names.index("duplicated_tokens")
            pq.write_table(
                table.set_column(at, "duplicated_tokens", pa.array(values, pa.int64())), run.requests
            )

    bench.spoil = duplicate
    assert bench() == 1
    assert len(bench.file.pairs) == 1 and bench.verdict["status"] == "fail"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "piece"),
    [
        (["--set", "slo.ttft_ms=77"], "config_sha256"),
        (["--set", "seed=9"], "seed"),
        (["--b", "1.4.2"], "--b"),
        (["--pairs", "5"], "--pairs"),
    ],
)
def test_another_experiment_in_the_same_place_is_refused(
    more: list[str], piece: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--pairs", "3") == 0
    before = (bench.out / "experiment.json").read_bytes()
    argv = more if "--pairs" in more else ["--pairs", "3", *more]
    assert bench(*argv) == 2
    said = capsys.readouterr().err
    assert piece in said and "another --out" in said
    assert (bench.out / "experiment.json").read_bytes() == before


def test_a_directory_with_something_else_is_refused(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "mine.txt").write_text("x")
    assert bench() == 2 and bench.ran == []


@pytest.mark.slow
def test_an_archive_of_something_else_is_refused_and_costs_nothing(bench: Bench) -> None:
    rows = archive.empty()
    rows.loc[0, ["pair_id", "kind", "metric", "window", "d", "scenario", "valid"]] = (
        1, "aa", "ttft_p50_ms", "steady", 0.1, "another", True)  # fmt: skip
    archive.write(bench.archive, rows)
    assert bench("--pairs", "3") == 4 and bench.ran == []
    bench.archive.unlink()
    assert bench("--pairs", "3") == 0


@pytest.mark.slow
def test_a_finished_experiment_says_the_same_again(bench: Bench) -> None:
    assert bench("--pairs", "3") == 0
    before, ran = (bench.out / "verdict.json").read_bytes(), list(bench.ran)
    assert bench("--pairs", "3") == 0
    assert (bench.out / "verdict.json").read_bytes() == before and bench.ran == ran


@pytest.mark.slow
def test_it_says_where_it_stands(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench("--pairs", "3")
    said = capsys.readouterr().err
    assert "0 pairs, next look at 3, 3 expected" in said and "pair 2 " in said


def test_which_arm_is_wrong_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(scenario: config.Scenario, *_: object) -> None:
        if scenario.sut.dynamo == "1.6.1":
            raise UsageError("sut.dynamo: venv missing")

    monkeypatch.setattr(preflight, "check", refuse)
    assert bench() == 2
