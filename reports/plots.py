"""The timeline as BokehJS plots over one shared x axis: series in, script and div elements out.

Colours of axes, grids and text come from CSS variables (`--bk-...`), so the plots follow the page's
light or dark scheme; data colours are mid-tones that read on both. Knows ReportData's Timeline only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bokeh.document import Document
from bokeh.embed import components
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CrosshairTool,
    FactorRange,
    HoverTool,
    LogTicker,
    NumeralTickFormatter,
    Range1d,
    ResetTool,
    Span,
    WheelPanTool,
)
from bokeh.plotting import figure

from reports.data import Band, Timeline
from reports.text import OUTCOME_WORDS, shorten

# Okabe and Ito's palette, moved to mid-tones; distinguishable with the common colour deficiencies.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GOLD, GREY = (
    "#3a7fc1", "#d98a1f", "#2a9d78", "#d1495b", "#a86bb4", "#5bb3d8", "#c9a227", "#8a929c",
)  # fmt: skip
OUTCOME_COLOURS = {
    "ok": "#6b9bc9",
    "shed": GOLD,
    "cancelled": "#9aa3ad",
    "http_error": "#d1495b",
    "transport_error": "#8f2d56",
    "stream_error": "#e4572e",
    "truncated": "#a86bb4",
    "timed_out": "#5a3d8c",
    "corrupted": "#b1002a",
}
QUIET = {"ok": 0.75, "cancelled": 0.5}  # so that what went wrong stands out
STATE_COLOURS = {
    "green": GREEN, "red": RED, "unknown": GREY, "hurt": ORANGE, "silent": PURPLE,
}  # fmt: skip
BAND_COLOURS = {
    "warmup": ("#8a929c", 0.10),
    "phase": ("#7c9cc4", 0.0),
    "fault": ("#d1495b", 0.15),
    "recovery": ("#d98a1f", 0.12),
}

MAX_LANES = 12
LABEL_CHARS = 20
LEFT_PX = 132  # room for the y labels, equal in all plots so that the time axes line up


def figures(timeline: Timeline) -> dict[str, figure]:
    """All plots by name, in reading order; those without data are left out."""
    x_range = Range1d(
        timeline.start_s, max(timeline.end_s, timeline.start_s + 1),
        bounds=(timeline.start_s, max(timeline.end_s, timeline.start_s + 1)), name="time",
    )  # fmt: skip
    cross = Span(dimension="height", line_color=GREY, line_width=1, line_alpha=0.8)
    t_s = [timeline.start_s + (n + 0.5) * timeline.bin_s for n in range(timeline.bins)]
    stalls_s = [None if ms is None else ms / 1e3 for ms in timeline.stall_max_ms]
    made: dict[str, figure] = {}
    if timeline.bands:
        made["events"] = _events(timeline, x_range)
    if timeline.bins:
        made["throughput"] = _area(timeline, x_range, t_s, timeline.tokens_per_s, BLUE, "tokens/s")
        made["ttft"] = _ttft(timeline, x_range, t_s)
        made["stalls"] = _area(timeline, x_range, t_s, stalls_s, ORANGE, "s", steps=True)
        made["outcomes"] = _outcomes(timeline, x_range, t_s)
        made["users"] = _users(timeline, x_range, t_s)
    if timeline.strips:
        made["health"] = _health(timeline, x_range)
    for plot in made.values():
        plot.add_tools(CrosshairTool(overlay=cross))
    if made:
        _label_time_axis(made[list(made)[-1]])
    return made


def embed(timeline: Timeline) -> tuple[str, dict[str, str]]:
    """The script (without its tag) and one div per plot; ("", {}) when there is nothing to draw."""
    made = figures(timeline)
    if not made:
        return "", {}
    document = Document()
    with document.models.freeze():
        for plot in made.values():
            document.add_root(plot)
    script, divs = components(made, wrap_script=False)
    return script, dict(divs)


def _figure(timeline: Timeline, x_range: Range1d, height: int, **options: object) -> figure:
    plot = figure(
        height=height, x_range=x_range, sizing_mode="stretch_width", toolbar_location=None, tools=[],
        min_border_left=LEFT_PX, min_border_right=14, min_border_top=4, min_border_bottom=4,
        output_backend="canvas", **options,
    )  # fmt: skip
    zoom = BoxZoomTool(dimensions="width")
    plot.add_tools(zoom, ResetTool(), WheelPanTool(dimension="width"))
    plot.toolbar.active_drag = zoom
    plot.toolbar.active_scroll = None
    plot.toolbar.logo = None
    plot.xaxis.major_label_text_font_size = "0px"
    plot.xaxis.major_tick_line_color = None
    plot.xaxis.minor_tick_line_color = None
    plot.yaxis.minor_tick_line_color = None
    plot.yaxis.major_tick_line_color = None
    plot.yaxis.axis_line_alpha = 0
    plot.yaxis.major_label_text_font_size = "11px"
    plot.outline_line_color = None
    plot.background_fill_color = None  # the page shows through: nothing to repaint at a change of scheme
    plot.border_fill_color = None
    bands = timeline.bands
    source = ColumnDataSource({
        "x0": [band.start_s for band in bands], "x1": [band.end_s for band in bands],
        "colour": [BAND_COLOURS[band.kind][0] for band in bands],
        "alpha": [BAND_COLOURS[band.kind][1] for band in bands],
    })  # fmt: skip
    plot.vstrip(x0="x0", x1="x1", source=source, fill_color="colour", fill_alpha="alpha", line_color=None,
                level="underlay")  # fmt: skip
    return plot


def _label_time_axis(plot: figure) -> None:
    plot.height += 40
    plot.xaxis.major_label_text_font_size = "11px"
    plot.xaxis.axis_label = "seconds since the load began"
    plot.xaxis.axis_label_text_font_size = "11px"
    plot.xaxis.axis_label_text_font_style = "normal"


def _hover(plot: figure, renderers: list[object], rows: list[tuple[str, str]]) -> None:
    plot.add_tools(
        HoverTool(renderers=renderers, tooltips=rows, mode="vline", point_policy="follow_mouse",
                  attachment="horizontal", line_policy="nearest")
    )  # fmt: skip


def _from_zero(plot: figure, values: Sequence[float | None], floor: float = 1.0) -> None:
    plot.yaxis.ticker.desired_num_ticks = 3
    top = max((v for v in values if v is not None), default=floor)
    plot.y_range = Range1d(0, max(top, floor) * 1.12)
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")


def _holes(values: Sequence[float | None]) -> list[float]:
    """NaN where nothing was measured: a hole in the line, not a zero."""
    return [float("nan") if value is None else float(value) for value in values]


def _padded(values: Sequence[float | None], bins: int) -> list[float | None]:
    return list(values) if values else [None] * bins


def _area(
    timeline: Timeline, x_range: Range1d, t_s: list[float], values: list[float | None], colour: str,
    unit: str, steps: bool = False,
) -> figure:  # fmt: skip
    plot = _figure(timeline, x_range, 112)
    values = _padded(values, len(t_s))
    source = ColumnDataSource({"t": t_s, "v": _holes(values)})
    bars = plot.vbar(x="t", top="v", width=timeline.bin_s, source=source, fill_color=colour,
                     fill_alpha=0.85 if steps else 0.2, line_color=None)  # fmt: skip
    if not steps:
        plot.step(x="t", y="v", source=source, mode="center", line_color=colour, line_width=1.8)
    _hover(plot, [bars], [("at", "@t{0.0} s"), (unit, "@v{0,0.[00]}")])
    _from_zero(plot, values)
    return plot


def _ttft(timeline: Timeline, x_range: Range1d, t_s: list[float]) -> figure:
    """On a logarithmic axis: a wait of seconds must not flatten the milliseconds of every other one."""
    plot = _figure(timeline, x_range, 128, y_axis_type="log")
    p50, p99 = (_padded(v, len(t_s)) for v in (timeline.ttft_p50_ms, timeline.ttft_p99_ms))
    source = ColumnDataSource({"t": t_s, "p50": _holes(p50), "p99": _holes(p99)})
    plot.line(x="t", y="p99", source=source, line_color=ORANGE, line_width=1.5, line_alpha=0.9)
    plot.scatter(x="t", y="p99", source=source, size=4, color=ORANGE, marker="triangle")
    line = plot.line(x="t", y="p50", source=source, line_color=BLUE, line_width=2)
    plot.scatter(x="t", y="p50", source=source, size=3, color=BLUE)
    if timeline.slo_ttft_ms is not None:
        plot.add_layout(Span(location=timeline.slo_ttft_ms, dimension="width", line_color=GREY,
                             line_dash="dashed", line_width=1.2))  # fmt: skip
    _hover(plot, [line], [("at", "@t{0.0} s"), ("p50 ms", "@p50{0,0.[0]}"), ("p99 ms", "@p99{0,0.[0]}")])
    seen = [v for v in (*p50, *p99, timeline.slo_ttft_ms) if v is not None and v > 0] or [1.0, 1000.0]
    plot.y_range = Range1d(min(seen) * 0.7, max(seen) * 1.4)
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
    plot.yaxis.ticker = LogTicker(desired_num_ticks=4)
    return plot


def _outcomes(timeline: Timeline, x_range: Range1d, t_s: list[float]) -> figure:
    plot = _figure(timeline, x_range, 128)
    kinds = list(timeline.outcomes)
    source = ColumnDataSource({"t": t_s, **{kind: timeline.outcomes[kind] for kind in kinds}})
    if kinds:
        bars = plot.vbar_stack(
            kinds, x="t", width=timeline.bin_s * 0.92, source=source, line_color=None,
            color=[OUTCOME_COLOURS.get(kind, GREY) for kind in kinds],
            alpha=[QUIET.get(kind, 1.0) for kind in kinds],
        )  # fmt: skip
        rows = [(OUTCOME_WORDS.get(kind, kind), f"@{kind}") for kind in kinds]
        _hover(plot, [bars[0]], [("at", "@t{0.0} s"), *rows])
    _from_zero(plot, [float(sum(at)) for at in zip(*timeline.outcomes.values(), strict=True)])
    return plot


def _users(timeline: Timeline, x_range: Range1d, t_s: list[float]) -> figure:
    plot = _figure(timeline, x_range, 112)
    flying, hurt = (_padded(v, len(t_s)) for v in (timeline.in_flight, timeline.hurt))
    source = ColumnDataSource({"t": t_s, "flying": _holes(flying), "hurt": _holes(hurt)})
    plot.vbar(x="t", top="hurt", width=timeline.bin_s, source=source, fill_color=RED, fill_alpha=0.5,
              line_color=None)  # fmt: skip
    line = plot.line(x="t", y="flying", source=source, line_color=BLUE, line_width=1.8)
    _hover(plot, [line], [("at", "@t{0.0} s"), ("in flight", "@flying{0}"), ("hurt", "@hurt{0}")])
    _from_zero(plot, [*flying, *hurt])
    return plot


def _events(timeline: Timeline, x_range: Range1d) -> figure:
    """A lane for the load's phases, then one per fault: its bar, the recovery's lighter one, and its name."""
    bands = [band for band in timeline.bands if band.kind in ("fault", "recovery")]
    phases = [band for band in timeline.bands if band.kind == "phase"]
    lanes = _lanes(bands)
    shown = [*(["load"] if phases else []), *dict.fromkeys(lanes.values())] or ["warm-up"]
    plot = _figure(timeline, x_range, 10 + 22 * len(shown), y_range=FactorRange(factors=shown[::-1]))
    plot.ygrid.visible = False
    source = ColumnDataSource({
        "lane": [lanes[b.fault_id] for b in bands], "id": [b.fault_id for b in bands],
        "left": [b.start_s for b in bands],
        "right": [b.end_s for b in bands], "what": [b.kind for b in bands], "label": [b.label for b in bands],
        "colour": [BAND_COLOURS[b.kind][0] for b in bands],
    })  # fmt: skip
    bars = plot.hbar(y="lane", left="left", right="right", height=0.62, source=source, color="colour",
                     alpha=0.9, line_color=None)  # fmt: skip
    plot.add_tools(HoverTool(renderers=[bars], tooltips=[
        ("fault", "@id"), ("stretch", "@what"), ("from", "@left{0.00} s"), ("to", "@right{0.00} s"),
        ("", "@label"),
    ]))  # fmt: skip
    if len(set(lanes.values())) == len(lanes):
        _name_bars(plot, timeline, bands, lanes)
    if phases:
        _phases(plot, phases)
    return plot


def _phases(plot: figure, phases: Sequence[Band]) -> None:
    """The load's phases, each with its name in its bar."""
    source = ColumnDataSource({
        "lane": ["load"] * len(phases), "left": [b.start_s for b in phases], "right": [b.end_s for b in phases],
        "middle": [(b.start_s + b.end_s) / 2 for b in phases], "label": [b.label for b in phases],
        "name": [shorten(b.label.partition(":")[0], LABEL_CHARS) for b in phases],
    })  # fmt: skip
    bars = plot.hbar(y="lane", left="left", right="right", height=0.72, source=source, line_color=GREY,
                     color=BAND_COLOURS["phase"][0], fill_alpha=0.35)  # fmt: skip
    plot.text(x="middle", y="lane", text="name", source=source, text_align="center", text_baseline="middle",
              text_font_size="11px", text_color=GREY)  # fmt: skip
    plot.add_tools(HoverTool(renderers=[bars], tooltips=[
        ("phase", "@label"), ("from", "@left{0.0} s"), ("to", "@right{0.0} s"),
    ]))  # fmt: skip


