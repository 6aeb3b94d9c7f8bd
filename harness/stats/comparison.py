"""The verdict of a comparison as data: status, exit code, lines of `metrics`, reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import Exit
from harness.stats.verdict import SCHEMA, rounded_tree

CODES = {
    "pass": Exit.PASS,
    "improvement": Exit.PASS,
    "fail": Exit.FAIL,
    "regression": Exit.FAIL,
    "inconclusive": Exit.INCONCLUSIVE,
    "invalid": Exit.INVALID,
}
SEVERITY = ("fail", "invalid", "regression", "inconclusive", "improvement", "pass")


@dataclass(frozen=True)
class Verdict:
    """A comparison's verdict; verdict.json is `to_dict()`.

    rows: one for each gating metric. pairs_used: those that the deciding look saw. What files alone can
    tell (run ids, gates, ...) the caller adds with dataclasses.replace.
    """

    status: str  # pass | fail | improvement | regression | inconclusive | invalid
    pairs_used: int
    rows: tuple[Mapping[str, Any], ...] = ()
    reasons: tuple[str, ...] = ()
    invariants: tuple[Mapping[str, Any], ...] = ()
    run_ids: tuple[str, ...] = ()
    gates: tuple[Mapping[str, Any], ...] = ()
    known: tuple[Mapping[str, Any], ...] = ()
    faults: tuple[Mapping[str, Any], ...] = ()

    @property
    def exit_code(self) -> int:
        return int(CODES[self.status])

    def to_dict(self) -> dict[str, Any]:
        """verdict.json as plain data, rounded."""
        tree = {
            "schema": SCHEMA,
            "status": self.status,
            "exit_code": self.exit_code,
            "pairs_used": self.pairs_used,
            "run_ids": self.run_ids,
            "metrics": self.rows,
            "gates": self.gates,
            "invariants": self.invariants,
            "known": self.known,
            "faults": self.faults,
            "reasons": self.reasons,
        }
        rounded: dict[str, Any] = rounded_tree(tree)
        return rounded


def worst(statuses: Sequence[str]) -> str:
    """The status of several judgements together: broken invariant, invalid, regression, inconclusive, pass."""
    return min(statuses, key=SEVERITY.index)
