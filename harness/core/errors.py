"""The one error tree. Each error ends in one exit code; its text says what, where, what to do.

SquallError
+-- UsageError            2    wrong command line, absent file, missing venv
|   +-- ScenarioError     2    file, YAML path, value, remedy
|   +-- TargetError       2    a target that isn't there when planned
+-- ProvisionError        2    the system under test didn't come up: nothing was measured
+-- InvalidRun            4    the run can't be judged
|   +-- FaultError        4    a fault without effect, or its target gone at injection
+-- NotRestored           5    host or cluster not as before; carries the commands to finish
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INVALID = 4
    NOT_RESTORED = 5
    INTERRUPTED = 130


class SquallError(Exception):
    """Base of all expected errors."""

    exit_code: Exit = Exit.INVALID


class UsageError(SquallError):
    """The user must change something before anything can start."""

    exit_code = Exit.USAGE


class ScenarioError(UsageError):
    """A scenario that can't be accepted: `file: path: what (value ...); remedy`."""

    def __init__(self, file: str, path: str, what: str, remedy: str = "") -> None:
        self.file, self.path, self.what, self.remedy = file, path, what, remedy
        super().__init__(f"{file}: {path}: {what}" + (f"; {remedy}" if remedy else ""))


class TargetError(UsageError):
    """A planned target that the system doesn't have."""


class ProvisionError(SquallError):
    """The system under test didn't come up or didn't get ready."""

    exit_code = Exit.USAGE


class InvalidRun(SquallError):
    """The run gave no answer that may be trusted."""


class FaultError(InvalidRun):
    """A fault that could not be injected, or whose effect nobody saw."""


class NotRestored(SquallError):
    """Something of ours may still be there; `commands` finish the job by hand."""

    exit_code = Exit.NOT_RESTORED

    def __init__(self, what: str, commands: Sequence[str] = ()) -> None:
        self.commands = tuple(commands)
        super().__init__(what + "".join(f"\n  {command}" for command in self.commands))
