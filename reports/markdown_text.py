"""Text from outside as inert Markdown, and tables of it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from reports import text

MAX_TEXT = 500
_SPECIAL = re.compile(r"([\\*\[\]|~])")


def plain(value: str) -> str:
    """Text from outside as inert Markdown on one line."""
    line = " ".join(text.shorten(value, MAX_TEXT).split())
    line = html.escape(line.replace("`", "'"), quote=False)
    return _SPECIAL.sub(r"\\\1", line).replace("@", "&#64;")


def code(value: str) -> str:
    """A name or an id as a code span on one line."""
    line = " ".join(text.shorten(value, MAX_TEXT).split()).replace("`", "'").replace("|", "\\|")
    return f"`{line or ' '}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns after the first are right-aligned where their heading starts with `>`."""
    names = [name.removeprefix(">") for name in head]
    rule = ["---:" if name.startswith(">") else "---" for name in head]
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, rule, *rows])
