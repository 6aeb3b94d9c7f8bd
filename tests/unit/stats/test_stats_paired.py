"""The experiment's verdict: invariants before data before statistics, each arm told apart, the same bytes always."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_session as sessions
import pytest
from make_run import Parts
from make_session import Truth, edit_manifest, make_session

from harness.stats import experiment, paired, verdict

Change = Callable[[int, str, Parts], None]


def judge(directory: Path) -> dict[str, Any]:
    return paired.judge(experiment.read([directory]), None)


def row(found: dict[str, Any], metric: str, window: str = "steady") -> dict[str, Any]:
    return next(one for one in found["metrics"] if (one["metric"], one["window"]) == (metric, window))


def invariant(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["invariants"] if one["name"] == name)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_session(tmp_path_factory.mktemp("same") / "night", 10)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_session(tmp_path_factory.mktemp("worse") / "night", 10, Truth(ttft=0.15))


def test_equal_systems_pass(same: Path) -> None:
    found = judge(same)
    assert (found["status"], found["exit_code"]) == ("pass", 0)
    assert found["pairs_used"] in (3, 5, 7, 10) and len(found["run_ids"]) == 20
    assert any("cold start" in one for one in found["reasons"])


def test_a_slower_one_is_named(worse: Path) -> None:
    found = judge(worse)
    assert (found["status"], found["exit_code"]) == ("regression", 1)
    assert row(found, "ttft_p50_ms")["status"] == "regression"
    assert 0.12 < row(found, "ttft_p50_ms")["delta_ratio"] < 0.18
    assert row(found, "itl_p50_ms")["status"] == "pass"
    assert row(found, "ttft_p99_ms")["status"] == "observe"  # a run of 300 requests


def test_more_rejections_are_named(tmp_path: Path) -> None:
    found = judge(make_session(tmp_path / "night", 5, Truth(shed=0.05)))
    assert found["status"] == "regression" and row(found, "shed_ratio", "all")["status"] == "regression"


@pytest.mark.slow
def test_streams_that_no_longer_migrate_are_named(tmp_path: Path) -> None:
    def end_there(_: int, arm: str, parts: Parts) -> None:
        if arm == "B":
            for one in parts.records:
                one.migrated = 0
            parts.segments["worker-2"] = [x for x in parts.segments["worker-2"] if x.get("first") != 11]
            parts.samples = []

    found = judge(make_session(tmp_path / "night", 10, change=end_there))
    assert row(found, "migrated_ratio", "fault")["candidate"] == 0
    assert row(found, "migrated_ratio", "fault")["status"] == "regression"


@pytest.mark.slow
def test_fewer_than_all_looks_are_one_look_unless_somebody_planned_more(tmp_path: Path) -> None:
    loose = make_session(tmp_path / "loose", 5)
    planned = make_session(tmp_path / "planned", 5, looks=[3, 5, 7, 10])
    assert paired.plan_for(experiment.read([loose])).looks == (5,)
    assert paired.plan_for(experiment.read([planned])).looks == (3, 5, 7, 10)


@pytest.mark.parametrize("pairs", [1, 2])
def test_too_few_pairs_are_no_answer(pairs: int, tmp_path: Path) -> None:
    found = judge(make_session(tmp_path / "night", pairs))
    assert (found["status"], found["exit_code"]) == ("invalid", 4)
    assert any("3" in one for one in found["reasons"])


def duplicated(*where: tuple[int, str]) -> Change:
    """One token twice in one stream of these runs."""

    def spoil(pair: int, arm: str, parts: Parts) -> None:
        if (pair, arm) in where:
            one = parts.records[37]
            one.duplicated_tokens, one.violations, one.outcome = 1, ["duplicated_tokens"], "corrupted"

    return spoil


@pytest.mark.parametrize(
    ("where", "status", "code", "arm", "says"),
    [
        ([(2, "B")], "fail", 1, "B", "in arm B"),
        ([(2, "A")], "inconclusive", 3, "A", "baseline broken"),
        ([(1, "A"), (2, "B")], "fail", 1, "both", "also in baseline"),
    ],
)
def test_a_breach_is_told_apart_by_arm(
    where: list[tuple[int, str]], status: str, code: int, arm: str, says: str, tmp_path: Path
) -> None:
    found = judge(make_session(tmp_path / "night", 3, change=duplicated(*where)))
    assert (found["status"], found["exit_code"]) == (status, code)
    one = invariant(found, "duplicated_tokens")
    assert (one["ok"], one["count"], one["arm"]) == (False, len(where), arm)
    assert one["request_ids"][0] == f"{where[-1][0]}-{where[-1][1]}-37"
    assert says in " ".join(found["reasons"]) and one["request_ids"][0] in " ".join(found["reasons"])


@pytest.mark.parametrize(("pairs", "where", "status"), [
    (1, [(1, "A")], "inconclusive"), (2, [(2, "A")], "inconclusive"), (2, [(2, "B")], "fail"), (2, [], "invalid"),
])  # fmt: skip
def test_an_experiment_that_ended_with_a_breach_has_few_pairs(
    pairs: int, where: list[tuple[int, str]], status: str, tmp_path: Path
) -> None:
    found = judge(make_session(tmp_path / "night", pairs, change=duplicated(*where)))
    assert found["status"] == status
    assert "needs at least 3" in " ".join(found["reasons"])


def test_too_few_pairs_do_not_hide_data_that_cant_be_used(tmp_path: Path) -> None:
    night = make_session(tmp_path / "night", 2, change=duplicated((2, "A")))
    edit_manifest(night / "pair-01-b", config_sha256="0" * 64)
    assert judge(night)["status"] == "invalid"


def test_a_known_breach_is_accepted_and_counted(tmp_path: Path) -> None:
    def known(pair: int, arm: str, parts: Parts) -> None:
        duplicated((2, "B"))(pair, arm, parts)
        parts.scenario["known"] = [
            {"violation": "duplicated_tokens", "reason": "ticket 7", "expires": "2030-01-01"}
        ]

    found = judge(make_session(tmp_path / "night", 3, change=known))
    assert found["status"] == "pass" and found["known"][0]["count"] == 1


@pytest.mark.parametrize("what", ["config", "trace"])
def test_a_breach_counts_although_the_data_are_refused(what: str, tmp_path: Path) -> None:
    night = make_session(tmp_path / "night", 3, change=duplicated((2, "B")))
    edit_manifest(night / "pair-01-b", **{f"{what}_sha256": "0" * 64})
    found = judge(night)
    assert (found["status"], found["exit_code"]) == ("fail", 1)
    assert any(f"{what}_sha256" in one for one in found["reasons"])


@pytest.mark.slow
def test_a_breach_in_a_dropped_pair_counts(tmp_path: Path) -> None:
    night = make_session(tmp_path / "night", 4, change=duplicated((2, "B")))
    edit_manifest(night / "pair-02-a", probe_ms=40.0)
    found = judge(night)
    assert found["dropped"][0]["pair_id"] == 2 and found["status"] == "fail"


def test_a_lost_request_is_a_breach(tmp_path: Path) -> None:
    """One that was never closed, and one that has no record at all."""

    def open_end(pair: int, arm: str, parts: Parts) -> None:
        if (pair, arm) == (3, "B"):
            parts.records[11].t_end_ns = None  # type: ignore[assignment]
            parts.records[11].outcome = None  # type: ignore[assignment]

    found = judge(make_session(tmp_path / "open", 3, change=open_end))
    assert found["exit_code"] == 1 and "3-B-11" in invariant(found, "ledger_closes")["request_ids"]

    night = make_session(tmp_path / "gone", 3)
    edit_manifest(night / "pair-03-b", counts={"sent": 301})
    found = judge(night)
    assert found["exit_code"] == 1 and invariant(found, "no_lost_requests")["count"] == 1


@pytest.mark.slow
def test_a_service_that_never_recovered_is_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KILL_S", 50.0)
    monkeypatch.setattr(sessions, "BACK_S", 52.0)
    late_ns = 400_000_000

    def never(pair: int, arm: str, parts: Parts) -> None:
        if (pair, arm) == (2, "B"):
            for one in parts.records:
                if one.t_start_ns > 50_000_000_000:
                    for name in ("t_first_ns", "t_last_ns", "t_end_ns"):
                        setattr(one, name, getattr(one, name) + late_ns)

    found = judge(make_session(tmp_path / "night", 3, change=never))
    assert found["exit_code"] == 1 and invariant(found, "not_recovered")["arm"] == "B"


@pytest.mark.parametrize(("ttft_max", "status", "code"), [(500, "pass", 0), (1, "fail", 1)])
def test_gates_are_held_against_the_candidate(ttft_max: int, status: str, code: int, tmp_path: Path) -> None:
    def gated(_: int, __: str, parts: Parts) -> None:
        parts.scenario["gates"] = [{"metric": "ttft_p90_ms", "window": "steady", "max": ttft_max}]

    found = judge(make_session(tmp_path / "night", 3, change=gated))
    assert (found["status"], found["exit_code"]) == (status, code)
    assert found["gates"][0]["ok"] is (code == 0)


@pytest.mark.slow
def test_swapped_arms_turn_the_change_round(tmp_path: Path) -> None:
    worse = make_session(tmp_path / "worse", 10, Truth(ttft=0.15), looks=[10])
    turned = Path(shutil.copytree(worse, tmp_path / "night"))
    for run in turned.glob("pair-*"):
        arm = json.loads((run / "manifest.json").read_text())["arm"]
        edit_manifest(run, arm="B" if arm == "A" else "A")
    before, after = row(judge(worse), "ttft_p50_ms"), row(judge(turned), "ttft_p50_ms")
    assert after["status"] == "improvement"
    assert after["delta_ratio"] == pytest.approx(1 / (1 + before["delta_ratio"]) - 1, rel=1e-4)
    assert after["p_improvement"] == pytest.approx(before["p_regression"], rel=1e-4)


SCRIPT = """
import sys
from pathlib import Path
from harness.stats import experiment, paired, verdict
paths = [Path(one) for one in sys.argv[1:]]
sys.stdout.buffer.write(verdict.to_bytes(paired.judge(experiment.read(paths), None)))
"""


@pytest.mark.slow
def test_the_bytes_are_the_same_whatever_the_order_zone_and_process(worse: Path) -> None:
    runs = sorted(worse.iterdir())
    expected = verdict.to_bytes(judge(worse))
    for order, zone in ((runs[::-1], "Pacific/Kiritimati"), (runs[7:] + runs[:7], "America/St_Johns")):
        env = {**os.environ, "TZ": zone, "PYTHONHASHSEED": "7"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *map(str, order)], env=env, capture_output=True, check=True
        )
        assert done.stdout == expected
    assert str(worse).encode() not in expected
