"""Faults that wait for a condition, on real Dynamo: struck when it held, and not at all when it never did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pipeline import SHORT, run

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
TOKEN, STREAMS = 30, 4


def _faults(when: str) -> tuple[str, ...]:
    return (
        "load.duration_s=12",
        "faults=[{id: kill, fault: process.kill, select: {role: worker, index: [1]}, at_s: 1, "
        f"restart_after_s: 1, when: {{{when}}}}}]",
        "gates=[{metric: ttft_p50_ms, window: all, max: 5000}]",
    )


def _journal(path: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in (path / "journal.jsonl").read_text().splitlines()]
    return {line["phase"]: line for line in lines if line.get("fault_id") == "kill"}


def test_a_kill_waits_until_streams_are_past_a_token(tmp_path: Path) -> None:
    when = f"past_token: {{token: {TOKEN}, streams: {STREAMS}}}, within_s: 8"
    done = run(tmp_path / "run", *SHORT, *_faults(when))
    assert done.code in (0, 1), done.out + done.err
    phases = _journal(done.dir)
    why, effective_ns = phases["injected"]["evidence"], phases["verified"]["evidence"]["effective_ns"]  # type: ignore[index]
    assert why["value"] >= STREAMS and why["held_ns"] <= effective_ns  # type: ignore[index]
    came = [
        1 + int((row.t_first_ns + np.cumsum(row.gaps_us, dtype=np.int64) * 1000 <= effective_ns).sum())
        for row in done.requests.itertuples()
        if row.t_first_ns == row.t_first_ns and row.t_start_ns <= why["held_ns"] <= row.t_end_ns  # type: ignore[index]
    ]
    assert sum(tokens > TOKEN for tokens in came) >= STREAMS


def test_a_condition_that_never_holds_makes_the_run_invalid_and_injects_nothing(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, *_faults("streams: 5000, within_s: 2"))
    assert done.code == 4, done.out + done.err
    phases = _journal(done.dir)
    assert "injected" not in phases
    reasons = json.loads((done.dir / "verdict.json").read_text())["reasons"]
    assert any(
        "kill on worker-1: not injected: streams >= 5000 never held within 2 s" in str(r) for r in reasons
    )
    assert any("the highest value was" in str(r) for r in reasons)
