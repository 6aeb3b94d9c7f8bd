"""Did every engine give back what its streams held? By its own account, at the end of the run.

Each segment's end says what the engine still held after it: sequences running and blocks used.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.core.clock import NS
from harness.stats.analysis import FaultEvent, Invariant
from harness.stats.load import RunData
from harness.stats.segments import OPEN

NAME = "engine_resources_freed"
ENDING_NS = NS  # a stream that its client left so shortly before the run's end may still be on its way out
MAX_IDS = 20


def freed(data: RunData, happened: Sequence[FaultEvent], all_known: bool) -> Invariant:
    """Every stream that an engine began it also ended, and after the last one it holds nothing.

    Judged for each engine since it came back from its last fault; one that never did isn't, and none
    is unless all faults are known.
    """
    if data.segments is None or not all_known:
        return Invariant(
            NAME, None, 0, (), "no engine says what it holds" if all_known else "faults without a journal"
        )
    bad: list[str] = []
    ids: list[str] = []
    judged = False
    ends = dict(zip(data.requests.request_id, data.requests.end, strict=True))
    over_ns = max(ends.values(), default=0) - ENDING_NS
    dead, cut_short = data.manifest.get("dead"), data.manifest.get("cut_short_ns") is not None
    for target, segments in data.segments.groupby("target", sort=True):
        born_ns = _born_ns(str(target), happened)
        if born_ns is None or (isinstance(dead, list) and target in dead):
            continue
        mine = segments[segments["start_ns"] > born_ns]
        before = segments[segments["start_ns"] <= born_ns]  # of them a pause lets go on what it stopped
        is_open = mine["end_ns"] == OPEN
        held = [str(name) for name in mine["request_id"][is_open] if ends.get(name, OPEN) < over_ns]
        if held:
            judged = True
            ids += held
            bad.append(f"{target} never ended {len(held)} streams that their clients had left")
        elif not is_open.any() and len(mine) and not (cut_short and (before["end_ns"] == OPEN).any()):
            ended = pd.concat([mine, before[(before["end_ns"] > born_ns) & (before["end_ns"] != OPEN)]])
            last = ended.sort_values("end_ns").iloc[-1]
            if last["running"] >= 0:
                judged = True
                bad += _still(str(target), int(last["running"]), int(last["used"]))
    if not judged:
        return Invariant(NAME, None, 0, (), "no engine says what it holds")
    return Invariant(NAME, not bad, len(bad), tuple(ids[:MAX_IDS]), "; ".join(bad))


def _still(target: str, running: int, used: int) -> list[str]:
    if not running and not used:
        return []
    return [f"{target} ended its last stream and still held {running} sequences and {used} blocks"]


def _born_ns(target: str, happened: Sequence[FaultEvent]) -> int | None:
    """Since when the engine is free of faults; None: it never was again."""
    mine = [e for e in happened if e.target == target]
    if any(not e.recovered or e.recovered_ns is None for e in mine):
        return None
    return max((e.recovered_ns or 0 for e in mine), default=-(2**62))
