"""`known` excuses what it says, for as long as it says, and no more."""

from __future__ import annotations

import pytest
from make_run import SCENARIO, fault_lines, plain_parts, record, write_run

from harness.core.clock import NS
from harness.stats import analyse

GOOD = [record(n) for n in range(5, 65)]


def bad(t, name="bad", violation="usage_prompt_mismatch", **more):
    return record(t, request_id=name, outcome="corrupted", violations=[violation], **more)


def entry(violation="usage_prompt_mismatch", expires="2026-01-01", **more):
    return {"violation": violation, "reason": "seen before", "expires": expires, **more}


def judge(path, rows, known, started="2026-01-01T23:59:59Z", fault=False):
    parts = plain_parts([*GOOD, *rows], known=known, faults=[SCENARIO["faults"][1]] if fault else [])
    parts.manifest = {"started_at": started}
    if fault:
        parts.journal = fault_lines(1, "pause", "worker-1", 20, 25, 25, 26)
    return analyse.analyse(write_run(path / "run", parts))


def test_a_known_violation_passes_and_is_counted(tmp_path):
    found = judge(tmp_path, [bad(10)], [entry()])
    assert found.exit_code == 0
    assert found.verdict["known"][0]["count"] == 1
    assert found.warnings == ()


def test_another_violation_of_the_same_request_still_fails(tmp_path):
    row = bad(10)
    row.violations.append("lost_tokens")
    assert judge(tmp_path, [row], [entry()]).exit_code == 1


@pytest.mark.parametrize(("started", "code"), [
    ("2026-01-01T23:59:59Z", 0), ("2026-01-02T00:00:00Z", 1), ("2026-01-02T01:00:00+02:00", 0),
    ("2025-06-01T00:00:00.000Z", 0),
])  # fmt: skip
def test_the_last_day_counts_by_the_day_the_run_started_in_utc(tmp_path, started, code):
    found = judge(tmp_path, [bad(10)], [entry()], started)
    assert found.exit_code == code
    if code:
        assert "expired" in found.warnings[0]


def test_one_that_matches_nothing_is_a_warning(tmp_path):
    found = judge(tmp_path, [], [entry()])
    assert found.exit_code == 0
    assert "matched nothing" in found.warnings[0]


def test_max_count(tmp_path):
    rows = [bad(10 + n, f"bad{n}") for n in range(4)]
    assert judge(tmp_path, rows, [entry(max_count=4)]).exit_code == 0
    found = judge(tmp_path / "b", rows, [entry(max_count=3)])
    assert found.exit_code == 1
    (one,) = [x for x in found.invariants if x.name == "usage_prompt_mismatch"]
    assert (one.count, one.request_ids) == (1, ("bad3",))


def test_max_count_of_tokens(tmp_path):
    rows = [bad(10 + n, f"bad{n}", "lost_tokens", lost_tokens=2) for n in range(3)]
    found = judge(tmp_path, rows, [entry("lost_tokens", max_count=3)])
    (one,) = [x for x in found.invariants if x.name == "lost_tokens"]
    assert (one.count, one.request_ids) == (3, ("bad1", "bad2"))


def test_the_window_of_a_known_entry(tmp_path):
    inside, outside = bad(21, "in"), bad(40, "out")
    found = judge(tmp_path, [inside, outside], [entry(window="fault:pause")], fault=True)
    (one,) = [x for x in found.invariants if x.name == "usage_prompt_mismatch"]
    assert one.request_ids == ("out",)
    assert judge(tmp_path / "b", [inside], [entry(window="fault:pause")], fault=True).exit_code == 0


def test_two_entries_share_the_work(tmp_path):
    rows = [bad(10 + n, f"bad{n}") for n in range(3)]
    found = judge(tmp_path, rows, [entry(max_count=1), entry(max_count=2)])
    assert found.exit_code == 0
    assert [one["count"] for one in found.verdict["known"]] == [1, 2]


def test_all_includes_the_warm_up(tmp_path):
    assert judge(tmp_path, [bad(1)], [entry()]).exit_code == 0


def test_streams_that_we_gave_up_ourselves_blame_nobody(tmp_path):
    cut = record(30, outcome="timed_out", t_end_ns=40 * NS, finish_reason=None,
                 violations=["short_stream", "missing_finish", "missing_done"])  # fmt: skip
    early = record(10, outcome="timed_out", t_end_ns=20 * NS, finish_reason=None, violations=["short_stream"])
    parts = plain_parts([record(n) for n in range(60)] + [cut])
    parts.manifest = {**parts.manifest, "cut_short_ns": 39 * NS}
    found = {i.name: i for i in analyse.analyse(write_run(tmp_path / "ours", parts)).invariants}
    assert all(
        found[name].ok for name in ("short_stream", "missing_finish", "missing_done", "streams_complete")
    )
    parts.records.append(early)  # this one ended before we cut anything short
    found = {i.name: i for i in analyse.analyse(write_run(tmp_path / "theirs", parts)).invariants}
    assert found["short_stream"].count == 1
    assert found["streams_complete"].ok is False
