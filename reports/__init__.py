"""Reports: one ReportData, rendered as HTML, Markdown, JUnit and JSON. To add one: a function and a line here."""

from __future__ import annotations

from collections.abc import Callable

from reports import html, jsonout, junit, markdown
from reports.data import ReportData

RENDERERS: dict[str, Callable[[ReportData], str]] = {
    "html": html.render,
    "markdown": markdown.render,
    "json": jsonout.render,
    "junit": junit.render,
}
