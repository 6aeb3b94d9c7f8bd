"""A drain on real Dynamo: nobody is hurt, and its phases are in the evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import SHORT, run

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
DRAIN = "faults=[{id: drain, fault: process.terminate, select: {role: worker, count: 1}, at_s: 2, restart_after_s: 1}]"


def test_a_drain_hurts_nobody(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, "load.duration_s=20", DRAIN)
    assert done.code == 0, done.out + done.err
    assert set(done.requests.outcome) <= {"ok", "cancelled"}
    evidence = next(line["evidence"] for line in done.journal if line["phase"] == "verified")
    assert evidence["exit_code"] == 0
    assert evidence["deregistered_ns"] < evidence["exit_ns"]
    assert evidence["escalated"] is None
    assert evidence["leftovers"] == []
    assert (done.requests.migrated.fillna(0) == 0).any()


def test_a_drain_that_is_cut_short_is_escalated_and_said(tmp_path: Path) -> None:
    done = run(
        tmp_path / "run", *SHORT, "load.duration_s=16", DRAIN.replace("at_s: 2", "at_s: 2, grace_s: 1")
    )
    evidence = next(line["evidence"] for line in done.journal if line["phase"] == "verified")
    assert evidence["escalated"] is not None
    assert evidence["exit_code"] != 0
