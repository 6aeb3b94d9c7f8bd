"""A report stays small and readable whatever the length of the run; numbers read as people write them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from fixtures import report_data
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import html, markdown, plots, text, timeline
from reports.data import MetricRow, Span, Strip, Timeline


def test_the_longest_run_stays_below_the_limit() -> None:
    """Days of load, 500 faults, flapping health: everything at its cap."""
    n = timeline.MAX_BINS
    values: list[float | None] = [1234.567 + k for k in range(n)]
    full = report_data.full()
    spans = [
        Span(k * 60.0, k * 60.0 + 30, "red" if k % 2 else "green") for k in range(timeline.MAX_SPANS // 20)
    ]
    line = Timeline(
        bin_s=72, tokens_per_s=values, ttft_p50_ms=values, ttft_p99_ms=values, stall_max_ms=values, in_flight=values,
        hurt=values, outcomes={kind: [k % 7 for k in range(n)] for kind in plots.OUTCOME_COLOURS},
        strips=[Strip(label=f"worker-{k}", spans=spans) for k in range(20)],
        bands=[msgspec.structs.replace(band, fault_id=f"kill-{k}") for k in range(500) for band in full.timeline.bands[1:3]],
    )  # fmt: skip
    faults = [msgspec.structs.replace(full.faults[0], fault_id=f"kill-{k}") for k in range(500)]
    windows = [f"fault:kill-{k}" for k in range(500)]
    rows = [MetricRow(name="x", unit="ms", values=dict.fromkeys(windows, 1.0)) for _ in range(40)]
    data = msgspec.structs.replace(
        full, timeline=line, faults=faults, losses=full.losses * 250, warnings=["w" * 100] * 10_000,
        metrics=msgspec.structs.replace(full.metrics, windows=windows, rows=rows), scenario_yaml="x" * 10**6,
    )  # fmt: skip
    assert len(html.render(data).encode()) < html.MAX_BYTES
    assert "and 450 more" in html.render(data)
    assert len(markdown.render(data)) <= markdown.MAX_CHARS
    assert set(plots._lanes(line.bands).values()) == {"kill"}


def test_too_many_different_lanes_become_one() -> None:
    band = report_data.full().timeline.bands[1]
    bands = [msgspec.structs.replace(band, fault_id=chr(97 + k)) for k in range(20)]
    assert set(plots._lanes(bands).values()) == {"faults"}


def test_longer_bins_keep_peaks_and_sums_and_holes() -> None:
    values = np.array([1.0, 5.0, np.nan, np.nan, 2.0])
    assert timeline._binned(values, 2, np.nanmax) == [5.0, None, 2.0]
    assert timeline._binned(values, 1, np.nanmax) == [1.0, 5.0, None, None, 2.0]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 5), st.sampled_from(["green", "red", "unknown"])), min_size=1, max_size=300
    )
)
def test_thinning_keeps_every_red_stretch(steps: list[tuple[float, str]]) -> None:
    spans, at = [], 0.0
    for length, state in steps:
        spans.append(Span(at, at + length, state))
        at += length
    thinned = timeline.thin(spans, 20)
    assert len(thinned) <= max(20, 0) or len(spans) <= 20
    for span in spans:
        if span.state == "red":
            middle = (span.start_s + span.end_s) / 2
            assert any(
                one.start_s <= middle + 1e-6 and middle <= one.end_s + 1e-6 and one.state == "red"
                for one in thinned
            )


@pytest.mark.parametrize("value,shown", [
    (None, "unknown"), (float("nan"), "unknown"), (0, "0"), (12, "12"), (1234.5, "1,234"), (98.44, "98.4"),
    (0.001234, "0.00123"), (-3.14159, "-3.14"), (math.inf, "infinite"), (1e6, "1,000,000"),
])  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize("value,unit,shown", [
    (0.00136, "ratio", "0.136%"), (3.5, "s", "3.50 s"), (120, "s", "120.0 s"), (240.13, "ms", "240 ms"),
    (12, "count", "12"), (None, "ms", "unknown"), (None, "ratio", "unknown"), (None, "s", "unknown"),
])  # fmt: skip
def test_quantities_carry_their_unit(value: float | None, unit: str, shown: str) -> None:
    assert text.quantity(value, unit) == shown


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_can_be_shown(value: float) -> None:
    assert text.number(value) and text.seconds(value) and text.percent(value)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_one_inert_line_of_markdown(value: str) -> None:
    assert "\n" not in markdown.plain(value) and "<" not in markdown.plain(value)
    inside = markdown.code(value)[1:-1]
    assert "`" not in inside and "\n" not in inside


def test_worse_needs_a_base_and_a_direction() -> None:
    def row(steady: float | None, fault: float | None, higher: bool = False) -> MetricRow:
        return MetricRow(
            name="m", unit="ms", higher_is_better=higher, values={"steady": steady, "fault:x": fault}
        )

    assert html.worse(row(100, 150), "fault:x")
    assert not html.worse(row(100, 149), "fault:x")
    assert not html.worse(row(None, 1e9), "fault:x")
    assert not html.worse(row(100, None), "fault:x")
    assert html.worse(row(100, 50, higher=True), "fault:x") and not html.worse(
        row(100, 500, higher=True), "fault:x"
    )
    assert not html.worse(row(0, 0), "fault:x")


def test_bokeh_js_cannot_end_its_script_element() -> None:
    assert "</script" not in html.bokeh_js() and "<!--" not in html.bokeh_js()
