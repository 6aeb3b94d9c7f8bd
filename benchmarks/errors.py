"""How far a client's times are from the server's: arrivals against sends, on the one clock of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.clients.answers import Answer
from harness.core import rundir
from harness.core.records import RequestRecord

TOLERANCE_US = 1000  # from the server's look at the clock to the arrival


class Seen(NamedTuple):
    """One request as a client saw it. `bound_us`: how far its times may be off, as it says itself."""

    request_id: str
    times: NDArray[np.int64]
    bound_us: int = 0
    coalesced: int = 0


class Errors(NamedTuple):
    """Microseconds; quantiles 50, 99, 99.9 and the largest."""

    ttft_us: tuple[float, ...]
    gap_us: tuple[float, ...]
    requests: int
    missing: int  # requests without a record, or with another number of tokens
    coalesced: float  # share of tokens that arrived with another behind them
    beyond: int  # requests with a time that is further off than they say


def ours(place: Path) -> list[Seen]:
    """From the records file of benchmarks.clients.ours."""
    anchor_ns = json.loads((place / "bench.json").read_text())["anchor_ns"]
    found = []
    for line in rundir.RunDir(place).records(0).read_bytes().splitlines():
        record = msgspec.json.decode(line, type=RequestRecord)
        if record.t_first_ns is None:
            continue
        first_ns = anchor_ns + record.t_first_ns
        # Gaps are differences of whole microseconds since the anchor's zero; so are these times.
        us = first_ns // 1000 + np.cumsum([0, *record.gaps_us], dtype=np.int64)
        times = us * 1000
        times[0] = first_ns
        found.append(Seen(record.request_id, times, record.time_error_us or 0, record.coalesced))
    return found


def plain(answers: Iterable[Answer], tokens: int) -> list[Seen]:
    """From an answers file; the floor counts the events after the tokens, too."""
    return [Seen(one.request_id, np.array(one.times[:tokens], dtype=np.int64)) for one in answers]


def compare(seen: list[Seen], truth: dict[str, Answer]) -> Errors:
    """Each request against what the server noted."""
    ttft, gaps, missing, beyond, coalesced = [], [], 0, 0, 0
    for one in seen:
        sent = truth.get(one.request_id)
        if sent is None or len(sent.times) != len(one.times):
            missing += 1
            continue
        at = np.array(sent.times, dtype=np.int64)
        ttft.append(abs(int(one.times[0] - at[0])) / 1000)
        # Both in whole microseconds, as records have them.
        error = np.abs(np.diff(one.times // 1000) - np.diff(at // 1000))
        gaps.append(error)
        coalesced += one.coalesced
        beyond += int((one.times - at).max()) // 1000 > one.bound_us + TOLERANCE_US
    missing += len(truth) - len(ttft) - missing if len(truth) > len(seen) else 0
    every = np.concatenate(gaps) if gaps else np.array([0])
    return Errors(
        _quantiles(np.array(ttft or [0.0])),
        _quantiles(every),
        len(ttft),
        missing,
        coalesced / (every.size + len(ttft)),
        beyond,
    )


def _quantiles(values: NDArray[np.generic]) -> tuple[float, ...]:
    return (*(float(x) for x in np.quantile(values, [0.5, 0.99, 0.999])), float(values.max()))
