"""ReportData as Markdown that fits into a pull request comment: verdict, losses, faults, what broke.

Text from outside is escaped; the longest sections are left out first when it would get too long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports import markdown_comparison, text
from reports.data import Fault, ReportData
from reports.markdown_text import code, plain, table

MAX_CHARS = 60_000  # a comment holds 65,536
MAX_WINDOWS = 6
MAX_REASONS = 10
SHOWN_IDS = 5
MAX_ROWS = 20
_ICONS = {"pass": "✅", "improvement": "✅", "fail": "❌", "regression": "❌"}


def render(data: ReportData) -> str:
    """The comment, at most MAX_CHARS long."""
    sections = [
        _head(data), *markdown_comparison.sections(data), _losses(data), _faults(data), _drains(data), _cancels(data), _accounts(data), _gates(data), _broken(data),
        _violations(data),
        _again(data), _sent(data), _metrics(data), _rest(data),
    ]  # fmt: skip
    kept: list[str] = []
    left_out = False
    for section in sections:
        if sum(len(one) + 2 for one in kept) + len(section) > MAX_CHARS - 200:
            left_out = True
        elif section:
            kept.append(section)
    if left_out:
        kept.append("_Cut to fit; the HTML report has everything._")
    return "\n\n".join(kept) + "\n"


def _head(data: ReportData) -> str:
    verdict, run, counts = data.verdict, data.run, data.counts
    lines = [f"## {_ICONS.get(verdict.status, '⚠️')} {text.status(verdict.status)}: {plain(verdict.why)}"]
    more = [one for one in verdict.reasons if one != verdict.why]
    lines += ["", *(f"- {plain(one)}" for one in more[:MAX_REASONS])] if more else []
    if len(more) > MAX_REASONS:
        lines.append(f"- …{text.and_more(len(more), MAX_REASONS)}")
    code_text = text.UNKNOWN if verdict.exit_code is None else str(verdict.exit_code)
    lines += ["", f"Exit code **{code_text}** ({text.exit_meaning(verdict.exit_code)}) · scenario {code(run.scenario)}"
              f" · seed {text.UNKNOWN if run.seed is None else run.seed} · Dynamo {plain(run.sut_version or text.UNKNOWN)}"
              f" · run {code(run.run_id)}"]  # fmt: skip
    if data.comparison is not None:
        return "\n".join(lines)
    told = ", ".join(
        f"{name} {text.count(getattr(counts, name))}"
        for name in ("sent", "ok", "shed", "cancelled", "failed", "lost")
    )
    return "\n".join([*lines, "", f"Requests: {told}."])


def _losses(data: ReportData) -> str:
    if not data.losses:
        return ""
    head = ["What users lost", ">Requests hurt", ">Seconds lost", ">Silent", ">Of a month's 99.9% budget"]
    return table(head, (
        [f"{code(one.fault_id)} {plain(one.fault)} on {plain(', '.join(one.targets))}",
         text.count(one.requests_hurt), text.seconds(one.outage_s), text.seconds(one.silent_s),
         text.percent(one.budget_ratio)]
        for one in data.losses[:MAX_ROWS]
    )) + _more(len(data.losses))  # fmt: skip


def _faults(data: ReportData) -> str:
    if not data.faults:
        return ""
    head = [
        "Fault",
        "Proven",
        "Back",
        ">Detected",
        ">Unhurt",
        ">Recovered",
        ">Silent",
        ">Not ready / ready",
        ">False green / red",
        "Streams in flight",
    ]
    return (
        "### Faults\n\n"
        + table(head, (_fault(one) for one in data.faults[:MAX_ROWS]))
        + _more(len(data.faults))
    )


def _cancels(data: ReportData) -> str:
    if not data.cancels:
        return ""
    head = ["Left by", "During", ">Streams", ">Aborted", ">Never aborted", ">Done by itself", ">Never at an engine",
            ">Abort p50", ">p99", ">max", ">Wasted tokens p50", ">max"]  # fmt: skip
    rows = table(head, (
        [plain(one.mode), plain(one.stage), *(text.count(n) for n in (one.sent, one.aborted, one.unaborted, one.finished, one.unseen)),
         *("–" if ms is None else text.quantity(ms, "ms") for ms in (one.abort_p50_ms, one.abort_p99_ms, one.abort_max_ms)),
         *("–" if n is None else text.quantity(n, "count") for n in (one.wasted_p50, one.wasted_max))]
        for one in data.cancels[:MAX_ROWS]
    )) + _more(len(data.cancels))  # fmt: skip
    tellers = table(["Cancelled in the measured part, by", ">Streams"], (
        [code(one.name), text.quantity(one.count, "count")] for one in data.cancel_tellers
    ))  # fmt: skip
    return f"### Cancellations\n\n{rows}\n\n{tellers}"


def _sent(data: ReportData) -> str:
    if not data.sent:
        return ""
    head = [
        "Loop",
        "Window",
        ">Asked for",
        ">Sent",
        "",
        ">Late",
        ">Wait p99",
        ">Never sent",
        ">TTFT p99",
        ">from due",
    ]
    rows = (
        [one.loop, code(one.window), text.quantity(one.asked, "count"), text.quantity(one.delivered, "count"),
         one.unit + (", held by max_in_flight" if one.held else ""), text.percent(one.late_ratio),
         *("–" if ms is None else text.quantity(ms, "ms") for ms in (one.wait_p99_ms,)), text.count(one.unsent),
         *("–" if ms is None else text.quantity(ms, "ms") for ms in (one.ttft_p99_ms, one.ttft_p99_due_ms))]
        for one in data.sent[:MAX_ROWS]
    )  # fmt: skip
    return f"### Load asked for and sent\n\n{table(head, rows)}{_more(len(data.sent))}"


def _accounts(data: ReportData) -> str:
    if not data.accounts:
        return ""
    head = ["Route", "Users", ">Answers", ">Usage", ">Witness", ">Hidden", ">Chunks", ">Thoughts", ">In calls",
            ">Several a chunk", ">Usage differs", "Requests"]  # fmt: skip
    rows = table(head, (
        [plain(one.route + ("" if one.streamed else ", whole")), plain(one.user_class), text.count(one.requests),
         *(text.count(n) for n in (one.usage, one.witness, one.hidden, one.chunks, one.thoughts, one.calls, one.several)),
         text.count(one.differ), _ids(one.request_ids, one.differ or 0)]
        for one in data.accounts[:MAX_ROWS]
    )) + _more(len(data.accounts))  # fmt: skip
    return f"### {text.ACCOUNTS}\n\n{rows}\n\n{text.ACCOUNTS_ABOUT}"


def _more(total: int) -> str:
    return f"\n\n…{text.and_more(total, MAX_ROWS)}." if total > MAX_ROWS else ""


def _fault(fault: Fault) -> list[str]:
    def all_of(states: list[bool | None]) -> str:
        if not states:
            return "never injected"
        return "❌ no" if False in states else (text.UNKNOWN if None in states else "✅ yes")

    by = sorted({t.recovered_by for t in fault.targets if t.recovered_by})
    fates = ", ".join(f"{one.count:,} {text.FATE_WORDS.get(one.fate, one.fate)}" for one in fault.fates)
    errors = "; ".join(t.error for t in fault.targets if t.error)
    return [
        f"{code(fault.fault_id)} {plain(fault.what)}" + (f" **{plain(errors)}**" if errors else ""),
        all_of([t.verified for t in fault.targets]),
        all_of([t.recovered for t in fault.targets]) + (f", by {plain(', '.join(by))}" if by else ""),
        text.seconds(fault.detect_s), text.seconds(fault.mitigate_s),
        "never" if fault.recover_never else text.seconds(fault.recover_s),
        text.seconds(fault.silent_s),
        " / ".join(text.seconds(one) for one in (fault.not_ready_s, fault.ready_s)),
        " / ".join(text.seconds(one) for one in (fault.false_green_s, fault.false_red_s)),
        text.count(fault.in_flight) + (f": {plain(fates)}" if fates else ""),
    ]  # fmt: skip


def _drains(data: ReportData) -> str:
    found = [(fault.fault_id, drain) for fault in data.faults for drain in fault.drains]
    tables = [
        f"Drain of {plain(drain.target)} ({code(fault_id)}), seconds after {plain(drain.signal)}:\n\n"
        + table(["Sign", ">Seen after", "Note"], (
            [plain(one.name), "–" if one.at_s is None else f"{one.at_s:.2f}", plain(one.note)]
            for one in drain.phases
        ))
        for fault_id, drain in found[:MAX_ROWS]
    ]  # fmt: skip
    return "\n\n".join(tables) + (_more(len(found)) if found else "")


def _gates(data: ReportData) -> str:
    if not data.gates:
        return ""
    marks = {True: "✅ met", False: "❌ failed", None: text.UNKNOWN}
    return "### Gates\n\n" + table(["Gate", "Window", ">Limit", ">Measured", "Result"], (
        [code(one.metric), code(one.window), plain(one.limit), plain(text.quantity(one.value, one.unit)),
         marks[one.ok]]
        for one in data.gates
    ))  # fmt: skip


def _ids(ids: Sequence[str], total: int) -> str:
    return (
        " ".join(code(one) for one in ids[:SHOWN_IDS]) + text.and_more(total, len(ids[:SHOWN_IDS]))
        if ids
        else ""
    )


def _broken(data: ReportData) -> str:
    broken = [one for one in data.invariants if one.state == "broken"]
    if not data.invariants:
        return ""
    states = [one.state for one in data.invariants]
    held = f"Invariants: {states.count('ok')} hold, {len(broken)} broken, {len(states) - states.count('ok') - len(broken)} not applicable or unknown."
    if not broken:
        return held
    return f"### Broken invariants\n\n{held}\n\n" + table(["Invariant", ">Count", "What", "Requests"], (
        [code(one.name), text.count(one.count), plain(one.detail or one.about), _ids(one.request_ids, one.count)]
        for one in broken
    ))  # fmt: skip


def _violations(data: ReportData) -> str:
    parts = []
    named = {one.name for one in data.invariants if one.state == "broken"}
    if others := [one for one in data.violations if one.name not in named]:
        rows = ([code(one.name), text.count(one.count), _ids(one.request_ids, one.count)] for one in others)
        parts.append("### Other violations\n\n" + table(["Violation", ">Requests", "Request ids"], rows))
    if data.known:
        parts.append("Known and accepted:\n\n" + table(["Violation", "Window", ">Count", ">At most", "Expires", "Reason"], (
            [code(one.violation), code(one.window), text.count(one.count),
             "any" if one.max_count is None else text.count(one.max_count), plain(one.expires), plain(one.reason)]
            for one in data.known
        )))  # fmt: skip
    return "\n\n".join(parts)


def _again(data: ReportData) -> str:
    if not data.command:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", data.command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"### Run it again\n\n{fence}sh\n{data.command}\n{fence}"


def _metrics(data: ReportData) -> str:
    shown = data.metrics.windows[: MAX_WINDOWS - 1] + data.metrics.windows[MAX_WINDOWS - 1 :][-1:]
    if not data.metrics.rows:
        return ""
    rows = table(["Metric", *(f">{plain(w)}" for w in shown)], (
        [code(row.name), *(plain(text.quantity(row.values[w], row.unit)) if w in row.values else "–" for w in shown)]
        for row in data.metrics.rows
    ))  # fmt: skip
    more = text.and_more(len(data.metrics.windows), len(shown))
    return f"<details><summary>Metrics by window{more}</summary>\n\n{rows}\n\nA dash: not defined there.\n</details>"


def _rest(data: ReportData) -> str:
    parts = []
    if data.quality:
        parts.append(table(["The generator itself", ">Measured", ">Limit", "Result"], (
            [code(one.name), plain(text.quantity(one.value, one.unit)),
             "–" if one.limit is None else plain(text.quantity(one.limit, one.unit)),
             "" if one.limit is None else text.judged(one.ok, "✅ within", "❌ too slow")]
            for one in data.quality
        )))  # fmt: skip
    if data.generators:
        parts.append(table(["Process", "Host", ">Sent", ">Records", ">Send lag p99", ">Hub lag p99", ">CPU", ">Steal", ">Clock ±"], (
            [plain(one.name), plain(one.host), text.count(one.sent), text.count(one.rows),
             text.quantity(one.send_lag_p99_ms, "ms"), text.quantity(one.hub_lag_p99_ms, "ms"),
             text.quantity(one.cpu_s, "s"), text.quantity(one.cpu_steal_ratio, "ratio"),
             text.quantity(one.clock_error_ms, "ms")]
            for one in data.generators[:MAX_ROWS]
        )) + text.and_more(len(data.generators), MAX_ROWS))  # fmt: skip
    parts += (
        ["Warnings:\n\n" + "\n".join(f"- {plain(one)}" for one in data.warnings[:MAX_REASONS])]
        if data.warnings
        else []
    )
    if not parts:
        return ""
    return "<details><summary>Generator and warnings</summary>\n\n" + "\n\n".join(parts) + "\n\n</details>"
