"""Faults that wait for a condition, on real Dynamo: struck when it held, and not at all when it never did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pipeline import SHORT, Done, run

from harness.collect import gauges, segments
from harness.core.rundir import RunDir

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


FULL = ("sut.engine_options.max_num_seqs=3", "sut.engine_options.kv_blocks=60")


def test_a_kill_waits_for_a_queue(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, *_faults("queued: 3, within_s: 8"), *FULL)
    assert done.code in (0, 1), done.out + done.err
    why = _journal(done.dir)["injected"]["evidence"]
    held_ns, sent = why["held_ns"], done.requests  # type: ignore[index]
    assert why["value"] >= 3  # type: ignore[index]
    open_then = (sent.t_start_ns <= held_ns) & (sent.t_end_ns > held_ns)
    assert (open_then & ~(sent.t_first_ns <= held_ns)).sum() >= 3  # the client's own count


@pytest.mark.parametrize("engine", ["witness", "mocker"])
def test_a_kill_waits_until_a_cache_is_full_enough(tmp_path: Path, engine: str) -> None:
    done = run(tmp_path / "run", *SHORT, *_faults("kv_use: 0.7, within_s: 8"), *FULL, f"sut.engine={engine}")
    assert done.code in (0, 1), done.out + done.err
    why = _journal(done.dir)["injected"]["evidence"]
    held_ns = why["held_ns"]  # type: ignore[index]
    assert 0.7 <= why["value"] <= 1  # type: ignore[index]
    samples = pd.read_parquet(done.dir / "samples.parquet")
    gauge = samples[samples.metric.isin(gauges.KV_USE) & (samples.process == "worker-1")]
    before = gauge[gauge.t_ns <= held_ns].sort_values("t_ns")
    assert len(before) and before.value.iloc[-1] >= 0.4  # a second ago it was nearly as full, by the observer


def test_a_kill_waits_until_its_target_is_busy(tmp_path: Path) -> None:
    done = run(tmp_path / "run", *SHORT, *_faults("streams: 4, on_target: true, within_s: 8"))
    assert done.code in (0, 1), done.out + done.err
    why = _journal(done.dir)["injected"]["evidence"]
    assert why["when"] == "streams on the target >= 4" and why["value"] >= 4  # type: ignore[index]
    of_target = [
        one for one in segments.read(RunDir(done.dir)) or []
        if one.target == "worker-1" and one.start_mono_ns <= (held := _mono_ns(done, why))
        and (one.end_mono_ns is None or one.end_mono_ns > held)
    ]  # fmt: skip
    assert len(of_target) >= 4  # the engine's own log


def _mono_ns(done: Done, why: Any) -> int:
    return int(done.json("manifest.json")["anchor"]["mono_ns"] + why["held_ns"])


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
