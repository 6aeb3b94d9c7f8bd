"""`squall compare` of ten pairs, as a user has it: imports, twenty runs judged anew, twelve metrics, the verdict."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import msgspec

from benchmarks import judging
from harness.collect.merge import merge
from harness.core import clock, config, ids, manifest, proc, rundir
from harness.core.records import JournalLine

PAIRS, REQUESTS, TOKENS, DURATION_S = 10, 5_000, 100, 300
KILL_S, BACK_S = 60.0, 63.0
FAULT = (
    "faults=[{id: kill, fault: process.kill, select: {role: worker, count: 1}, at_s: 60, restart_after_s: 2}]"
)
AGAIN = 3


def measure(place: Path) -> str:
    """The best of three, and the most memory that one of its processes had."""
    for pair in range(1, PAIRS + 1):
        for arm in "AB":
            _make(place / f"pair-{pair:02d}-{arm.lower()}", pair, arm)
    argv = [str(Path(sys.executable).with_name("squall")), "compare", str(place)]
    seconds = []
    for _ in range(AGAIN):
        began = clock.now_ns()
        done = proc.run(argv)
        seconds.append((clock.now_ns() - began) / clock.NS)
        if done.code not in (0, 3):
            raise RuntimeError(f"squall compare ended with {done.code}: {done.out[-500:]}{done.err[-500:]}")
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        f"{PAIRS} pairs x {REQUESTS} requests x {TOKENS} tokens: {min(seconds):.1f} s (of {AGAIN}: up to "
        f"{max(seconds):.1f} s), largest process {peak_mib:.0f} MiB"
    )


def _make(path: Path, pair: int, arm: str) -> None:
    """One run with a kill, from files as a run leaves them."""
    run = rundir.create(path)
    file = rundir.project_root() / "configs" / "scenarios" / "quickstart.yaml"
    sets = [FAULT, "gates=[]", f"load.duration_s={DURATION_S}", "load.warmup_s=0"]
    scenario = config.load_scenario(file, sets, seed=pair)
    rundir.write_atomic(run.scenario, config.to_yaml(scenario).encode())
    manifest.create(run, scenario, f"bench-{path.name}", [])
    generator = {"send_lag_p99_ms": 1, "hub_lag_p99_ms": 1, "coalesced_ratio": 0}
    manifest.update(run, anchor={"mono_ns": 0, "wall_ns": 0}, counts={"sent": REQUESTS}, generator=generator,
                    experiment_id="bench", pair_id=pair, arm=arm)  # fmt: skip
    sut = {"schema": 1, "oracle": "witness", "processes": [{"name": "worker-1", "role": "worker"}]}
    rundir.write_json(run.sut, sut)
    draw, encoder = ids.rng(pair, arm), msgspec.json.Encoder()
    gaps = [[int(draw.lognormvariate(9.9, 0.2)) for _ in range(TOKENS - 1)] for _ in range(64)]
    level_ms = 50 * draw.lognormvariate(0, 0.02)
    with run.records(0).open("wb") as out:
        for n in range(REQUESTS):
            start, own = n * DURATION_S * clock.NS // REQUESTS, gaps[n % 64]
            first = start + int(level_ms * draw.lognormvariate(0, 0.1) * clock.MS)
            one = judging.record(n, start, first, first + sum(own) * 1000, own)
            out.write(encoder.encode(one) + b"\n")
    run.records_done(0).write_text(f"{REQUESTS}\n")
    run.journal.write_bytes(b"".join(encoder.encode(line) + b"\n" for line in _journal()))
    run.samples_jsonl.touch()
    run.probes_jsonl.touch()
    merge(run)


def _journal() -> list[JournalLine]:
    times = {
        "intent": KILL_S,
        "injected": KILL_S,
        "verified": KILL_S,
        "recovering": KILL_S + 2,
        "recovered": BACK_S,
    }
    return [
        JournalLine(seq=n, t_ns=int(t_s * clock.NS), wall_ns=0, fault_id="kill", fault="process.kill", phase=phase,  # type: ignore[arg-type]
                    target="worker-1")
        for n, (phase, t_s) in enumerate(times.items(), 1)
    ]  # fmt: skip
