"""`squall faults`: every fault with its parameters, its proof and its limits, told from the code."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

from faults import FAULTS
from harness.core import strict
from harness.core.errors import UsageError


def show(name: str | None, say: Callable[[str], None]) -> int:
    """Print one fault, or all. Raises UsageError for an unknown name."""
    if name is not None and name not in FAULTS:
        raise UsageError(f"no fault {name!r}; {strict.nearest(name, FAULTS)}")
    for key in sorted(FAULTS) if name is None else [name]:
        fault = FAULTS[key]
        say(f"{key}  (needs: {', '.join(sorted(fault.needs))})")
        for line in (inspect.getdoc(fault) or "").splitlines():
            say(f"    {line}".rstrip())
        for field in dataclasses.fields(fault):  # type: ignore[arg-type]
            default = "required" if field.default is dataclasses.MISSING else f"default {field.default}"
            say(f"    - {field.name}: {field.type} ({default})")
        say("")
    return 0
