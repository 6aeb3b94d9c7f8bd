"""The comparison's part of the Markdown: what it says, a table of what was judged, faults in both arms."""

from __future__ import annotations

from reports import text
from reports.comparison_text import more_pairs, named_from
from reports.data import ComparedFault, ComparedMetric, Comparison, ReportData
from reports.markdown_text import code, plain, table

MARKS = {
    "pass": "✅ pass", "improvement": "✅ better", "regression": "❌ worse", "not_recovered": "❌ never recovered",
    "inconclusive": "⚠️ open",
}  # fmt: skip
MAX_DROPPED = 10


def sections(data: ReportData) -> list[str]:
    """Sections in reading order; none for a single run."""
    one = data.comparison
    if one is None:
        return []
    return [_says(one), _metrics(one), _faults(one), _dropped(one)]


def _says(one: Comparison) -> str:
    return "\n".join([
        f"**{plain(one.candidate)}** (B) against **{plain(one.baseline)}** (A), {one.pairs_used} pairs, "
        f"looks at {', '.join(map(str, one.looks)) or text.UNKNOWN}.",
        "", *(f"- {plain(line)}" for line in one.says),
    ])  # fmt: skip


def _metrics(one: Comparison) -> str:
    if not one.metrics:
        return ""
    head = ["Metric", "Window", ">A", ">B", ">Change", ">95%", ">Margin", ">Would be named from", "Verdict"]
    return "### Comparison\n\n" + table(head, (_row(row) for row in one.metrics))


def _row(row: ComparedMetric) -> list[str]:
    known = row.ci_low is not None and row.ci_high is not None
    interval = f"{text.signed_percent(row.ci_low)} to {text.signed_percent(row.ci_high)}" if known else "–"
    more = f", {more_pairs(row.more_pairs)}" if row.more_pairs else ""
    note = f" ({plain(row.note)})" if row.note else ""
    return [
        code(row.metric), code(row.window), plain(text.quantity(row.baseline, row.unit)),
        plain(text.quantity(row.candidate, row.unit)),
        "–" if row.delta_ratio is None else text.signed_percent(row.delta_ratio), interval,
        "–" if row.margin_ratio is None else text.percent(row.margin_ratio),
        "–" if row.mde_ratio is None else named_from(row.mde_ratio),
        MARKS.get(row.status, plain(row.status)) + more + note,
    ]  # fmt: skip


def _faults(one: Comparison) -> str:
    rows = [row for fault in one.faults for row in _fault(fault)]
    if not rows:
        return ""
    return "### Faults in both arms (medians)\n\n" + table(["Fault", "", ">A", ">B"], rows)


def _fault(fault: ComparedFault) -> list[list[str]]:
    name = f"{code(fault.fault_id)} {plain(fault.fault)}"
    return [
        [name, code(one.name), plain(text.quantity(one.baseline, one.unit)), plain(text.quantity(one.candidate, one.unit))]
        for one in fault.values
    ]  # fmt: skip


def _dropped(one: Comparison) -> str:
    if not one.dropped:
        return ""
    lines = [f"- pair {pair.pair_id}: {plain(pair.reason)}" for pair in one.dropped[:MAX_DROPPED]]
    more = text.and_more(len(one.dropped), MAX_DROPPED)
    return "\n".join(["Pairs that don't count:", "", *lines, *([f"- …{more}"] if more else [])])
