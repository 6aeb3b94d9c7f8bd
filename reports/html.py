"""ReportData as one self-contained HTML file: styles, BokehJS core and data inline, no request at all.

The page's content security policy forbids every load, so that a mistake here shows instead of phoning
out. Everything that came from outside is escaped by Jinja's autoescape; only the strings marked safe
here are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from reports import comparison_text, forest, plots, text
from reports.data import Fault, Invariant, MetricRow, ReportData, Timeline

MAX_BYTES = 3_000_000
MAX_CARDS = 50  # faults shown one by one; report.json has all
MAX_COLUMNS = 24  # windows in the table of metrics
MAX_JOURNAL_CHARS = 6_000
MAX_YAML_CHARS = 100_000
WORSE_RATIO = 1.5
WORSE_UNITS = ("ms", "ratio", "tokens/s")

LIGHT = {
    "page": "#f7f8fa", "panel": "#ffffff", "sunk": "#f1f3f6", "ink": "#171b21", "muted": "#59636f",
    "line": "#e4e7ec", "line-strong": "#c9cfd7", "link": "#1d5fb0",
    "good": "#13734b", "good-bg": "#eef8f2", "good-line": "#c6e6d5",
    "bad": "#b3261e", "bad-bg": "#fdf1f0", "bad-line": "#f3cfcc",
    "warn": "#8a5a00", "warn-bg": "#fdf6e7", "warn-line": "#efdcb2",
}  # fmt: skip
DARK = {
    "page": "#0f1216", "panel": "#161a20", "sunk": "#1d2229", "ink": "#e7eaee", "muted": "#9aa4b0",
    "line": "#272d36", "line-strong": "#3d4550", "link": "#79b1f2",
    "good": "#4fc18f", "good-bg": "#11211a", "good-line": "#214636",
    "bad": "#ff7b72", "bad-bg": "#271516", "bad-line": "#55282a",
    "warn": "#e2b04a", "warn-bg": "#231c0e", "warn-line": "#4c3c18",
}  # fmt: skip
PLOT_VARIABLES = {  # BokehJS reads these before a model's own property
    "grid-line-color": "line",
    "axis-line-color": "line-strong",
    "major-label-text-color": "muted",
    "axis-label-text-color": "muted",
}
TONES = {"pass": "good", "improvement": "good", "fail": "bad", "regression": "bad"}
COMPARED_TONES = {
    "pass": "good", "improvement": "good", "regression": "bad", "not_recovered": "bad", "inconclusive": "warn",
}  # fmt: skip
COMPARED_WORDS = {
    "pass": "✓ pass", "improvement": "✓ better", "regression": "✕ worse", "not_recovered": "✕ never recovered",
    "inconclusive": "open",
}  # fmt: skip
ICONS = {
    "good": '<path d="M6 21.5 16.5 32 36 11"/>',
    "bad": '<path d="M10 10l22 22M32 10 10 32"/>',
    "warn": '<path d="M21 7v20M21 34.5v.6"/>',
}
FATE_COLOURS = {
    "migrated_exact": plots.GREEN, "finished_there": plots.BLUE, "hit_again": "#8ab0d9", "cut": "#e4572e", "corrupted": "#b1002a",
    "timed_out": "#5a3d8c", "cancelled": "#a9b1ba", "shed": plots.GOLD, "lost": "#8f2d56",
}  # fmt: skip


@dataclass(frozen=True)
class _Plot:
    """A plot's place in the page."""

    name: str
    title: str
    unit: str
    div: Markup
    legend: Sequence[tuple[str, str, str]]
    says: str


def render(data: ReportData) -> str:
    """The page. Raises ValueError when it would be over MAX_BYTES."""
    script, divs = plots.embed(data.timeline) if data.timeline is not None else ("", {})
    page = templates().get_template("report.html.jinja").render(
        _context(data) | _page(data, script, divs)
    )  # fmt: skip
    size = len(page.encode())
    if size > MAX_BYTES:
        raise ValueError(f"report.html would have {size:,} bytes, over the limit of {MAX_BYTES:,}")
    return page


def _page(data: ReportData, script: str, divs: Mapping[str, str]) -> dict[str, Any]:
    """What makes the page self-contained: styles, scripts, plots."""
    tone = TONES.get(data.verdict.status, "warn")
    return {
        "tone": tone,
        "icon": _trusted('<svg viewBox="0 0 42 42" fill="none" stroke="currentColor" stroke-width="6" '
                       f'stroke-linecap="round" aria-hidden="true">{ICONS[tone]}</svg>'),
        "css": styles(),
        "js": _trusted(_template("report.js")),
        "bokeh_js": _trusted(bokeh_js()) if divs else "",
        "plot_script": _trusted(script),
        "plots": _plots(data.timeline, divs) if data.timeline is not None else [],
        "band_legend": [(kind.replace("warmup", "warm-up"), f"color-mix(in srgb, {colour} 45%, transparent)")
                        for kind, (colour, _) in plots.BAND_COLOURS.items()],
    }  # fmt: skip


