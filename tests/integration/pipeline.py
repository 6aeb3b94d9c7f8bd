"""squall's command line as a user has it, on scenarios short enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core import proc

ROOT = Path(__file__).resolve().parents[2]
SQUALL = Path(sys.executable).parent / "squall"
QUICKSTART = ROOT / "configs" / "scenarios" / "quickstart.yaml"
SHORT = (
    "load.duration_s=24", "load.warmup_s=2", "load.drain_s=8", "load.users.0.count=8", "load.users.1.count=2",
    "faults.0.at_s=2", "faults.0.restart_after_s=1", "faults.1.at_s=7", "faults.1.hold_s=3",
    "gates=[{metric: ttft_p50_ms, window: steady, max: 2000}]",
    # Tests run beside others on few cores: how late the generator is says nothing here.
    "generator.send_lag_p99_ms=5000", "generator.hub_lag_p99_ms=5000", "generator.coalesced_max_ratio=1",
    "generator.delivered_min_ratio=0",
)  # fmt: skip
NO_FAULTS = ("faults=[]", "load.duration_s=6")


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, outputs, run directory."""

    code: int
    out: str
    err: str
    dir: Path

    def json(self, name: str) -> Any:
        return json.loads((self.dir / name).read_text())

    @property
    def requests(self) -> pd.DataFrame:
        return pd.read_parquet(self.dir / "requests.parquet")

    @property
    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.dir / "journal.jsonl").read_text().splitlines()]

    def invariant(self, name: str) -> dict[str, Any]:
        return next(i for i in self.json("verdict.json")["invariants"] if i["name"] == name)


def command(*argv: str) -> list[str]:
    return [str(SQUALL), *argv]


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def squall(*argv: str, out: Path, timeout_s: float = 150) -> Done:
    """Run a command to its end in a directory of its own."""
    done = subprocess.run(
        command(*argv), capture_output=True, text=True, timeout=timeout_s, cwd=out.parent, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr, out)


def run(out: Path, *overrides: str, scenario: Path = QUICKSTART) -> Done:
    return squall("run", str(scenario), "--out", str(out), *sets(*overrides), out=out)


def left_over(run_id: str) -> list[int]:
    """Pids of anything that a run started and that still lives, its guardian included."""
    marks = (proc.RUN_ENV, proc.SUT_ENV, proc.GUARDIAN_ENV)
    return [pid for pid in proc.pids() if any(proc.environ(pid).get(mark) == run_id for mark in marks)]
