"""One run of an experiment, reduced to what comparing needs: values, counts, invariants, what is wrong with it.

Everything is worked out anew from the run's files, so that runs judged long ago by another squall are
held against each other by one definition.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core import config
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.stats import analyse, load, plan
from harness.stats.analysis import Analysis, FaultEvent, GateResult, Invariant, KnownUse, LedgerEntry
from harness.stats.events import SUDDEN
from harness.stats.load import RunData
from harness.stats.streams import ABSENT, within

FAULT_METRICS = (
    "ttft_p50_ms", "stall_p50_ms", "stall_max_ms", "recover_s", "shed_ratio", "error_ratio", "in_flight_at_fault",
    "migrations_ledger", "detect_s", "mitigate_s", "silent_s",
)  # fmt: skip
"""What reports show of each fault, besides the metrics that are judged."""

BACK_NS = 1_000_000  # between a kernel's time stamp and ours
JOURNAL_BACK_NS = 1_000_000_000  # lines of several faults are written by several threads


@dataclass(frozen=True)
class RunFacts:
    """One run. Ids and hashes are the manifest's, None where it doesn't say.

    values: (metric, window) -> value in the metric's unit or None; n: (metric, window) -> of how many requests.
    shed: (x, n) of the measured part; migrated: (migrations, streams in flight when their engine was killed).
    invalid: why the run doesn't count (blind to its arm); damage: what is wrong with its files.
    """

    name: str  # of its directory
    run_id: str
    experiment_id: str
    pair_id: Any
    slot: Any
    arm: Any
    seed: int
    started_at: str
    scenario: Scenario
    config_sha256: str | None
    own_config_sha256: str  # of its scenario.yaml
    trace_sha256: str | None
    fingerprint_class: str | None
    fingerprint: Mapping[str, Any]
    sut_version: str
    probe_ms: float | None
    values: Mapping[tuple[str, str], float | None]
    n: Mapping[tuple[str, str], int]
    shed: tuple[int, int]
    migrated: tuple[int, int] | None
    invariants: tuple[Invariant, ...]
    known: tuple[KnownUse, ...]
    gates: tuple[GateResult, ...]
    events: tuple[FaultEvent, ...]
    invalid: tuple[str, ...]
    damage: tuple[str, ...]
    complete: bool  # all records are there that the files should hold

    @property
    def system(self) -> str:
        """The system under test, to be compared with another run's."""
        tree = config.to_plain(self.scenario)["sut"]
        return json.dumps([self.sut_version, tree], sort_keys=True)

    @property
    def broken(self) -> tuple[Invariant, ...]:
        """Invariants that the system broke. A request without a record counts: nobody may have lost it."""
        return tuple(
            one
            for one in self.invariants
            if one.ok is False
            and (one.breaks == "fail" or (one.name == "no_lost_requests" and self.complete))
        )


def plan_of(scenario: Scenario) -> plan.Plan:
    """What a comparison of runs of this scenario is decided by. Raises UsageError."""
    compare = scenario.compare
    first = scenario.faults[0].id if scenario.faults else None
    return plan.of_scenario(compare.looks, compare.metrics, compare.margins, compare.floors, first)


def read(run: RunDir) -> RunFacts:
    """Judge a run as far as its plan's metrics go. Raises SquallError when it can't be read at all."""
    data = load.read(run)
    wanted: dict[str, set[str]] = {}
    for tested in plan_of(data.scenario).metrics:
        wanted.setdefault(tested.window, set()).add(tested.metric)
    for step in data.scenario.faults:
        for kind in ("fault", "recovery"):
            wanted.setdefault(f"{kind}:{step.id}", set()).update(FAULT_METRICS)
    found = analyse.judge(data, wanted)
    said = load.earlier_reasons(data.manifest)
    own = [reason for reason in data.reasons if reason not in said]
    never_began = not isinstance(data.manifest.get("anchor"), dict)
    damage = [] if said or never_began else [*own, *_backwards(data), *_metrics_file(run)]
    return RunFacts(
        name=run.path.name,
        run_id=data.run_id,
        experiment_id=str(data.manifest.get("experiment_id") or ""),
        pair_id=data.manifest.get("pair_id"),
        slot=data.manifest.get("slot"),
        arm=data.manifest.get("arm"),
        seed=data.scenario.seed,
        started_at=str(data.manifest.get("started_at") or ""),
        scenario=data.scenario,
        config_sha256=_text(data.manifest.get("config_sha256")),
        own_config_sha256=config.config_sha256(data.scenario),
        trace_sha256=_text(data.manifest.get("trace_sha256")),
        fingerprint_class=_text(data.manifest.get("fingerprint_class")),
        fingerprint=_mapping(data.manifest.get("fingerprint")),
        sut_version=str(data.manifest.get("sut_version") or ""),
        probe_ms=_number(data.manifest.get("probe_ms")),
        values={(m, w): _value(found, m, w) for w in found.metrics for m in sorted(found.metrics[w])},
        n=_n(found),
        shed=_shed(found),
        migrated=_migrated(found),
        invariants=found.invariants,
        known=found.known,
        gates=found.gates,
        events=found.events,
        invalid=_invalid(found),
        damage=tuple(dict.fromkeys(damage)),
        complete=data.complete,
    )


