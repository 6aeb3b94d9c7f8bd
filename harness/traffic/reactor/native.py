"""The compiled part: is it there, and is it usable here?"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

NAME = "harness.traffic.reactor._native"
BUILD_ENV = "SQUALL_REACTOR"  # another build of it, such as one with sanitizers: the file's path
INTERFACE = 2  # of module.c


def load() -> Any:
    """The extension module. Raises ImportError where it was not built, not for this Python, or from older sources."""
    module = _load()
    built = getattr(module, "INTERFACE", 0)
    if built != INTERFACE:
        raise ImportError(
            f"it was built from other sources: interface {built}, this squall wants {INTERFACE}"
        )
    return module


def _load() -> Any:
    other = os.environ.get(BUILD_ENV)
    if not other or NAME in sys.modules:
        return importlib.import_module(NAME)
    spec = importlib.util.spec_from_file_location(NAME, other)
    if spec is None or spec.loader is None:
        raise ImportError(f"{BUILD_ENV}={other}: not an extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def why_not() -> str | None:
    """Why there is no reactor here, None when there is one."""
    try:
        load()
    except ImportError as error:
        return f"the extension is not there ({error}): install a C compiler (gcc) and squall again"
    return None
