"""Merge, metrics and report of a run with many requests, from files as a run leaves them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness.collect.merge import merge
from harness.core import clock, config, ids, manifest, rundir
from harness.core.records import RequestRecord
from harness.stats import analyse
from reports import model, write

REQUESTS, TOKENS = 1_000_000, 100


def measure(place: Path) -> str:
    """Seconds for each of the three."""
    run = _make(place / "run")
    began = clock.now_ns()
    merge(run)
    merged = clock.now_ns()
    analysis = analyse.analyse(run)
    analyse.write(run, analysis)
    analysed = clock.now_ns()
    write.write_all(run, model.build(run, analysis))
    ended = clock.now_ns()
    return (
        f"{REQUESTS} requests x {TOKENS} tokens: merge {(merged - began) / clock.NS:.1f} s, "
        f"metrics {(analysed - merged) / clock.NS:.1f} s, report {(ended - analysed) / clock.NS:.1f} s"
    )


def _make(path: Path) -> rundir.RunDir:
    run = rundir.create(path)
    file = rundir.project_root() / "configs" / "scenarios" / "quickstart.yaml"
    scenario = config.load_scenario(file, ["faults=[]", "gates=[]", "load.duration_s=600", "load.warmup_s=0"])
    rundir.write_atomic(run.scenario, config.to_yaml(scenario).encode())
    manifest.create(run, scenario, "bench", [])
    manifest.update(run, anchor={"mono_ns": 0, "wall_ns": 0}, counts={"sent": REQUESTS})
    draw, encoder = ids.rng(1, "bench"), msgspec.json.Encoder()
    gaps = [[int(draw.lognormvariate(9.9, 0.2)) for _ in range(TOKENS - 1)] for _ in range(64)]
    with run.records(0).open("wb") as out:
        for n in range(REQUESTS):
            start, own = n * 600 * clock.NS // REQUESTS, gaps[n % 64]
            first = start + 50 * clock.MS
            last = first + sum(own) * 1000
            out.write(encoder.encode(record(n, start, first, last, own)) + b"\n")
    run.records_done(0).write_text(f"{REQUESTS}\n")
    return run


def record(n: int, start: int, first: int, last: int, gaps: list[int]) -> RequestRecord:
    return RequestRecord(
        request_id=f"r{n}", worker_index=0, user_class="ChatUser", route="chat", t_due_ns=start, t_start_ns=start,
        t_first_ns=first, t_last_ns=last, t_end_ns=last, status=200, outcome="ok", prompt_tokens=50,
        tokens_expected=TOKENS, tokens_received=TOKENS, usage_prompt_tokens=50, usage_completion_tokens=TOKENS,
        finish_reason="length", gaps_us=gaps,
    )  # fmt: skip
