"""experiment.json: what an experiment compares, how far it is, and which of its pairs don't count.

It stands beside the run directories of the experiment (`pair-03-b`, ...) and is replaced atomically
after each pair, so that an experiment that was killed goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.core import rundir
from harness.core.errors import UsageError

FILE = "experiment.json"
ASIDE = "aside"  # runs of pairs that were begun and never finished


class Arm(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One side: what the user called it, and the `sut:` that it resolved to."""

    label: str
    sut: dict[str, Any]


class Pair(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A pair that is over. order: which arm ran first; reason: why it was dropped."""

    pair_id: int
    seed: int
    order: Literal["AB", "BA"]
    state: Literal["done", "dropped"]
    reason: str = ""


class ExperimentFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """experiment.json. looks: numbers of pairs at which a verdict is tried; one: a fixed number."""

    schema: Literal[1]
    experiment_id: str
    scenario: str
    config_sha256: str
    fingerprint_class: str
    seed: int
    looks: list[int]
    a: Arm
    b: Arm
    pairs: list[Pair] = []
    started_at: str = ""
    squall_version: str = ""
    status: str = "running"  # then the verdict's

    @property
    def same_arms(self) -> bool:
        """An A/A experiment: both sides are one system."""
        return self.a.sut == self.b.sut


def run_name(pair_id: int, arm: str) -> str:
    """The run directory of one arm of a pair: pair-03-b."""
    return f"pair-{pair_id:02d}-{arm.lower()}"


def exists(directory: Path) -> bool:
    return (directory / FILE).exists()


def read(directory: Path) -> ExperimentFile:
    """The experiment in a directory. Raises UsageError naming the file when absent or malformed."""
    path = directory / FILE
    tree = rundir.read_json(path)
    try:
        return msgspec.convert(tree, ExperimentFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}; made by another squall? name another --out") from None


def write(directory: Path, experiment: ExperimentFile) -> None:
    """Replace it, atomically."""
    rundir.write_json(directory / FILE, msgspec.to_builtins(experiment))