def _context(data: ReportData) -> dict[str, Any]:
    """What the template says, in words."""
    return {
        "d": data,
        "c": data.comparison,
        "forest": forest.forest(data.comparison.metrics) if data.comparison else None,
        "dots": forest.dots(data.comparison.metrics) if data.comparison else [],
        "tones": COMPARED_TONES,
        "words": COMPARED_WORDS,
        "losses": data.losses[:MAX_CARDS],
        "faults": data.faults[:MAX_CARDS],
        "generators": data.generators[:MAX_CARDS],
        "windows": _windows(data),
        "scenario_yaml": text.shorten(data.scenario_yaml, MAX_YAML_CHARS),
        "word": text.status(data.verdict.status),
        "exit_meaning": text.exit_meaning(data.verdict.exit_code),
        "reasons": [one for one in data.verdict.reasons if one != data.verdict.why],
        "counts": list(msgspec.structs.asdict(data.counts).items()),
        "about": {term.name: term.about for term in data.glossary},
        "no_losses": _no_losses(data),
        "accounts_title": text.ACCOUNTS,
        "accounts_say": text.ACCOUNTS_ABOUT,
        "no_violations": _no_violations(data),
        "invariants_say": invariants_say(data.invariants),
        "broken": [one for one in data.invariants if one.state == "broken"],
        "unbroken": [one for one in data.invariants if one.state != "broken"],
        "environment": environment(data),
        "fault_state": fault_state,
        "journal_text": journal_text,
        "fate_colour": lambda fate: FATE_COLOURS.get(fate, plots.GREY),
        "migrated": text.migrated,
        "fate_word": lambda fate: text.FATE_WORDS.get(fate, fate),
        "worse": worse,
        "clock": lambda at: text.UNKNOWN if at is None else f"{at:.2f}",
    }


def _windows(data: ReportData) -> list[str]:
    """The windows that the table of metrics shows: the first ones, and the last, which is `all`."""
    names = data.metrics.windows
    return names if len(names) <= MAX_COLUMNS else [*names[: MAX_COLUMNS - 1], names[-1]]


def _no_losses(data: ReportData) -> str:
    if not data.faults:
        return "No faults were injected, so none hurt anybody."
    return "Unknown: what clients lost could not be measured."


def _no_violations(data: ReportData) -> str:
    if not data.counts.sent:
        return "No requests were recorded, so none could break a promise."
    return "None: every stream that could be checked was complete, exact and well-formed."


def invariants_say(invariants: Sequence[Invariant]) -> str:
    """How many hold, in one sentence."""
    states = [one.state for one in invariants]
    parts = [f"{states.count('ok')} hold", f"{states.count('broken')} broken"]
    if na := len(states) - states.count("ok") - states.count("broken"):
        parts.append(f"{na} not applicable or unknown")
    return ", ".join(parts) + "."


def fault_state(fault: Fault) -> dict[str, str]:
    """The card's own verdict: proven and undone, or what is missing."""
    targets = fault.targets
    if not targets:
        return {"tone": "bad", "text": "✕ never injected"}
    if any(t.error for t in targets) or any(t.verified is False for t in targets):
        return {"tone": "bad", "text": "✕ failed"}
    if any(t.verified is None for t in targets):
        return {"tone": "warn", "text": "no proof of effect"}
    if not all(t.recovered for t in targets):
        return {"tone": "bad", "text": "✕ not recovered"}
    return {"tone": "good", "text": "✓ verified and recovered"}


def journal_text(fault: Fault) -> str:
    """Parameters, undo and evidence as indented JSON."""
    tree: dict[str, Any] = {"parameters": fault.parameters}
    for target in fault.targets:
        tree[target.target] = {
            "undo": target.undo,
            "evidence": {proof.ring: proof.evidence for proof in target.proofs},
        }
    return text.shorten(json.dumps(tree, indent=2, ensure_ascii=False, default=str), MAX_JOURNAL_CHARS)


def worse(row: MetricRow, window: str) -> bool:
    """Is this window's value at least WORSE_RATIO times worse than steady's?"""
    base, value = row.values.get("steady"), row.values.get(window)
    if base is None or value is None or window in ("steady", "all") or row.unit not in WORSE_UNITS:
        return False
    if row.higher_is_better:
        return value * WORSE_RATIO <= base and value < base
    return value >= base * WORSE_RATIO and value > base


