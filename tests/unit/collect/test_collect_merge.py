"""JSON lines to Parquet: exact columns and types, counted rows, faults and migrations joined in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.journal import Journal
from harness.collect import merge as merging
from harness.collect.merge import merge
from harness.collect.sink import Sink
from harness.core import clock, rundir
from harness.core.errors import InvalidRun
from harness.core.records import Probe, RequestRecord, Sample
from harness.core.rundir import RunDir

COLUMNS = (
    "request_id, response_id, worker_index, user_class, route, t_due_ns, t_start_ns, t_first_ns, t_last_ns, t_end_ns, "
    "status, outcome, attempt, retry_of, cancel_mode, cancel_after_tokens, prompt_tokens, tokens_expected, "
    "tokens_received, usage_prompt_tokens, usage_completion_tokens, finish_reason, gaps_us, coalesced, time_error_us, "
    "violations, lost_tokens, duplicated_tokens, reordered_tokens, foreign_tokens, extra_tokens, engine_worker_id, "
    "migrated, fault_ids, error, stream, user, t_cancel_ns, token_events, witness_tokens, hidden_tokens, "
    "reasoning_tokens, tool_tokens, usage_reasoning_tokens"
)
COLUMN_NAMES = COLUMNS.split(", ")


def record(n: int, **changes: Any) -> RequestRecord:
    values = {
        "request_id": f"id-{n}", "worker_index": 0, "user_class": "ChatUser", "route": "chat", "t_due_ns": n,
        "t_start_ns": n, "t_end_ns": n + 5, "outcome": "ok",
    }  # fmt: skip
    return RequestRecord(**{**values, **changes})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = rundir.create(tmp_path / "run")
    made.samples_jsonl.touch()
    made.probes_jsonl.touch()
    return made


def write(run: RunDir, *records: RequestRecord, worker: int = 0) -> None:
    sink = Sink(run, worker)
    for one in records:
        sink.write(one)
    sink.close()


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_columns_are_the_contract_and_the_structs() -> None:
    assert merging.REQUESTS.names == COLUMN_NAMES
    for schema, kind in (
        (merging.REQUESTS, RequestRecord),
        (merging.SAMPLES, Sample),
        (merging.PROBES, Probe),
    ):
        assert schema.names == list(kind.__struct_fields__)
    types = {f.name: f.type for f in merging.REQUESTS}
    assert types["gaps_us"] == pa.list_(pa.int32())
    assert types["violations"] == types["fault_ids"] == pa.list_(pa.string())
    assert {types[name] for name in COLUMN_NAMES if name.endswith("_ns")} == {pa.int64()}
    assert pa.schema(merging.PROBES).field("ready").type == pa.bool_()


def test_rows_come_back_as_they_were_written(run: RunDir) -> None:
    full = record(
        1, response_id="r", t_first_ns=2, t_last_ns=3, status=200, outcome="corrupted", attempt=2, retry_of="id-0",
        cancel_mode="rst", cancel_after_tokens=20, prompt_tokens=5, tokens_expected=3, tokens_received=3,
        usage_prompt_tokens=5, usage_completion_tokens=3, finish_reason="length", gaps_us=[20_000, 2**31 - 1],
        coalesced=1, time_error_us=7, violations=["lost_tokens", "short_stream"], lost_tokens=1, duplicated_tokens=2,
        reordered_tokens=3, foreign_tokens=4, extra_tokens=5, engine_worker_id=str(2**64 - 1), error="é\n",
        user=3, t_cancel_ns=4,
    )  # fmt: skip
    bare = record(2**62)
    write(run, full, bare)
    assert merge(run) == merging.Merged(2, {0: 2}, 0, 0, [])
    assert table(run.requests) == [msgspec.to_builtins(full), msgspec.to_builtins(bare)]


def test_samples_and_probes(run: RunDir) -> None:
    sample = Sample(-5, "worker-1", "m", '{"a":"b"}', 1e300)
    probes = [Probe(1, "w", "/health", 200, True, 12, None), Probe(2, "w", "/health", 0, None, 9, "refused")]
    run.samples_jsonl.write_bytes(msgspec.json.encode(sample) + b"\n")
    run.probes_jsonl.write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in probes))
    write(run, record(1))
    assert merge(run) == merging.Merged(1, {0: 1}, 1, 2, [])
    assert table(run.samples) == [msgspec.to_builtins(sample)]
    assert table(run.probes) == [msgspec.to_builtins(p) for p in probes]


def test_empty_inputs_give_empty_files_with_the_columns(run: RunDir) -> None:
    Sink(run, 0).close()
    assert merge(run) == merging.Merged(0, {0: 0}, 0, 0, [])
    for path, schema in (
        (run.requests, merging.REQUESTS), (run.samples, merging.SAMPLES), (run.probes, merging.PROBES)
    ):  # fmt: skip
        assert pq.read_schema(path).equals(schema)
        assert pq.read_metadata(path).num_rows == 0


def test_nothing_at_all_is_named(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    merged = merge(run)
    assert merged.rows == 0
    assert sorted(merged.missing) == [
        "no records: no Locust process wrote any", "probes.jsonl is missing", "samples.jsonl is missing",
    ]  # fmt: skip
    assert pq.read_schema(run.requests).equals(merging.REQUESTS)


def test_several_processes_are_merged_and_counted(run: RunDir) -> None:
    write(run, record(1), record(2))
    write(run, record(3, worker_index=1), worker=1)
    merged = merge(run)
    assert (merged.rows, merged.rows_by_worker, merged.missing) == (3, {0: 2, 1: 1}, [])
    assert [row["request_id"] for row in table(run.requests)] == ["id-1", "id-2", "id-3"]


def test_missing_row_count_missing_process_and_wrong_count_are_reasons(run: RunDir) -> None:
    write(run, record(1), worker=0)
    write(run, record(2), record(3), worker=2)
    run.records_done(0).unlink()
    run.records_done(2).write_text("3\n")
    merged = merge(run)
    assert merged.rows == 3
    assert merged.missing == [
        "records-0.done is missing: that process didn't close its file (1 rows are there)",
        "records-1.jsonl is missing",
        "records-1.done is missing: that process didn't close its file (0 rows are there)",
        "records-2.done says 3 rows, 2 are there",
    ]
    run.records_done(2).write_text("torn")
    assert "records-2.done holds no row count" in merge(run).missing


def test_torn_and_broken_lines_are_counted_the_rest_is_kept(run: RunDir) -> None:
    write(run, record(1), record(2))
    good = run.records(0).read_bytes()
    too_long = msgspec.json.encode(record(9, gaps_us=[2**31]))
    run.records(0).write_bytes(b"\xff\xfe\n" + too_long + b"\n" + good + good[: len(good) // 3])
    run.records_done(0).write_text("5\n")
    merged = merge(run)
    assert merged.rows == 2
    assert merged.missing == [
        "records-0.jsonl: 3 lines are no rows (the last one is torn)", "records-0.done says 5 rows, 2 are there",
    ]  # fmt: skip
    assert len(table(run.requests)) == 2
    run.probes_jsonl.write_text('{"t_ns":1}\n')
    assert "probes.jsonl: 1 lines are no rows" in merge(run).missing


def test_faults_there_while_the_request_was_open(run: RunDir) -> None:
    journal = Journal(run.journal, clock.anchor_now())

    def line(
        fault_id: str,
        phase: Any,
        t_ns: int,
        target: str = "worker-1",
        fault: str = "process.pause",
        **evidence: Any,
    ) -> None:
        journal.write(fault_id, fault, phase, target, t_ns=t_ns, evidence=evidence or None)

    for target, shift in (("worker-1", 0), ("worker-2", 50)):  # hull: [110, 250)
        line("pause", "intent", 90 + shift, target)
        line("pause", "injected", 100 + shift, target)
        line("pause", "verified", 120 + shift, target, effective_ns=110 + shift)
        line("pause", "recovering", 200 + shift, target)
        line("pause", "recovered", 230 + shift, target, gone_ns=205 + shift)
    line("kill", "injected", 300, fault="process.kill")
    line("kill", "recovering", 310, fault="process.kill")
    line("kill", "recovered", 400, fault="process.kill", gone_ns=390)  # until the restart is done
    line("failed", "intent", 0)
    line("failed", "failed", 1)
    line("forever", "injected", 500)
    journal.close()
    spans = {
        "before": (0, 110), "into": (0, 111), "inside": (150, 160), "last": (249, 260), "after": (250, 260),
        "restart": (350, 360), "restarted": (390, 400), "both": (100, 395), "late": (900, 10**15),
    }  # fmt: skip
    write(run, *(record(0, request_id=k, t_start_ns=a, t_end_ns=b) for k, (a, b) in spans.items()))
    assert merge(run).missing == []
    assert {row["request_id"]: row["fault_ids"] for row in table(run.requests)} == {
        "before": [], "into": ["pause"], "inside": ["pause"], "last": ["pause"], "after": [],
        "restart": ["kill"], "restarted": [], "both": ["pause", "kill"], "late": ["forever"],
    }  # fmt: skip


def test_migrated_counts_segments_and_is_null_when_unknown(run: RunDir) -> None:
    write(run, record(1), record(2), record(3))
    assert merge(run).rows == 3
    assert [row["migrated"] for row in table(run.requests)] == [None] * 3

    def start(request_id: str) -> str:
        return json.dumps({"event": "start", "t_mono_ns": 1, "request_id": request_id}) + "\n"

    run.segments("worker-1").write_text(start("id-1") + start("id-2"))
    run.segments("worker-2").write_text(start("id-1") + start("somebody else's"))
    merge(run)
    assert [row["migrated"] for row in table(run.requests)] == [1, 0, None]


def test_row_groups_hold_all_rows(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "ROWS_PER_GROUP", 7)
    monkeypatch.setattr(merging, "GAPS_PER_GROUP", 20)
    records = [record(n, gaps_us=[n] * (n % 9)) for n in range(100)]
    write(run, *records)
    assert merge(run).rows == 100
    assert pq.read_metadata(run.requests).num_row_groups > 10
    assert table(run.requests) == [msgspec.to_builtins(r) for r in records]


def test_merging_again_gives_the_same_and_an_old_run_without_lines_is_kept(run: RunDir) -> None:
    write(run, record(1))
    first = merge(run)
    assert merge(run) == first
    for path in (run.records(0), run.records_done(0)):
        path.unlink()
    assert merge(run) == merging.Merged(rows=1)
    assert len(table(run.requests)) == 1
    assert {p.name for p in run.path.glob(".*")} == set()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(), st.binary())
def test_any_bytes_are_merged(run: RunDir, records: bytes, samples: bytes) -> None:
    run.records(0).write_bytes(records)
    run.records_done(0).write_text("0\n")
    run.samples_jsonl.write_bytes(samples)
    merged = merge(run)
    assert merged.rows == 0
    assert bool(merged.missing) == bool(records or samples)


def test_a_torn_parquet_file_without_its_lines_is_named(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    run.requests.write_bytes(b"PAR1 torn")
    with pytest.raises(InvalidRun, match=r"requests\.parquet: no Parquet file"):
        merge(run)
