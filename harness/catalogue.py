"""`squall faults`: every fault with its parameters, its proof and its undo, told from the code.

`python -m harness.catalogue docs/faults.md` writes the same as a table between the page's two marks.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import FAULTS
from harness.core import strict
from harness.core.errors import UsageError

BEGIN, END = "<!-- made by harness/catalogue.py -->", "<!-- end -->"


def show(name: str | None, say: Callable[[str], None]) -> int:
    """Print one fault, or all. Raises UsageError for an unknown name."""
    if name is not None and name not in FAULTS:
        raise UsageError(f"no fault {name!r}; {strict.nearest(name, FAULTS)}")
    for key in sorted(FAULTS) if name is None else [name]:
        fault = FAULTS[key]
        say(f"{key}  (needs: {', '.join(sorted(fault.needs))})")
        for line in (inspect.getdoc(fault) or "").splitlines():
            say(f"    {line}".rstrip())
        for title, verb in (
            ("proof", "verify"),
            ("undone by", "recover"),
            ("undone when", "verify_recovered"),
        ):
            say(f"    {title}: {told(fault, verb)}")
        for field in dataclasses.fields(fault):  # type: ignore[arg-type]
            say(f"    - {field.name}: {field.type} ({_default(field, 'required', 'default ')})")
        say("")
    return 0


def told(fault: Any, verb: str) -> str:
    """What a verb's docstring says, in one line."""
    return " ".join((inspect.getdoc(getattr(fault, verb)) or "").split())


def table() -> str:
    """All faults as a Markdown table."""
    rows = [
        "| fault | what it does | parameters | proof | undone by | undone when |",
        "|---|---|---|---|---|---|",
    ]
    for name, fault in sorted(FAULTS.items()):
        fields = dataclasses.fields(fault)  # type: ignore[arg-type]
        given = ", ".join(f"`{one.name}`{_default(one, '', ' = ')}" for one in fields)
        what = (inspect.getdoc(fault) or "").splitlines()[0]
        verbs = [told(fault, verb) for verb in ("verify", "recover", "verify_recovered")]
        cells = [f"`{name}`", what, given, *verbs]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """The page with the table between its marks. Raises ValueError when it has none."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"no {BEGIN} ... {END} in the page")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _default(field: dataclasses.Field[Any], required: str, before: str) -> str:
    return required if field.default is dataclasses.MISSING else f"{before}{field.default}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text()))
