"""A run directory with something missing, torn or malformed is invalid, with a reason; never a pass."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_run import make_run, plain_parts, record, request_schema, sut_tree, write_requests, write_run

from harness.core.errors import InvalidRun
from harness.core.rundir import RunDir
from harness.stats import analyse, load


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("whole") / "run")[0]


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def judged(run, said):
    found = analyse.analyse(run)
    assert found.status == "invalid", found.verdict["reasons"]
    assert found.exit_code == 4
    assert any(said in reason for reason in found.invalid_reasons), found.invalid_reasons
    return found


def test_the_whole_run_is_a_pass(run):
    assert analyse.analyse(run).exit_code == 0


@pytest.mark.parametrize(
    "name", ["requests.parquet", "samples.parquet", "probes.parquet", "sut.json", "journal.jsonl"]
)
def test_a_missing_file_is_named(run, name):
    (run.path / name).unlink()
    judged(run, name)


@pytest.mark.parametrize("name", ["requests", "samples", "probes"])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(run, name, keep):
    path = getattr(run, name)
    data = path.read_bytes()
    path.write_bytes(data[: round(keep * len(data)) if keep < 1 else keep])
    judged(run, f"{name}.parquet can't be read")


def test_a_corrupted_page_is_named(run):
    data = bytearray(run.requests.read_bytes())
    data[40:4000] = bytes(len(data[40:4000]))
    run.requests.write_bytes(bytes(data))
    judged(run, "requests.parquet")


@pytest.mark.parametrize("name", ["manifest.json", "scenario.yaml"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_without_manifest_or_scenario_nothing_can_be_read(run, name, content):
    path = run.path / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InvalidRun, match=name.replace(".", r"\.")):
        analyse.analyse(run)


def test_a_manifest_of_another_schema_is_refused(run):
    run.manifest.write_text(json.dumps({"schema": 2}))
    with pytest.raises(InvalidRun, match="schema 1"):
        analyse.analyse(run)


def test_a_torn_last_line_of_the_journal_is_let_pass(run):
    with run.journal.open("ab") as out:
        out.write(b'{"seq": 11, "t_ns": 5')
    assert analyse.analyse(run).exit_code == 0


def test_a_torn_line_inside_the_journal_is_named(run):
    lines = run.journal.read_bytes().split(b"\n")
    lines.insert(10, lines[0][:20])
    run.journal.write_bytes(b"\n".join(lines))
    judged(run, "journal.jsonl: line 11 is malformed")


def test_lines_in_any_order_and_without_what_nobody_needs(run):
    found = [json.loads(line) for line in run.journal.read_text().splitlines()]
    for line in found:
        line.pop("wall_ns")
        line.pop("undo")
    run.journal.write_text("".join(json.dumps(line) + "\n" for line in reversed(found)))
    assert analyse.analyse(run).exit_code == 0


def test_rows_that_are_missing_are_noticed(run):
    run.records_done(0).write_text("700\n")
    run.records_done(1).write_text("300\n")
    judged(run, "but 1000 were written")


def test_a_done_file_without_a_number(run):
    run.records_done(0).write_text("?")
    judged(run, "holds no row count")


def test_a_missing_column_is_named(run):
    table = pq.read_table(run.requests).drop_columns(["gaps_us"])
    pq.write_table(table, run.requests)
    judged(run, "lacks the column gaps_us")


def test_a_column_of_another_type_is_named(run):
    table = pq.read_table(run.requests)
    at = table.column_names.index("t_end_ns")
    pq.write_table(table.set_column(at, "t_end_ns", pa.array(["x"] * table.num_rows)), run.requests)
    judged(run, "column t_end_ns is string")


def test_wider_and_narrower_integers_are_read_all_the_same(run):
    table = pq.read_table(run.requests)
    for name, kind in (
        ("gaps_us", pa.list_(pa.int64())),
        ("status", pa.int16()),
        ("outcome", pa.dictionary(pa.int8(), pa.string())),
    ):
        table = table.set_column(table.column_names.index(name), name, table.column(name).cast(kind))
    pq.write_table(table, run.requests)
    assert analyse.analyse(run).exit_code == 0


def test_an_unknown_outcome_is_named(tmp_path):
    run = write_run(tmp_path / "r", plain_parts([record(10), record(11, outcome="great")]))
    found = analyse.analyse(run)
    assert found.exit_code != 0
    assert any("closed list" in reason for reason in found.invalid_reasons)


def test_requests_that_end_before_they_start(tmp_path):
    run = write_run(
        tmp_path / "r",
        plain_parts([record(n) for n in range(5, 65)] + [record(10, request_id="x", t_end_ns=0)]),
    )
    judged(run, "end before they start")


def test_negative_gaps_and_gaps_without_a_first_token(tmp_path):
    rows = [
        record(10, gaps_us=[-5, 20_000]),
        record(11, t_first_ns=None, gaps_us=[20_000], t_end_ns=12 * 10**9),
    ]
    found = analyse.analyse(write_run(tmp_path / "r", plain_parts(rows)))
    assert found.exit_code == 4
    for said in ("negative gaps", "without t_first_ns"):
        assert said in str(found.invalid_reasons)


def test_a_load_that_never_started(tmp_path):
    parts = plain_parts([record(10)])
    parts.manifest = {"anchor": None}
    judged(write_run(tmp_path / "r", parts), "no anchor")


def test_no_requests_at_all(tmp_path):
    judged(write_run(tmp_path / "r", plain_parts([])), "no request was recorded")


def test_a_minimal_sut_file_is_enough(tmp_path):
    parts = plain_parts([record(n) for n in range(5, 65)])
    parts.sut = {
        "schema": 1,
        "urls": ["http://127.0.0.1:1"],
        "processes": [{"name": "worker-1"}, {"name": "frontend-1"}],
    }
    run = write_run(tmp_path / "r", parts)
    data = load.read(run)
    assert data.sut.of_role("worker") == ("worker-1",)
    assert data.sut.oracle == "witness"
    assert analyse.judge(data).exit_code == 0


def test_the_mockers_oracle_counts_only(tmp_path):
    parts = plain_parts([record(10)])
    parts.scenario["sut"] = {**parts.scenario["sut"], "engine": "mocker"}
    parts.sut = {k: v for k, v in sut_tree().items() if k != "oracle"}
    assert load.read(write_run(tmp_path / "r", parts)).sut.oracle == "count"


def test_gaps_come_back_in_the_order_of_start(tmp_path):
    run = write_run(tmp_path / "r", plain_parts([record(10)]))
    write_requests(
        run.requests, [record(12, gaps_us=[3, 4]), record(10, gaps_us=[]), record(11, gaps_us=[1, 2])]
    )
    streams = load.read(run).requests
    assert streams.gaps_us.tolist() == [1, 2, 3, 4]
    assert streams.offsets.tolist() == [0, 0, 2, 4]
    assert [list(g.end_ns) for g in streams.chunks()] == [
        [11_050_001_000, 11_050_003_000, 12_050_003_000, 12_050_007_000]
    ]


def test_null_lists_are_empty(tmp_path):
    run = write_run(tmp_path / "r", plain_parts([record(10)]))
    rows = [
        {f.name: None for f in request_schema()}
        | {"request_id": "a", "t_due_ns": 1, "t_start_ns": 1, "t_end_ns": 2, "outcome": "shed"}
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=request_schema()), run.requests)
    streams = load.read(run).requests
    assert streams.offsets.tolist() == [0, 0]
    assert not len(streams.violations)
