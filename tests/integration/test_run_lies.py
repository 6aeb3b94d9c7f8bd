"""Lies as faults in whole runs on real Dynamo: the right violations, in the right window, and back to the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import SHORT, Done, run

pytestmark = [pytest.mark.sut, pytest.mark.timeout(240), pytest.mark.load, pytest.mark.slow]

TIMES = ("load.duration_s=16", "load.warmup_s=2", "load.timeout_s=12", "load.users.1.count=1")


def lying(tmp_path: Path, lie: str, *more: str) -> Done:
    step = f"faults=[{{id: lie, {lie}, select: {{role: worker, index: [1]}}, at_s: 2}}]"
    return run(tmp_path / "run", *SHORT[3:4], *SHORT[5:], *TIMES, step, "gates=[]", *more)


def broken(done: Done) -> set[str]:
    return {one["name"] for one in done.json("verdict.json")["invariants"] if one["ok"] is False}


def recovered(done: Done) -> dict[str, object]:
    evidence: dict[str, object] = next(line for line in done.journal if line["phase"] == "recovered")[
        "evidence"
    ]
    return evidence


def test_corrupt_tokens_break_what_they_must(tmp_path: Path) -> None:
    done = lying(tmp_path, "fault: engine.corrupt, one_in: 50, hold_s: 4")
    assert done.code == 1, done.out + done.err
    must = {"foreign_tokens", "lost_tokens", "streams_complete"}
    assert must <= broken(done) <= must | {"short_stream"}, "a corrupt last token is a missing tail"
    requests = done.requests[done.requests.outcome != "cancelled"]
    assert 0 < requests.foreign_tokens.sum() <= recovered(done)["lies"]
    begun = recovered(done)["gone_ns"]
    assert requests[requests.t_start_ns > begun].foreign_tokens.sum() == 0


def test_a_known_lie_passes(tmp_path: Path) -> None:
    known = [f"{{violation: {name}, window: 'fault:lie', reason: test, expires: 2199-01-31}}"
             for name in ("foreign_tokens", "lost_tokens")]  # fmt: skip
    done = lying(tmp_path, "fault: engine.corrupt, at_token: 50, hold_s: 4", f"known=[{', '.join(known)}]")
    assert done.code == 0, done.out + done.err


def test_streams_that_end_early(tmp_path: Path) -> None:
    done = lying(tmp_path, "fault: engine.end_early, one_in: 2, hold_s: 4")
    assert done.code == 1, done.out + done.err
    assert broken(done) == {"short_stream", "missing_finish", "streams_complete"}


def test_hung_streams_migrate_where_the_frontend_gives_up_on_them(tmp_path: Path) -> None:
    env = 'sut.env={DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS: "2"}'
    done = lying(tmp_path, "fault: engine.hang, at_token: 40, hold_s: 5", env)
    assert done.code == 0, done.out + done.err
    assert (done.requests.migrated > 0).any()


def test_a_death_migrates_every_stream(tmp_path: Path) -> None:
    done = lying(tmp_path, "fault: engine.die, at_token: 60, restart_after_s: 1")
    assert done.code == 0, done.out + done.err
    verified = next(line for line in done.journal if line["phase"] == "verified")["evidence"]
    assert verified["exit_code"] == 1
    assert (done.requests.migrated > 0).any()
    assert done.invariant("ledger_agrees")["ok"] is True


def test_a_lie_that_never_happens_is_invalid(tmp_path: Path) -> None:
    done = lying(tmp_path, "fault: engine.hang, at_token: 4000, hold_s: 4, within_s: 2")
    assert done.code == 4, done.out + done.err
    assert "did not hang within 2 s" in done.out