def environment(data: ReportData) -> list[tuple[str, str]]:
    """Rows of the environment table."""
    run = data.run
    restored = {None: text.UNKNOWN, True: "as before", False: "NOT as before"}[run.restored]
    rows = [
        ("run", run.run_id), ("started at", run.started_at or text.UNKNOWN),
        ("load", f"{text.number(run.duration_s)} s after {text.number(run.warmup_s)} s of warm-up"),
        ("squall", run.squall_version or text.UNKNOWN), ("Dynamo", run.sut_version or text.UNKNOWN),
        ("engine", run.engine or text.UNKNOWN), ("processes", ", ".join(run.processes) or text.UNKNOWN),
        ("host afterwards", restored), ("fingerprint class", run.fingerprint_class or text.UNKNOWN),
    ]  # fmt: skip
    rows += sorted(run.fingerprint.items())
    rows += [("trace sha256", run.trace_sha256 or text.UNKNOWN),
             ("config sha256", run.config_sha256 or text.UNKNOWN)]  # fmt: skip
    if data.comparison is not None:  # of many runs: each has its own page
        rows = [row for row in rows if row[0] not in ("processes", "host afterwards", "trace sha256")]
    return rows


def _plots(timeline: Timeline, divs: Mapping[str, str]) -> list[_Plot]:
    """Title, legend and words for each plot that was made."""
    lines = {
        "events": ("Faults", "", [], "When each fault and each recovery began and ended"),
        "throughput": ("Throughput", "output tokens/s", [], "Output tokens per second over time"),
        "ttft": ("Time to first token", "ms, logarithmic",
                 [("p50", plots.BLUE, "line"), ("p99", plots.ORANGE, "line"), ("SLO", plots.GREY, "dash")],
                 "Time to first token over time, median and 99th percentile per second"),
        "stalls": ("Stalls", "longest silence of a stream, s", [], "Longest silence of any stream over time, those above 250 ms"),
        "outcomes": ("Outcomes", "requests ended per second",
                     [(text.OUTCOME_WORDS.get(k, k), plots.OUTCOME_COLOURS.get(k, plots.GREY), "")
                      for k in timeline.outcomes],
                     "Requests that ended in each second, by outcome"),
        "users": ("In flight and hurt", "streams",
                  [("in flight", plots.BLUE, "line"), ("hurt", plots.RED, "")],
                  "Streams in flight and clients hurt over time"),
        "health": ("Health", "what the probes said",
                   [("green", plots.GREEN, ""), ("red", plots.RED, ""), ("unknown", plots.GREY, ""),
                    ("clients hurt", plots.ORANGE, ""), ("silent: hurt while readiness is green", plots.PURPLE, "")],
                   "Health of each process over time, and when clients were hurt"),
    }  # fmt: skip
    empty = {
        "throughput": not any(timeline.tokens_per_s), "stalls": not any(timeline.stall_max_ms),
        "ttft": not any(timeline.ttft_p50_ms), "users": not any(timeline.in_flight),
    }  # fmt: skip
    return [
        _Plot(
            name, title, unit + ("; nothing measured" if empty.get(name) else ""), _trusted(div), legend, says
        )
        for name, div in divs.items()
        for title, unit, legend, says in [lines[name]]
    ]


def _trusted(source: str) -> Markup:
    """Our own markup, styles and scripts: not escaped. Never for text from outside."""
    return Markup(source)  # noqa: S704


def styles() -> Markup:
    """The style sheet with both colour schemes, as it is."""
    return _trusted(_css())


def _css() -> str:

    def variables(colours: Mapping[str, str]) -> str:
        plot = {f"bk-{name}": colours[colour] for name, colour in PLOT_VARIABLES.items()}
        return " ".join(f"--{name}: {value};" for name, value in {**colours, **plot}.items())

    source = _template("report.css")
    return source.replace("{{ light }}", variables(LIGHT)).replace("{{ dark }}", variables(DARK))


@cache
def bokeh_js() -> str:
    """BokehJS core, the only part that the plots need, made safe to stand inside a script element."""
    import bokeh

    source = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return source.read_text().replace("</script", "<\\/script")


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()


@cache
def templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    )  # fmt: skip
    made.globals |= {
        "count": text.count, "seconds": text.seconds, "percent": text.percent, "quantity": text.quantity,
        "and_more": text.and_more, "share": text.percent, "signed_percent": text.signed_percent,
        "named_from": comparison_text.named_from, "more_pairs": comparison_text.more_pairs,
    }  # fmt: skip
    return made
