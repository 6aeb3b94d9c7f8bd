"""From a run directory to ReportData: what the analysis knows arrives, and nothing secret does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from fixtures import make_run

from harness.core.clock import NS
from harness.stats import analyse
from reports import RENDERERS, html, jsonout, markdown, model, write
from reports.data import ReportData


def report(path: Path, parts: make_run.Parts) -> ReportData:
    run = make_run.write_run(path, parts)
    return model.build(run, analyse.analyse(run))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportData, make_run.Truth]:
    run, truth = make_run.make_run(tmp_path_factory.mktemp("good"))
    return model.build(run, analyse.analyse(run)), truth


def test_a_good_run_says_what_held(good: tuple[ReportData, make_run.Truth]) -> None:
    data, truth = good
    assert (data.verdict.status, data.verdict.exit_code) == ("pass", 0)
    assert f"{truth.ok} streams came back complete and exact" in data.verdict.why
    assert "both faults were proven and undone" in data.verdict.why
    assert (data.counts.sent, data.counts.lost) == (truth.sent, 0)
    assert data.run.sut_version == "1.6.1"


def test_each_fault_has_a_card_with_its_ledger(good: tuple[ReportData, make_run.Truth]) -> None:
    data, truth = good
    kill, pause = data.faults
    assert (kill.fault_id, pause.fault_id) == ("kill", "pause")
    assert kill.in_flight == len(truth.in_flight_at_kill) == sum(fate.count for fate in kill.fates)
    assert {one for fate in kill.fates for one in fate.request_ids} == truth.in_flight_at_kill
    assert "SIGKILL" in kill.what and "2 s" in kill.what and "8 s" in pause.what
    assert [t.effective_s for t in kill.targets] == [pytest.approx(20.0)]
    assert [proof.ok for proof in kill.targets[0].proofs] == [True, True]
    assert pause.silent_s is not None and pause.silent_s >= truth.silent_s


def test_cancellations_by_mode_and_stage_beside_the_counters(good: tuple[ReportData, make_run.Truth]) -> None:
    (row,) = good[0].cancels
    assert (row.mode, row.stage, row.unaborted, row.wasted_max) == ("rst", "later", 0, 1)
    assert row.sent == good[0].counts.cancelled and row.abort_p50_ms == pytest.approx(1)
    assert good[0].cancel_tellers[0].name == "cancelled by our clients"


def test_losses_are_those_of_the_analysis(good: tuple[ReportData, make_run.Truth]) -> None:
    loss = next(one for one in good[0].losses if one.fault_id == "pause")
    assert loss.requests_hurt and loss.outage_s and loss.budget_ratio == pytest.approx(loss.outage_s / 2592)


def test_the_timeline_shows_windows_stalls_and_silence(good: tuple[ReportData, make_run.Truth]) -> None:
    timeline = good[0].timeline
    assert timeline is not None
    assert [(b.kind, b.fault_id) for b in timeline.bands][:3] == [
        ("warmup", ""), ("fault", "kill"), ("recovery", "kill"),
    ]  # fmt: skip
    assert timeline.stall_max_ms[44] == pytest.approx(good[1].stall_max_ms, abs=1)
    assert timeline.stall_max_ms[30] is None
    assert sum(timeline.outcomes["ok"]) == good[1].ok and "shed" not in timeline.outcomes
    silent = next(strip for strip in timeline.strips if strip.label == "silent")
    seconds = sum(span.end_s - span.start_s for span in silent.spans if span.start_s > 40)
    assert seconds == pytest.approx(good[0].faults[1].silent_s, abs=0.5)


def test_metrics_know_where_they_are_not_defined(good: tuple[ReportData, make_run.Truth]) -> None:
    metrics = good[0].metrics
    assert (metrics.windows[0], metrics.windows[-1]) == ("steady", "all")
    detect = next(row for row in metrics.rows if row.name == "detect_s")
    assert set(detect.values) == {"fault:kill", "fault:pause"}


def test_a_cut_run_names_the_requests(tmp_path: Path) -> None:
    run, truth = make_run.make_run(tmp_path, migration_limit=0)
    data = model.build(run, analyse.analyse(run))
    assert data.verdict.exit_code == 1 and "stream_error" in data.verdict.why
    short = next(one for one in data.violations if one.name == "short_stream")
    assert short.count == truth.failed and set(short.request_ids) <= truth.in_flight_at_kill
    assert [fate.fate for fate in data.faults[0].fates if "cut" in fate.fate] == ["cut"]


def test_a_lie_about_usage_is_named_as_such(tmp_path: Path) -> None:
    run, _ = make_run.make_run(tmp_path, usage_lie=True)
    assert model.build(run, analyse.analyse(run)).verdict.why.startswith("usage_prompt_mismatch")


def test_no_requests_at_all_is_invalid_and_renders(tmp_path: Path) -> None:
    data = report(tmp_path, replace(make_run.plain_parts([]), probes=[], samples=[]))
    assert data.verdict.status == "invalid"
    assert data.timeline is None
    for render in RENDERERS.values():
        assert "INVALID" in render(data).upper()


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(6)])
    parts.manifest = {"interrupted": True}
    data = report(tmp_path, parts)
    assert (data.verdict.exit_code, data.verdict.why) == (130, "interrupted")


def test_a_planned_fault_that_never_began_has_a_card(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(n) for n in range(60)], faults=make_run.SCENARIO["faults"])
    parts.journal = make_run.fault_lines(1, "kill", "worker-1", 20, 22, 23, 23.2)
    data = report(tmp_path, parts)
    assert [one.fault_id for one in data.faults] == ["kill", "pause"]
    assert data.faults[1].targets == [] and data.faults[1].detect_s is None
    assert data.verdict.status == "invalid"
    assert "never injected" in RENDERERS["html"](data)


def test_a_failed_fault_shows_its_error(tmp_path: Path) -> None:
    parts = make_run.plain_parts(
        [make_run.record(n) for n in range(60)], faults=make_run.SCENARIO["faults"][:1]
    )
    parts.journal = [
        make_run.line(
            1, 20, "intent", undo={"ops": []}, evidence={"requested_ns": 20 * NS, "identity": [7, 8]}
        ),
        make_run.line(2, 20.1, "failed", error="worker-1 (pid 7) was gone at injection"),
    ]
    target = report(tmp_path, parts).faults[0].targets[0]
    assert target.error == "worker-1 (pid 7) was gone at injection" and target.identity == "pid 7"
    assert target.verified is False and target.recovered is not True


def test_secrets_of_journal_scenario_and_command_stay_out(tmp_path: Path) -> None:
    parts = make_run.plain_parts(
        [make_run.record(n) for n in range(60)], faults=make_run.SCENARIO["faults"][:1]
    )
    parts.scenario["sut"] = {"dynamo": "1.6.1", "env": {"HF_TOKEN": "hush-1", "DYN_LOG": "debug"}}
    parts.manifest = {
        "command": ["/opt/x/squall", "run", "q.yaml", "--set", "sut.env.API_KEY=hush-2", "--seed", "1"]
    }
    parts.journal = make_run.fault_lines(1, "kill", "worker-1", 20, 22, 23, 23.2)
    parts.journal[0].undo = {"ops": [{"op": "spawn", "env": {"A": "hush-3"}, "control_token": "hush-4"}]}
    data = report(tmp_path, parts)
    for render in RENDERERS.values():
        shown = render(data)
        assert "hush-" not in shown
    assert data.command.startswith("squall run q.yaml --set") and "DYN_LOG: debug" in data.scenario_yaml
    assert "spawn" in str(data.faults[0].targets[0].undo)


def test_the_command_always_has_the_seed(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(6)], seed=7)
    parts.manifest = {"command": ["squall", "run", "configs/scenarios/my file.yaml"]}
    assert report(tmp_path, parts).command == "squall run 'configs/scenarios/my file.yaml' --seed 7"


def test_unknown_generator_figures_are_unknown(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(6)])
    parts.manifest = {"generator": None}
    rows = {row.name: row for row in report(tmp_path, parts).quality}
    assert rows["hub_lag_p99_ms"].value is None and rows["hub_lag_p99_ms"].ok is None


def test_each_process_of_the_generator_is_a_row_and_silence_is_unknown(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(6)])
    told = {
        "worker_index": 0,
        "host": "a",
        "sent": 5,
        "rows": 5,
        "hub_lag_p99_ms": 1.5,
        "clock_error_ns": 2_000_000,
    }
    parts.manifest = {
        "generator": {"hub_lag_p99_ms": 1.5, "processes": 2, "workers": [told, {"worker_index": 1}]}
    }
    data = report(tmp_path, parts)
    first, second = data.generators
    assert (first.name, first.rows, first.hub_lag_p99_ms, first.clock_error_ms) == ("worker 0", 5, 1.5, 2)
    assert (second.name, second.rows, second.hub_lag_p99_ms) == ("worker 1", None, None)
    assert "workers" not in {row.name for row in data.quality}
    assert "| worker 1 |" in markdown.render(data)
    parts.manifest = {"generator": {"hub_lag_p99_ms": 1.5, "processes": 1}}
    assert report(tmp_path, parts).generators == []


def test_write_all_writes_the_four_files(tmp_path: Path) -> None:
    run = make_run.write_run(tmp_path, make_run.plain_parts([make_run.record(n) for n in range(30)]))
    data = model.build(run, analyse.analyse(run))
    assert write.write_all(run, data) == run.report_html
    assert {path.name for path in run.report.iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "junit.xml",
    }
    assert jsonout.parse(run.report_json.read_bytes()).verdict == data.verdict


def test_phases_are_shown_on_the_timeline_and_in_the_tables(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(n) for n in range(6, 60)])
    load = {**parts.scenario["load"], "phases": [{"name": "standard", "duration_s": 40},
                                                 {"name": "overflow", "duration_s": 20, "users_ratio": 3}]}  # fmt: skip
    parts.scenario = {**parts.scenario, "load": load}
    data = report(tmp_path, parts)
    assert data.timeline is not None
    bands = [(b.label, b.start_s, b.end_s) for b in data.timeline.bands if b.kind == "phase"]
    assert bands == [("standard: users x 1", 5, 45), ("overflow: users x 3", 45, 65)]
    assert {"phase:standard", "phase:overflow"} <= set(data.metrics.windows)
    page = html.render(data)
    assert "overflow: users x 3" in page and "phase:overflow" in page


def test_what_was_asked_for_and_sent_is_shown(tmp_path: Path) -> None:
    parts = make_run.plain_parts([make_run.record(n, user=n % 24) for n in range(6, 60)])
    data = report(tmp_path, parts)
    [row] = data.sent
    assert (row.loop, row.window, row.asked, row.ratio) == ("closed", "all", 24, 1)
    assert "Load asked for and sent" in html.render(data) and "Load asked for and sent" in markdown.render(
        data
    )
    assert "Load asked for and sent" not in html.render(msgspec.structs.replace(data, sent=[]))
