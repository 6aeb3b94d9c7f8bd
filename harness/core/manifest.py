"""manifest.json: who, when, on what machine, with what; written at the start, completed at the end."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from harness.core import clock, config, rundir
from harness.core.rundir import RunDir


def create(run: RunDir, scenario: config.Scenario, run_id: str, command: list[str]) -> dict[str, Any]:
    """The manifest of a run that is about to start. `anchor` stays null until load starts."""
    print_of_host = fingerprint()
    manifest: dict[str, Any] = {
        "schema": rundir.SCHEMA,
        "run_id": run_id,
        "experiment_id": None,
        "pair_id": None,
        "slot": None,
        "arm": None,
        "started_at": clock.utc_text(clock.wall_ns()),
        "anchor": None,
        "duration_s": scenario.load.duration_s,
        "seed": scenario.seed,
        "scenario": scenario.name,
        "trace_sha256": config.trace_sha256(scenario),
        "config_sha256": config.config_sha256(scenario),
        "squall_version": version(),
        "sut_version": scenario.sut.dynamo or "outside",
        "fingerprint": print_of_host,
        "fingerprint_class": fingerprint_class(print_of_host),
        "generator": None,
        "counts": None,
        "valid": None,
        "invalid_reasons": [],
        "interrupted": False,
        "restored": None,
        "command": command,
    }
    rundir.write_json(run.manifest, manifest)
    return manifest


def version() -> str:
    """squall's own."""
    return importlib.metadata.version("squall-harness")


def read(run: RunDir) -> dict[str, Any]:
    """The manifest. Raises UsageError."""
    manifest: dict[str, Any] = rundir.read_json(run.manifest)
    return manifest


def update(run: RunDir, **changes: Any) -> dict[str, Any]:
    """Replace some keys, atomically. One writer at a time: the run's stages follow each other."""
    manifest = {**read(run), **changes}
    rundir.write_json(run.manifest, manifest)
    return manifest


def add_reasons(run: RunDir, reasons: list[str]) -> None:
    """Write down why the run can't be judged; a reason already there isn't repeated."""
    if reasons:
        old = read(run).get("invalid_reasons") or []
        update(run, invalid_reasons=list(dict.fromkeys([*old, *reasons])))


def fingerprint() -> dict[str, Any]:
    """What runs are comparable on: processor, cores, memory (GiB), kernel, GPUs, a hash of the host's name."""
    gpus = sorted(p.name for p in Path("/proc/driver/nvidia/gpus").glob("*"))
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "gpus": len(gpus),
        "hostname_sha256": hashlib.sha256(platform.node().encode()).hexdigest()[:16],
    }


def fingerprint_class(of: dict[str, Any]) -> str:
    """Machines of one class may share an archive: all of the fingerprint but the host's name."""
    same = {key: value for key, value in of.items() if key != "hostname_sha256"}
    return hashlib.sha256(repr(sorted(same.items())).encode()).hexdigest()[:16]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
