"""What health checks said: each probed URL green, red or unknown in 100 ms bins, and who was listed.

A probe speaks from its start until the next one of its URL starts. Red: no answer, an answer that
took over 1 s (from its start), a status other than 200, or a body that says not ready.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.core.clock import NS
from harness.core.sutfile import ENGINES
from harness.stats.analysis import FaultEvent, Interval, Ints
from harness.stats.events import RESTARTING
from harness.stats.hurt import BIN_NS
from harness.stats.load import SutView

RED, UNKNOWN, GREEN = -1, 0, 1
TIMEOUT_US = 1_000_000
STALE_NS = 2 * NS  # after so long without a probe nothing is known
LISTED = "squall_instance_listed"  # see harness/collect/instances.py
States = NDArray[np.int8]


@dataclass(frozen=True)
class Signal:
    """One probed URL: its states by bin."""

    process: str
    path: str
    states: States


def signals(probes: pd.DataFrame, bins: int) -> tuple[Signal, ...]:
    """Every probed URL over bins 0..bins-1, sorted by process and path.

    A bin is red if any probe that speaks in it is red, green if one speaks and none is red.
    """
    red = is_red(probes)
    found = []
    for (process, path), rows in probes.groupby(["process", "path"], sort=True):
        at = rows["t_ns"].to_numpy(np.int64)
        found.append(Signal(str(process), str(path), _states(at, red[rows.index.to_numpy()], bins)))
    return tuple(found)


def is_red(probes: pd.DataFrame) -> NDArray[np.bool_]:
    """Which probes are red."""
    unready = ~probes["ready"].fillna(True).to_numpy(bool)
    slow = probes["latency_us"].to_numpy() > TIMEOUT_US
    failed = probes["error"].notna().to_numpy()
    return np.asarray((probes["http_status"].to_numpy() != 200) | unready | slow | failed, bool)


def _states(at: Ints, red: NDArray[np.bool_], bins: int) -> States:
    states = np.zeros(bins, np.int8)
    if not len(at) or not bins:
        return states
    starts = np.arange(bins, dtype=np.int64) * BIN_NS
    reds = np.concatenate([[0], np.cumsum(red)])
    low = np.searchsorted(at, starts, side="right") - 1  # the probe that speaks when the bin begins
    high = np.searchsorted(at, starts + BIN_NS, side="left")  # the first one after the bin
    fresh = (low >= 0) & (starts - at[np.maximum(low, 0)] < STALE_NS)
    begin = np.where(fresh, low, low + 1)
    states[high > begin] = GREEN
    states[(high > begin) & (reds[high] - reds[np.minimum(begin, high)] > 0)] = RED
    return states


def readiness(found: tuple[Signal, ...], sut: SutView) -> tuple[Signal, ...]:
    """The signals that a deployment acts on: frontends' readiness; with canaries the workers' too.

    Liveness paths are none. A process that sut.json doesn't name (an outside system's URL) counts as
    a frontend.
    """
    acted = {"frontend", ""} | (ENGINES if sut.canaries else set())
    return tuple(s for s in found if not s.path.endswith("/live") and sut.roles.get(s.process, "") in acted)


def combine(found: tuple[Signal, ...], bins: int) -> States:
    """All together: green where every one is, red where any is, else unknown (none at all: unknown)."""
    if not found:
        return np.zeros(bins, np.int8)
    lowest = np.min([s.states for s in found], axis=0)  # red < unknown < green
    return np.asarray(lowest, np.int8)


def by_process(found: tuple[Signal, ...], bins: int) -> Mapping[str, States]:
    """The states of each process: all its URLs together."""
    names = sorted({s.process for s in found})
    return {name: combine(tuple(s for s in found if s.process == name), bins) for name in names}


def spans(states: States) -> tuple[tuple[float, float, str], ...]:
    """States as (start_s, end_s, word), neighbours of one state joined."""
    words = {RED: "red", UNKNOWN: "unknown", GREEN: "green"}
    if not len(states):
        return ()
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(states)) + 1, [len(states)]])
    scale = BIN_NS / NS
    return tuple((float(a * scale), float(b * scale), words[int(states[a])]) for a, b in pairwise(cuts))


def first_red_ns(probes: pd.DataFrame, process: str, start_ns: int, end_ns: int) -> int | None:
    """When the first red probe of `process` was sent that was under way or sent in [start_ns, end_ns)."""
    rows = probes[is_red(probes) & (probes["process"] == process).to_numpy()]
    over = rows["t_ns"] + rows["latency_us"] * 1000
    rows = rows[(over >= start_ns) & (rows["t_ns"] < end_ns)]
    return None if rows.empty else int(rows["t_ns"].min())


def listed(samples: pd.DataFrame) -> pd.DataFrame:
    """Instances that came (value 1) and went (0) at a frontend: t_ns, process, worker, instance_id, value."""
    rows = samples[samples["metric"] == LISTED]
    labels = [json.loads(text) for text in rows["labels"]]
    return pd.DataFrame(
        {
            "t_ns": rows["t_ns"].to_numpy(np.int64),
            "process": rows["process"].to_numpy(object),
            "worker": [str(one.get("worker") or "") for one in labels],
            "instance_id": [str(one.get("instance_id") or "") for one in labels],
            "value": rows["value"].to_numpy(float),
        }
    )


def left_ns(changes: pd.DataFrame, target: str, start_ns: int, end_ns: int) -> int | None:
    """When `target` first left a frontend's list in [start_ns, end_ns)."""
    rows = changes[(changes["worker"] == target) & (changes["value"] == 0)]
    rows = rows[(rows["t_ns"] >= start_ns) & (rows["t_ns"] < end_ns)]
    return None if rows.empty else int(rows["t_ns"].min())


def unlisted(
    changes: pd.DataFrame, sut: SutView, found: tuple[FaultEvent, ...], horizon_ns: int
) -> tuple[Interval, ...]:
    """Stretches in which not all instances were listed.

    By what the frontends' health bodies listed, where that was recorded for a worker; for a worker
    without such rows by the journal: from a fault's effect on it until `recovered` (serving again). A
    process that was taken away isn't listed until the end of its restart, whatever the frontend says:
    what it lists is then the dead one.
    """
    seen = set(changes["worker"]) - {""}
    intervals: list[Interval] = []
    for (_, worker), rows in changes[changes["worker"] != ""].groupby(["process", "worker"], sort=True):
        if str(worker) in sut.roles:
            intervals += absent(rows, horizon_ns)
    for e in found:
        if e.effective_ns is None:
            continue
        if e.target not in seen:
            intervals.append((e.effective_ns, horizon_ns if e.recovered_ns is None else e.recovered_ns))
        elif e.fault in RESTARTING:
            intervals.append((e.effective_ns, horizon_ns if e.gone_ns is None else e.gone_ns))
    return tuple(sorted((a, b) for a, b in intervals if b > a))


def absent(rows: pd.DataFrame, horizon_ns: int) -> list[Interval]:
    """When none of one worker's instances (a restart has a new id) was on one frontend's list."""
    present: set[str] = set()
    gone_at: int | None = None
    intervals: list[Interval] = []
    for t_ns, instances in rows.groupby("t_ns", sort=True):
        for instance, value in zip(instances["instance_id"], instances["value"], strict=True):
            present = present | {instance} if value else present - {instance}
        if present and gone_at is not None:
            intervals.append((gone_at, int(str(t_ns))))
            gone_at = None
        elif not present and gone_at is None:
            gone_at = int(str(t_ns))
    if gone_at is not None:
        intervals.append((gone_at, horizon_ns))
    return intervals
