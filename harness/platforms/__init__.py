"""Where targets live. To add a platform: one file, one line."""

from __future__ import annotations

from collections.abc import Callable

from faults.ports import Ports
from harness.core.rundir import RunDir
from harness.platforms import local

PLATFORMS: dict[str, Callable[[RunDir, float], Ports]] = {"local": local.ports}