def _invalid(found: Analysis) -> tuple[str, ...]:
    """Why the run doesn't count; nothing here depends on how fast the system was."""
    reasons = list(found.invalid_reasons)
    if found.data.manifest.get("interrupted") is True:
        reasons.insert(0, "interrupted")
    elif found.data.manifest.get("restored") is False:
        reasons.append("the host was not as before when it ended")
    elif found.data.manifest.get("valid") is False and not reasons:
        reasons.append("its manifest says that it is not valid")
    for step in found.data.scenario.faults[:1]:
        flying = [e.in_flight for e in found.ledger if e.fault_id == step.id and e.applicable]
        if flying and not any(flying):
            reasons.append(f"fault {step.id}: no stream was in flight on its target")
    return tuple(dict.fromkeys(reasons))


def _value(found: Analysis, metric: str, window: str) -> float | None:
    """The value; infinite for a recovery that is known not to have come."""
    value = found.metrics[window][metric]
    if metric == "recover_s" and value is None and ":" in window:
        service = found.services.get(window.partition(":")[2])
        return math.inf if service is not None and service.recover_known else None
    return value


def _n(found: Analysis) -> dict[tuple[str, str], int]:
    """Complete requests that ended in the window; for goodput those that it is a ratio of."""
    s, counts = found.data.requests, {}
    done = s.closed & s.is_("ok", "corrupted")
    for name, window in found.windows.items():
        complete = int((done & within(s.end, window.intervals)).sum())
        counted = int((s.in_window(window.intervals) & ~s.is_("cancelled")).sum())
        for metric in found.metrics[name]:
            counts[metric, name] = counted if metric == "goodput_ratio" else complete
    return counts


def _shed(found: Analysis) -> tuple[int, int]:
    rows = found.data.requests.in_window(found.windows["all"].intervals)
    return int((rows & found.data.requests.is_("shed")).sum()), int(rows.sum())


def _migrated(found: Analysis) -> tuple[int, int] | None:
    """Migrations and streams in flight at the faults that kill an engine at once.

    Streams that we cancelled before they moved had no reason to. None: there was no such fault, or nobody
    can tell.
    """
    sudden = {e.fault_id for e in found.events if e.fault in SUDDEN}
    entries = [e for e in found.ledger if e.fault_id in sudden and e.applicable]
    column = found.data.frame["migrated"]
    if not entries or column.isna().all():
        return None
    times = dict(zip(found.data.requests.request_id, column.fillna(0).to_numpy(np.int64), strict=True))
    moved = flying = 0
    for entry in entries:
        stayed = sum(1 for name in entry.fates.get("cancelled", ()) if not times.get(name, 0))
        everyone = [name for ids in entry.fates.values() for name in ids]
        flying += len(everyone) - stayed
        moved += _moves(entry, sum(int(times.get(name, 0)) for name in everyone))
    return moved, flying


def _moves(entry: LedgerEntry, by_column: int) -> int:
    """Migrations during the fault, by the engines where they keep a log, else by the records."""
    return by_column if entry.migrations is None else entry.migrations


def _backwards(data: RunData) -> list[str]:
    """Signs of a clock that was set back during the run."""
    s, found = data.requests, []
    first, last = s.first != ABSENT, s.last != ABSENT
    for what, early in (
        ("t_first_ns before t_start_ns", first & (s.first < s.start - BACK_NS)),
        ("t_last_ns before t_first_ns", first & last & (s.last < s.first - BACK_NS)),
        ("t_end_ns before t_last_ns", last & s.closed & (s.end < s.last - BACK_NS)),
    ):
        if early.any():
            found.append(f"requests.parquet: {int(early.sum())} requests have {what}: a clock went backwards")
    times = [line.t_ns for line in data.journal]
    if any(b < a - JOURNAL_BACK_NS for a, b in itertools.pairwise(times)):
        found.append("journal.jsonl: t_ns falls from one seq to the next: a clock went backwards")
    return found


def _metrics_file(run: RunDir) -> list[str]:
    """What is wrong with metrics.json, where there is one. Its values are not used: they are worked out anew."""
    if not run.metrics.exists():
        return []
    try:
        tree = json.loads(run.metrics.read_bytes())
        for window, values in tree.items():
            for metric, value in values.items():
                if value is not None and not math.isfinite(value):
                    return [f"metrics.json: {metric} in {window} is {value}"]
    except (OSError, ValueError, AttributeError, TypeError):
        return ["metrics.json is torn or no JSON of windows and metrics"]
    return []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if ok else None
