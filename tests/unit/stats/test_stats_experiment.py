"""Bad data is refused with one line that names run, field and remedy; disturbed pairs are dropped, blindly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from make_run import Parts
from make_session import edit_manifest, edit_scenario, make_session

from harness.core.errors import UsageError
from harness.stats import experiment

B2 = "night-pair-02-b"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_session(tmp_path_factory.mktemp("session") / "night", 3, requests=300)


@pytest.fixture
def night(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "night"))


def test_a_whole_session_has_pairs_in_order_and_no_problem(whole: Path) -> None:
    found = experiment.read([whole])
    assert found.problems == () and found.dropped == ()
    assert [pair.pair_id for pair in found.valid] == [1, 2, 3]
    assert all((pair.a.arm, pair.b.arm) == ("A", "B") for pair in found.pairs)
    values = experiment.values(found.valid)
    assert set(values["arm"]) == {"A", "B"} and len(values) == 3 * 2 * 12
    assert values["value"].gt(0).all() and set(values["window"]) == {"steady", "fault:kill", "recovery:kill"}
    counts = experiment.counts(found.valid)
    assert set(counts["kind"]) == {"shed", "migrated"}
    moved = counts[counts["kind"] == "migrated"]
    assert (moved["x"] == moved["n"]).all() and (moved["n"] > 0).all()


def test_order_of_paths_does_not_matter(whole: Path) -> None:
    runs = sorted(whole.iterdir())
    one = experiment.read(runs)
    other = experiment.read(runs[::-1])
    assert one == other
    assert experiment.values(one.valid).equals(experiment.values(other.valid))


def test_several_processes_read_the_same(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = experiment.read([whole])
    monkeypatch.setattr(experiment, "PARALLEL_FROM", 1000)
    assert experiment.read([whole]) == several


def _truncate(name: str) -> Callable[[Path], None]:
    def spoil(night: Path) -> None:
        path = night / "pair-02-b" / name
        path.write_bytes(path.read_bytes()[:-200])

    return spoil


def _metrics_nan(night: Path) -> None:
    (night / "pair-02-b" / "metrics.json").write_text('{"steady": {"ttft_p50_ms": NaN}}')


def _copy(night: Path) -> None:
    shutil.copytree(night / "pair-02-b", night / "pair-99-b")


def _swap(night: Path) -> None:
    edit_manifest(night / "pair-02-a", arm="B")
    edit_manifest(night / "pair-02-b", arm="A")


def _manifest(**changes: object) -> Callable[[Path], None]:
    return lambda night: edit_manifest(night / "pair-02-b", **changes)


def _gone(name: str) -> Callable[[Path], None]:
    def spoil(night: Path) -> None:
        path = night / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


REFUSED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "another scenario": (_manifest(config_sha256="0" * 64), [B2, "config_sha256", "one scenario file"]),
    "another scenario, hash kept": (
        lambda night: edit_scenario(night / "pair-02-b", recover_timeout_s=99), [B2, "scenario.yaml"]),
    "another machine": (_manifest(fingerprint_class="f00d"), [B2, "fingerprint_class", "f00d", "c0ffee"]),
    "another trace": (_manifest(trace_sha256="1" * 64), [B2, "trace_sha256", "pair 2"]),
    "no hash": (_manifest(trace_sha256=None), [B2, "trace_sha256", "missing"]),
    "truncated records": (_truncate("requests.parquet"), [B2, "requests.parquet", "truncated", "restore"]),
    "truncated probes": (_truncate("probes.parquet"), [B2, "probes.parquet", "truncated"]),
    "no records": (_gone("pair-02-b/requests.parquet"), [B2, "requests.parquet", "missing"]),
    "no scenario": (_gone("pair-02-b/scenario.yaml"), ["pair-02-b", "scenario.yaml", "restore"]),
    "no manifest text": (
        lambda night: (night / "pair-02-b" / "manifest.json").write_text("{"), ["pair-02-b", "manifest.json"]),
    "missing arm": (_gone("pair-02-b"), ["night-pair-02-a", "pair 2", "no run of arm B"]),
    "no arm": (_manifest(arm=None), [B2, "arm", "None"]),
    "strange arm": (_manifest(arm="C"), [B2, "arm", "'C'"]),
    "arm twice": (_manifest(arm="A"), [B2, "pair 2", "arm A already"]),
    "swapped labels": (_swap, ["arm", "another system", "labels swapped"]),
    "no pair": (_manifest(pair_id=None), [B2, "pair_id"]),
    "pair of words": (_manifest(pair_id="two"), [B2, "pair_id", "'two'"]),
    "pair of nothing that can be": (_manifest(pair_id=[2]), [B2, "pair_id", "[2]"]),
    "a copy": (_copy, [B2, "run_id", "twice"]),
    "two experiments": (_manifest(experiment_id="other"), ["experiment_id", "night", "other"]),
    "clock back": (_manifest(started_at="2025-01-01T00:00:00.000Z"), [B2, "started_at", "clock"]),
    "NaN in metrics": (_metrics_nan, [B2, "metrics.json", "ttft_p50_ms", "nan"]),
    "torn metrics": (
        lambda night: (night / "pair-02-b" / "metrics.json").write_text("{"), [B2, "metrics.json", "torn"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_with_one_line(case: str, night: Path) -> None:
    spoil, pieces = REFUSED[case]
    spoil(night)
    found = experiment.read([night])
    assert found.problems and found.valid == ()
    first = found.problems[0]
    assert "\n" not in first and str(night) not in first
    for piece in pieces:
        assert piece in first, first


def test_a_clock_that_goes_backwards_within_a_run_is_refused(tmp_path: Path) -> None:
    def back(pair: int, arm: str, parts: Parts) -> None:
        if (pair, arm) == (2, "B"):
            one = parts.records[5]
            one.t_first_ns, one.t_last_ns = one.t_start_ns - 50_000_000, one.t_start_ns + 1

    found = experiment.read([make_session(tmp_path / "night", 2, requests=300, change=back)])
    assert "t_first_ns before t_start_ns" in found.problems[0] and B2 in found.problems[0]


def test_a_journal_that_goes_backwards_is_refused(night: Path) -> None:
    path = night / "pair-02-b" / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["t_ns"] -= 10_000_000_000
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any("journal.jsonl" in one and "clock" in one for one in experiment.read([night]).problems)


def test_not_a_number_in_the_records_is_refused(night: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = night / "pair-02-b" / "requests.parquet"
    table = pq.read_table(path)
    values = [float("nan")] + [float(v) for v in table.column("t_end_ns").to_pylist()[1:]]
    at = table.column_names.index("t_end_ns")
    pq.write_table(table.set_column(at, "t_end_ns", pa.array(values, pa.float64(), from_pandas=False)), path)
    found = experiment.read([night])
    assert found.problems and "t_end_ns" in found.problems[0]


def test_a_run_named_twice_is_refused(whole: Path) -> None:
    assert "named twice" in experiment.read([whole, whole / "pair-01-a"]).problems[0]


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_path_without_runs_is_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run directory"):
        experiment.read([tmp_path / name])


DROPPED: dict[str, tuple[Callable[[Path], None], str]] = {
    "generator late": (
        lambda night: edit_manifest(night / "pair-02-b", generator={"send_lag_p99_ms": 900, "hub_lag_p99_ms": 1, "coalesced_ratio": 0}),
        "send_lag"),
    "said by the harness": (_manifest(invalid_reasons=["Locust did not end in time"]), "Locust did not end"),
    "interrupted": (_manifest(interrupted=True), "interrupted"),
    "another host": (_manifest(fingerprint={"cpu": "y", "cores": 2}), "fingerprints differ in cpu"),
    "slow machine": (_manifest(probe_ms=30.0), "speed was off by +50%"),
    "left something": (_manifest(restored=False), "host was not as before"),
}  # fmt: skip


@pytest.mark.parametrize("case", DROPPED)
def test_a_disturbed_pair_is_dropped_with_its_reason(case: str, night: Path) -> None:
    spoil, piece = DROPPED[case]
    spoil(night)
    found = experiment.read([night])
    assert found.problems == ()
    assert [pair.pair_id for pair in found.valid] == [1, 3]
    ((pair_id, reason),) = found.dropped
    assert pair_id == 2 and piece in reason


def test_dropping_is_blind_to_the_arm(night: Path) -> None:
    edit_manifest(night / "pair-02-a", probe_ms=30.0)
    assert [pair.pair_id for pair in experiment.read([night]).valid] == [1, 3]


def test_ordinary_probe_noise_drops_nothing(night: Path) -> None:
    for n, run in enumerate(sorted(night.glob("pair-*"))):
        edit_manifest(run, probe_ms=20.0 + (0.0, 0.2, 0.9, 0.1, 1.1, 0.0)[n])
    assert len(experiment.read([night]).valid) == 3


def test_a_fault_that_met_no_stream_drops_its_pair(tmp_path: Path) -> None:
    def idle(pair: int, arm: str, parts: Parts) -> None:
        if (pair, arm) == (2, "A"):
            parts.records = [one for one in parts.records if not one.migrated]
            parts.segments = {
                name: [one for one in lines if not _of_killed(lines, one)]
                for name, lines in parts.segments.items()
            }

    def _of_killed(lines: list[dict[str, object]], one: dict[str, object]) -> bool:
        return (
            not any(x["request_id"] == one["request_id"] and x["event"] == "end" for x in lines)
            or one.get("first") == 11
        )

    found = experiment.read([make_session(tmp_path / "night", 3, requests=300, change=idle)])
    assert found.problems == ()
    assert [pair.pair_id for pair in found.valid] == [1, 3]
    assert "no stream was in flight" in found.dropped[0][1]
