"""Runs to AIPerf's files and back; what a file doesn't say stays unknown; broken files are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from fixtures import make_run
from fixtures.make_run import WALL_NS, plain_parts, record, write_run
from hypothesis import given
from hypothesis import strategies as st

from harness import aiperf_in, aiperf_out, convert
from harness.cli import main
from harness.core.errors import InvalidRun, UsageError
from harness.core.rundir import RunDir
from harness.stats import analyse, load

S = 1_000_000_000
KEPT = (
    "request_id", "worker_index", "t_due_ns", "t_start_ns", "t_end_ns", "outcome", "usage_prompt_tokens",
    "usage_completion_tokens", "error",
)  # fmt: skip
KEPT_OF_OK = ("t_first_ns", "t_last_ns", "gaps_us", "tokens_received", "status", "stream")


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path / "requests.parquet").to_pylist()
    return rows


def there_and_back(tmp_path: Path, run: RunDir) -> list[dict[str, Any]]:
    assert main(["convert", str(run.path), "--to", "aiperf", "--out", str(tmp_path / "theirs")]) == 0
    assert (
        main(["convert", str(tmp_path / "theirs"), "--from", "aiperf", "--out", str(tmp_path / "back")]) == 0
    )
    return table(tmp_path / "back")


def test_a_run_there_and_back(tmp_path: Path) -> None:
    run, truth = make_run.make_run(tmp_path / "run", migration_limit=0)
    before, after = table(run.path), there_and_back(tmp_path, run)
    assert len(before) == len(after) == truth.sent
    zero = min(row["t_due_ns"] for row in before)
    for old, new in zip(before, after, strict=True):
        shifted = {name: value - zero if name.endswith("_ns") and value is not None else value for name, value in old.items()}  # fmt: skip
        names = KEPT + (KEPT_OF_OK if old["outcome"] == "ok" else ())
        wanted = {name: shifted[name] for name in names}
        if old["outcome"] != "ok":
            for name in ("usage_prompt_tokens", "usage_completion_tokens", "error"):
                del wanted[name]  # of what failed, AIPerf keeps the error
        assert {name: new[name] for name in wanted} == wanted
        assert (
            new["tokens_expected"] is new["finish_reason"] is new["prompt_tokens"] is new["migrated"] is None
        )
        assert new["route"] is new["witness_tokens"] is None and new["violations"] == []


TIMES = st.integers(0, 10**11)


@given(
    TIMES,
    st.integers(0, 10**10),
    st.lists(st.integers(0, 2 * 10**7), max_size=30),
    st.booleans(),
    st.integers(0, 999_999),
)
def test_times_survive_to_the_nanosecond(
    start: int, ttft: int, gaps: list[int], stream: bool, odd: int
) -> None:
    if not stream:
        gaps = []
    first = start + ttft + odd
    end = first + sum(gaps) * 1000 + (odd if stream else 0)
    row = msgspec.structs.asdict(record(
        0, t_start_ns=start, t_first_ns=first, t_end_ns=end, gaps_us=gaps, stream=stream, token_events=len(gaps) + 1,
    ))  # fmt: skip
    line = aiperf_out.record(row, 0, WALL_NS, 0)
    read = msgspec.json.decode(msgspec.json.encode(line), type=aiperf_in._Line)
    back = aiperf_in._row(read, 0, WALL_NS, None, 0, (), aiperf_in._Taken())
    names = ("t_due_ns", "t_start_ns", "t_first_ns", "t_end_ns", "gaps_us", "tokens_received", "outcome")
    assert {name: back[name] for name in names} == {name: row[name] for name in names}


def test_records_have_aiperfs_names_units_and_formulas(tmp_path: Path) -> None:
    parts = plain_parts([
        record(10, gaps_us=[20_000, 0, 40_000], token_events=3, reasoning_tokens=1, usage_reasoning_tokens=2, usage_completion_tokens=9),
        record(11, outcome="stream_error", error="gone", status=200), record(12, outcome="cancelled", t_cancel_ns=13 * S),
        record(13, outcome="shed", status=529, ttft_ms=None, t_end_ns=14 * S), record(1, user_class="Warm"),
    ])  # fmt: skip
    run = write_run(tmp_path / "run", parts)
    assert main(["convert", str(run.path), "--to", "aiperf"]) == 0
    lines = [
        json.loads(one) for one in (run.path / "aiperf" / "profile_export.jsonl").read_text().splitlines()
    ]
    first = {tag: one["value"] for tag, one in lines[0]["metrics"].items()}
    assert first == {
        "time_to_first_token": 50.0, "time_to_second_token": 20.0, "inter_token_latency": 20.0,
        "inter_chunk_latency": [20.0, 40.0], "request_latency": 110.0, "output_sequence_length": 4,
        "output_token_count": 3, "reasoning_token_count": 1, "input_sequence_length": 50,
        "output_token_throughput_per_user": 50.0, "usage_prompt_tokens": 50, "usage_completion_tokens": 9,
        "usage_reasoning_tokens": 2,
    }  # fmt: skip
    assert {one["unit"] for tag, one in lines[0]["metrics"].items() if "latency" in tag} == {"ms"}
    meta = lines[0]["metadata"]
    assert (meta["request_start_ns"], meta["credit_issued_ns"]) == (WALL_NS + 10 * S, WALL_NS + 10 * S)
    assert ["error" in one and (one["error"]["code"], one["error"]["type"]) for one in lines] == [
        False, (200, "stream_error"), (499, "cancelled"), (529, "shed"), False,
    ]  # fmt: skip
    assert [one["metadata"]["benchmark_phase"] for one in lines] == [*["profiling"] * 4, "warmup"]
    assert (
        lines[2]["metadata"]["was_cancelled"]
        and lines[2]["metadata"]["cancellation_time_ns"] == WALL_NS + 13 * S
    )
    assert set(lines[3]["metrics"]) == {"error_isl"}


def test_statistics_are_of_the_measured_part(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", plain_parts([record(n, ttft_ms=n) for n in (1, 10, 20, 30)]))
    assert main(["convert", str(run.path), "--to", "aiperf"]) == 0
    summary = json.loads((run.path / "aiperf" / "profile_export_aiperf.json").read_text())
    ttft = summary["time_to_first_token"]
    assert (ttft["avg"], ttft["min"], ttft["p50"], ttft["max"], ttft["count"]) == (20, 10, 20, 30, 3)
    assert summary["request_count"]["avg"] == 3
    rows = list(csv.reader((run.path / "aiperf" / "profile_export_aiperf.csv").read_text().splitlines()))
    assert rows[0][:3] == ["Metric", "avg", "min"]
    assert ["Time to First Token (ms)", "20.00", "10.00", "30.00", "60.00"] in [row[:5] for row in rows]
    assert ["Request Count", "3.00"] in rows


def test_chunks_of_several_tokens_have_one_gap_or_none_is_told() -> None:
    def gaps(us: list[int], chunks: int | None) -> list[int] | None:
        return aiperf_out.chunk_gaps_us({"gaps_us": us, "token_events": chunks})

    assert gaps([5, 0, 7], 4) == [5, 0, 7]  # four chunks, of which two came together
    assert gaps([5, 0, 7], 3) == [5, 7]
    assert gaps([5, 0, 0, 7], 4) is None  # which two of them?
    assert gaps([5, 0], None) == [5, 0]


def test_an_imported_run_is_judged_for_what_it_says_and_no_more(tmp_path: Path) -> None:
    run, _ = make_run.make_run(tmp_path / "run")
    there_and_back(tmp_path, run)
    analyse.write(run, analyse.analyse(run))
    assert main(["report", str(tmp_path / "back"), "--baseline", str(run.path)]) == 4
    verdict = json.loads((tmp_path / "back" / "verdict.json").read_text())
    assert verdict["status"] == "invalid" and "hub_lag_p99_ms is unknown" in verdict["reasons"][0]
    held = {one["name"]: one["ok"] for one in verdict["invariants"]}
    assert held["lost_tokens"] is held["missing_finish"] is held["usage_prompt_mismatch"] is None
    manifest = json.loads((tmp_path / "back" / "manifest.json").read_text())
    assert manifest["imported"]["format"] == "aiperf" and manifest["imported"]["taken"] == []
    assert manifest["seed"] is manifest["trace_sha256"] is manifest["fingerprint_class"] is None
    theirs, ours = (analyse.judge(load.read(RunDir(p))).metrics["all"] for p in (tmp_path / "back", run.path))
    assert theirs["ttft_p50_ms"] == ours["ttft_p50_ms"] and theirs["itl_p99_ms"] == ours["itl_p99_ms"]
    assert theirs["silent_s"] is theirs["migrations_ledger"] is None


def line(**changes: Any) -> dict[str, Any]:
    """A record as AIPerf writes it, with little in it."""
    tree: dict[str, Any] = {
        "metadata": {"session_num": 0, "x_request_id": "a", "request_start_ns": 100, "request_end_ns": 10**9,
                     "worker_id": "w", "record_processor_id": "p", "benchmark_phase": "profiling"},
        "metrics": {"request_latency": {"value": 900.0, "unit": "ms"}}, "error": None,
    }  # fmt: skip
    return tree | changes


def write(path: Path, *trees: Any) -> Path:
    path.write_text("".join(json.dumps(tree) + "\n" for tree in trees))
    return path


FIXTURE = Path(__file__).parents[2] / "fixtures" / "aiperf"


def test_aiperfs_own_file_gives_aiperfs_own_figures(tmp_path: Path) -> None:
    assert main(["convert", str(FIXTURE), "--from", "aiperf", "--out", str(tmp_path / "run")]) == 0
    rows = table(tmp_path / "run")
    assert [row["outcome"] for row in rows] == ["ok", "ok", "shed", "ok", "ok", "shed", *["ok"] * 4]
    assert {row["route"] for row in rows} == {"chat"} and {row["token_events"] for row in rows} == {8, None}
    data = load.read(RunDir(tmp_path / "run"))
    found = analyse.judge(data).metrics["all"]
    summary = json.loads((FIXTURE / "profile_export_aiperf.json").read_text())
    for ours, theirs in (("ttft", "time_to_first_token"), ("itl", "inter_chunk_latency")):
        for p in (50, 90, 99):
            assert found[f"{ours}_p{p}_ms"] == pytest.approx(summary[theirs][f"p{p}"], abs=0.002)
    assert found["shed_ratio"] == summary["error_request_count"]["avg"] / 8
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["imported"]["version"] == summary["aiperf_version"] == "0.13.0"
    assert manifest["sut_version"] is None
    assert data.scenario.sut.url == summary["input_config"]["endpoint"]["urls"][0]


def test_aiperf_against_real_dynamo_with_cancels() -> None:
    export = aiperf_in.read(FIXTURE / "mocker-cancelled.jsonl", (503, 529))
    assert [row["outcome"] for row in export.rows].count("cancelled") == 5 and export.notes == ()
    for row in export.rows:
        cancelled = row["outcome"] == "cancelled"
        assert (row["status"], row["t_cancel_ns"] is not None) == (
            (None, True) if cancelled else (200, False)
        )
        assert (
            cancelled or row["tokens_received"] == row["usage_completion_tokens"] == row["token_events"] == 12
        )


def test_aiperfs_own_records_come_back_as_aiperf_wrote_them(tmp_path: Path) -> None:
    main(["convert", str(FIXTURE), "--from", "aiperf", "--out", str(tmp_path / "run")])
    assert main(["convert", str(tmp_path / "run"), "--to", "aiperf"]) == 0
    theirs, ours = (
        [json.loads(one) for one in (path / "profile_export.jsonl").read_text().splitlines()]
        for path in (FIXTURE, tmp_path / "run" / "aiperf")
    )
    same = ("x_request_id", "credit_issued_ns", "request_start_ns", "request_end_ns", "benchmark_phase")
    for a, b in zip(theirs, ours, strict=True):
        assert {key: b["metadata"][key] for key in same} == {key: a["metadata"][key] for key in same}
        for tag in set(b["metrics"]) - {
            "input_sequence_length",
            "error_isl",
            "output_token_throughput_per_user",
        }:
            assert b["metrics"][tag]["unit"] == a["metrics"][tag]["unit"]
            assert b["metrics"][tag]["value"] == pytest.approx(a["metrics"][tag]["value"], abs=0.001), tag
        assert a.get("error", {}).get("code") == b.get("error", {}).get("code")


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        ({"code": 503, "type": "X", "message": "m"}, "shed", 503), ({"code": 404, "message": "m"}, "http_error", 404),
        ({"type": "TimeoutError", "message": "m"}, "timed_out", None), ({"type": "X", "message": "m"}, "transport_error", None),
        ({"type": "corrupted", "code": 200, "message": "m"}, "corrupted", 200), (None, "ok", 200),
    ],
)  # fmt: skip
def test_errors_are_told_apart(tmp_path: Path, error: Any, outcome: str, status: int | None) -> None:
    export = aiperf_in.read(write(tmp_path / "p.jsonl", line(error=error)), (503, 529))
    assert (export.rows[0]["outcome"], export.rows[0]["status"]) == (outcome, status)
    assert len(export.notes) == (
        2 if outcome == "transport_error" else 1
    )  # no credit_issued_ns in any of them


def test_whole_answers_have_no_time_to_first_token(tmp_path: Path) -> None:
    row = aiperf_in.read(write(tmp_path / "p.jsonl", line()), ()).rows[0]
    assert (row["t_first_ns"], row["stream"], row["gaps_us"], row["token_events"]) == (
        900_000_000,
        False,
        [],
        None,
    )
    assert row["t_due_ns"] == row["t_start_ns"] == 0


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (b"", InvalidRun, "holds no record"),
        (b"{nope\n", UsageError, "line 1 is no record"),
        (b"[1, 2]\n", UsageError, "line 1 is no record"),
        (b'{"metadata": {}, "metrics": {}}\n', UsageError, "request_start_ns"),
        (json.dumps(line()).encode() + b"\n" + json.dumps(line()).encode()[:50], InvalidRun, "line 2 is torn"),
        (json.dumps(line()).encode() + b"\n{}\n", UsageError, "line 2 is no record"),
        (b"\xff\xfe\n", UsageError, "line 1 is no record"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_and_leave_nothing(
    tmp_path: Path, text: bytes, kind: type[Exception], says: str
) -> None:
    (tmp_path / "p.jsonl").write_bytes(text)
    with pytest.raises(kind, match=says):
        convert.take_in(tmp_path / "p.jsonl", tmp_path / "run", print)
    assert not (tmp_path / "run").exists()
    code = main(["convert", str(tmp_path / "p.jsonl"), "--from", "aiperf", "--out", str(tmp_path / "run")])
    assert code == (4 if kind is InvalidRun else 2)


def test_only_warm_up_and_a_broken_summary_are_refused(tmp_path: Path) -> None:
    warm = line()
    warm["metadata"]["benchmark_phase"] = "warmup"
    with pytest.raises(InvalidRun, match="warm-up only"):
        aiperf_in.read(write(tmp_path / "p.jsonl", warm), ())
    (tmp_path / "profile_export_aiperf.json").write_text("{")
    with pytest.raises(UsageError, match="remove it to go without"):
        aiperf_in.read(write(tmp_path / "p.jsonl", line()), ())


def test_the_command_line_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "p.jsonl", line())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for words, says in (
        (["convert", str(file)], "exactly one of --to and --from"),
        (["convert", str(file), "--to", "aiperf", "--from", "aiperf"], "exactly one"),
        (["convert", str(file), "--from", "aiperf"], "needs --out"),
        (["convert", str(file), "--from", "aiperf", "--out", str(tmp_path / "full")], "isn't empty"),
        (
            ["convert", str(tmp_path / "absent.jsonl"), "--from", "aiperf", "--out", str(tmp_path / "r")],
            "No such file",
        ),
        (["convert", str(tmp_path), "--to", "aiperf"], "is this a run directory"),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err


def test_a_run_whose_load_never_began_has_nothing_to_convert(tmp_path: Path) -> None:
    parts = plain_parts([record(0)])
    parts.manifest = {"anchor": None}
    run = write_run(tmp_path / "run", parts)
    assert main(["convert", str(run.path), "--to", "aiperf"]) == 4