def _lanes(bands: Sequence[Band]) -> dict[str, str]:
    """A lane for each fault id; repeated steps share one when there would be too many."""
    ids = list(dict.fromkeys(band.fault_id for band in bands))
    names = {one: shorten(one, LABEL_CHARS) for one in ids}
    if len(set(names.values())) > MAX_LANES:
        names = {one: shorten(re.sub(r"-\d+$", "", one), LABEL_CHARS) for one in ids}
    return names if len(set(names.values())) <= MAX_LANES else dict.fromkeys(ids, "faults")


def _name_bars(plot: figure, timeline: Timeline, bands: Sequence[Band], lanes: dict[str, str]) -> None:
    """What was done to whom, beside each lane's last bar: on its right, or on its left near the edge."""
    last = {band.fault_id: band for band in sorted(bands, key=lambda band: band.end_s)}
    first_s = {band.fault_id: band.start_s for band in sorted(bands, key=lambda band: -band.start_s)}
    for align, shown in (
        ("left", [b for b in last.values() if b.end_s <= 0.75 * timeline.end_s]),
        ("right", [b for b in last.values() if b.end_s > 0.75 * timeline.end_s]),
    ):
        source = ColumnDataSource(
            {
                "x": [b.end_s if align == "left" else first_s[b.fault_id] for b in shown],
                "lane": [lanes[b.fault_id] for b in shown],
                "label": [shorten(b.label, 60) for b in shown],
            }
        )
        plot.text(
            x="x", y="lane", text="label", source=source, text_align=align, text_baseline="middle",
            x_offset=8 if align == "left" else -8, text_font_size="11px", text_color=GREY,
        )  # fmt: skip


