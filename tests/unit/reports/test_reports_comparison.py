"""What a comparison's report says, draws and hands to CI."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from fixtures import report_data

from reports import forest, junit, markdown
from reports.comparison_text import change, says
from reports.data import ComparedMetric, Invariant, ReportData, Run, Verdict


def row(status: str = "pass", delta: float = 0.1, half: float = 0.02, **more: Any) -> ComparedMetric:
    fields: dict[str, Any] = {
        "metric": "ttft_p50_ms", "window": "steady", "unit": "ms", "status": status, "baseline": 50.0,
        "candidate": 50 * (1 + delta), "delta_ratio": delta, "ci_low": delta - half, "ci_high": delta + half,
        "p_regression": 0.0002, "mde_ratio": 0.06, "margin_ratio": 0.1,
    }  # fmt: skip
    return ComparedMetric(**(fields | more))


def test_what_is_worse_comes_first_with_how_much_and_how_sure() -> None:
    said = says([row("pass", 0.0), row("regression")], 5, "1.4.2", "1.6.1")
    assert said[0] == (
        "ttft_p50_ms in steady is worse with 1.6.1 than with 1.4.2: +10.0% (95% +8.0% to +12.0%, p 0.0002), "
        "50 ms before and 55 ms now, over 5 pairs of runs."
    )
    assert "would have been named with 90% probability" in said[-1] and "6%" in said[-1]
    assert not any("no worse" in one for one in said)


def test_what_is_open_says_what_it_would_take() -> None:
    said = says([row("inconclusive", 0.05, more_pairs=4)], 5, "a", "b")
    assert (
        said[0]
        == "Undecided over 5 pairs of runs: ttft_p50_ms in steady. It would take about 4 more pairs to decide."
    )


def test_figures_that_mean_nothing_are_cut() -> None:
    said = says([row("inconclusive", 0.05, more_pairs=2311, mde_ratio=59_204.4)], 3, "a", "b")
    assert "more than 50 more pairs" in said[0] and "2311" not in said[0]
    assert "over 300%" in said[1] and "5,920,440" not in said[1]


def test_no_worse_is_said_of_what_was_judged_only() -> None:
    rows = [row("pass", 0.0), row("observe", 0.3), row("absent", delta_ratio=None)]
    assert says(rows, 3, "a", "b")[0] == "b is no worse than a in any of 1 metrics, over 3 pairs of runs."
    assert says([row("observe")], 3, "a", "b") == ["Nothing could be judged, over 3 pairs of runs."]


def test_an_unknown_change_is_not_a_number() -> None:
    assert change(row(delta_ratio=None, note="in neither arm")) == "in neither arm"
    assert change(row(ci_low=None)) == "+10.0%"


def test_right_is_worse_whichever_way_a_metric_counts() -> None:
    slower = row(delta=0.1)
    fewer = row(delta=-0.1, metric="output_tokens_per_s", higher_is_better=True)
    drawn = forest.forest([slower, fewer, row(delta=-0.1)])
    assert drawn is not None
    assert drawn.marks[0].at > drawn.zero and drawn.marks[1].at > drawn.zero > drawn.marks[2].at
    for mark in drawn.marks:
        assert mark.low <= mark.at <= mark.high and mark.margin is not None and mark.margin > drawn.zero
    assert forest.forest([row(ci_low=None)]) is None and forest.forest([]) is None


@pytest.mark.parametrize("delta", [-0.999, 5.0, 1e6])
def test_huge_changes_stay_inside_the_plot(delta: float) -> None:
    drawn = forest.forest([row(delta=delta, half=abs(delta))])
    assert drawn is not None
    assert all(
        forest.LEFT <= x <= forest.WIDTH - forest.RIGHT for m in drawn.marks for x in (m.low, m.at, m.high)
    )


def test_dots_join_both_runs_of_a_pair_and_skip_what_is_missing() -> None:
    (drawn,) = forest.dots([row(a_values=[50.0, None, 60.0], b_values=[55.0, 1.0, float("inf")]), row()])
    assert len(drawn.pairs) == 1 and drawn.pairs[0][0] < drawn.pairs[0][1]
    (level,) = forest.dots([row(a_values=[1.0, 1.0], b_values=[1.0, 1.0])])
    assert len(level.pairs) == 2


OUTCOMES = {
    "pass": None, "improvement": None, "regression": "failure", "not_recovered": "failure", "inconclusive": "skipped",
    "observe": "skipped", "absent": "skipped", "invalid": "error", "never heard of": "error",
}  # fmt: skip


@pytest.mark.parametrize("status", OUTCOMES)
def test_junit_never_passes_what_is_not_known_to_be_good(status: str) -> None:
    data = report_data.experiment()
    assert data.comparison is not None
    import msgspec

    data = msgspec.structs.replace(
        data, comparison=msgspec.structs.replace(data.comparison, metrics=[row(status)])
    )
    suites = ElementTree.fromstring(junit.render(data))
    (case,) = [one for one in suites.iter("testcase") if one.get("name") == "ttft_p50_ms in steady"]
    bad = [child.tag for child in case if child.tag != "system-out"]
    assert bad == ([OUTCOMES[status]] if OUTCOMES[status] else [])


def test_junit_drops_what_xml_cannot_hold() -> None:
    data = ReportData(
        verdict=Verdict(status="fail", exit_code=1, why="a\x00b\ud800c]]>&<"), run=Run(run_id="\x1b", scenario='"'),
        invariants=[Invariant(name="x", state="broken", request_ids=["\x01id"])],
    )  # fmt: skip
    suites = ElementTree.fromstring(junit.render(data))
    failure = suites.find("testsuite/testcase/failure")
    assert failure is not None and "a?b?c]]>&<" in failure.get("message", "")


def test_the_comment_says_all_that_matters() -> None:
    shown = markdown.render(report_data.experiment())
    for piece in (
        "REGRESSION",
        "1.6.1",
        "1.4.2",
        "| `ttft_p50_ms` |",
        "❌ worse",
        "Faults in both arms",
        "pair 4",
    ):
        assert piece in shown
    assert "Requests:" not in shown  # of a single run
