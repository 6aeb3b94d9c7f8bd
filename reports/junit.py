"""ReportData as JUnit XML, so that CI shows a name for each metric, gate, invariant and fault.

failure: it got worse or broke; error: nobody can tell, which is never a pass; skipped: not applicable, or
undecided. The same words as in verdict.json.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from reports import text
from reports.comparison_text import change
from reports.data import ComparedMetric, ReportData

Outcome = Literal["pass", "failure", "error", "skipped"]
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
VERDICTS: dict[str, Outcome] = {
    "pass": "pass", "improvement": "pass", "fail": "failure", "regression": "failure", "inconclusive": "skipped",
    "invalid": "error",
}  # fmt: skip
COMPARED: dict[str, Outcome] = {
    "pass": "pass", "improvement": "pass", "regression": "failure", "not_recovered": "failure", "inconclusive": "skipped",
    "observe": "skipped", "absent": "skipped", "invalid": "error",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One line of a suite. message: on one line; more: the rest."""

    name: str
    outcome: Outcome = "pass"
    message: str = ""
    more: str = ""


def render(data: ReportData) -> str:
    """The whole file; the verdict's suite first."""
    suites = [
        ("verdict", [_verdict(data)]),
        ("metrics", [_metric(one) for one in data.comparison.metrics] if data.comparison else []),
        ("gates", _gates(data)),
        ("invariants", _invariants(data)),
        ("faults", _faults(data)),
    ]
    kept = [(name, cases) for name, cases in suites if cases]
    everything = [case for _, cases in kept for case in cases]
    body = "\n".join(_suite(data.run.scenario, name, cases) for name, cases in kept)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<testsuites name={_attribute(data.run.run_id)} {_sums(everything)}>\n{body}\n</testsuites>\n"
    )


def _verdict(data: ReportData) -> Case:
    code = text.UNKNOWN if data.verdict.exit_code is None else data.verdict.exit_code
    word = text.status(data.verdict.status)
    return Case(
        "verdict", VERDICTS.get(data.verdict.status, "error"), f"{word}, exit code {code}: {data.verdict.why}",
        "\n".join(data.verdict.reasons),
    )  # fmt: skip


def _metric(one: ComparedMetric) -> Case:
    values = f"{text.quantity(one.baseline, one.unit)} -> {text.quantity(one.candidate, one.unit)}"
    found = f"{one.status}: {change(one)}, {values}" + (f"; {one.note}" if one.note else "")
    return Case(f"{one.metric} in {one.window}", COMPARED.get(one.status, "error"), found)


def _gates(data: ReportData) -> list[Case]:
    outcomes: dict[bool | None, Outcome] = {True: "pass", False: "failure", None: "error"}
    return [
        Case(f"{one.metric} in {one.window}, {one.limit}", outcomes[one.ok],
             f"measured {text.quantity(one.value, one.unit)}, limit {one.limit}")
        for one in data.gates
    ]  # fmt: skip


def _invariants(data: ReportData) -> list[Case]:
    outcomes: dict[str, Outcome] = {"ok": "pass", "broken": "failure"}
    return [
        Case(one.name, outcomes.get(one.state, "skipped"),
             f"{one.count} broken. {one.detail or one.about}" if one.state == "broken" else one.detail or "not applicable",
             "\n".join(one.request_ids))
        for one in data.invariants
    ]  # fmt: skip


def _faults(data: ReportData) -> list[Case]:
    found = []
    for fault in data.faults:
        if not fault.targets:
            found.append(Case(fault.fault_id, "error", "never injected"))
        for target in fault.targets:
            proven = target.verified is True and target.recovered is True
            why = target.error or f"verified {target.verified}, recovered {target.recovered}"
            found.append(Case(f"{fault.fault_id} on {target.target}", "pass" if proven else "error", why))
    return found


def _suite(scenario: str, name: str, cases: Sequence[Case]) -> str:
    lines = "\n".join(_case(f"{scenario}.{name}", case) for case in cases)
    return f"  <testsuite name={_attribute(name)} {_sums(cases)}>\n{lines}\n  </testsuite>"


def _case(suite: str, case: Case) -> str:
    head = f"    <testcase classname={_attribute(suite)} name={_attribute(case.name)}"
    if case.outcome == "pass":
        said = f"<system-out>{_text(case.message)}</system-out>" if case.message else ""
        return f"{head}>{said}</testcase>"
    body = f"<{case.outcome} message={_attribute(case.message)}>{_text(case.more)}</{case.outcome}>"
    return f"{head}>{body}</testcase>"


def _sums(cases: Sequence[Case]) -> str:
    outcomes = [case.outcome for case in cases]
    return (
        f'tests="{len(cases)}" failures="{outcomes.count("failure")}" errors="{outcomes.count("error")}" '
        f'skipped="{outcomes.count("skipped")}"'
    )


def _attribute(value: str) -> str:
    return quoteattr(_NO_XML.sub("?", " ".join(value.split())))


def _text(value: str) -> str:
    return escape(_NO_XML.sub("?", value))