def _health(timeline: Timeline, x_range: Range1d) -> figure:
    rows = list(dict.fromkeys(shorten(strip.label, LABEL_CHARS) for strip in timeline.strips))
    plot = _figure(timeline, x_range, 14 + 20 * len(rows), y_range=FactorRange(factors=rows[::-1]))
    plot.ygrid.visible = False
    spans = [(shorten(strip.label, LABEL_CHARS), span) for strip in timeline.strips for span in strip.spans]
    source = ColumnDataSource({
        "row": [row for row, _ in spans], "left": [span.start_s for _, span in spans],
        "right": [span.end_s for _, span in spans], "state": [span.state for _, span in spans],
        "text": [span.text for _, span in spans],
        "colour": [STATE_COLOURS.get(span.state, GREY) for _, span in spans],
        "hatch": ["/" if span.state == "red" else " " for _, span in spans],
    })  # fmt: skip
    bars = plot.hbar(y="row", left="left", right="right", height=0.66, source=source, color="colour",
                     line_color=None, hatch_pattern="hatch", hatch_color="white", hatch_alpha=0.55,
                     hatch_scale=7, hatch_weight=1)  # fmt: skip
    plot.add_tools(HoverTool(renderers=[bars], tooltips=[
        ("", "@row"), ("state", "@state @text"), ("from", "@left{0.0} s"), ("to", "@right{0.0} s"),
    ]))  # fmt: skip
    return plot
