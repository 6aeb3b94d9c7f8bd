"""What users and operators saw of each fault: detect, mitigate, recover, silent seconds, and the loss.

Computed from hurt bins, health states, the listing of instances and the steady state; definitions in
the docstring of each function. Knows no gate and no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.core.clock import MS, NS
from harness.core.config import Slo
from harness.stats import events, health
from harness.stats.analysis import FaultEvent, Floats, Interval, Ints, Loss, Readiness, Service, Window
from harness.stats.health import GREEN, UNKNOWN, States
from harness.stats.hurt import BIN_NS, Hurt, bins_of, bins_within, open_clients
from harness.stats.streams import ABSENT, Bools, Streams

FREE_BINS = 10  # 1 s without hurt: mitigated
GOOD_NS = 5 * NS  # so long as good as steady: recovered
STEP_NS = BIN_NS
TOLERANCE = 0.10
MONTH_BUDGET_S = 0.001 * 30 * 86400  # downtime that 99.9% allows in 30 days
MAX_IDS = 20


@dataclass(frozen=True)
class Seen:
    """The whole run as bins: made once, used for every fault."""

    hurt: Hurt
    bins: int
    ready: States  # readiness signals together
    all_green: States  # every health check together
    has_probes: bool
    changes: pd.DataFrame  # health.listed
    unlisted: tuple[Interval, ...]


def good(streams: Streams, slo: Slo) -> Bools:
    """ok, ttft <= slo.ttft_ms, and mean gap <= slo.itl_ms (a request without gaps has none too long).

    A whole answer has neither: it is good within slo.ttft_ms + slo.itl_ms for each token after the first.
    """
    counts = np.diff(streams.offsets)
    mean_us = streams.gap_sum_us / np.maximum(counts, 1)
    ttft_ok = (streams.first != ABSENT) & (
        streams.first - streams.start <= streams.allowed_ns(slo.ttft_ms, slo.itl_ms)
    )
    return np.asarray(streams.is_("ok") & ttft_ok & (mean_us <= slo.itl_ms * 1000), bool)


def silent_s(hurt: Hurt, states: States, intervals: tuple[Interval, ...], known: bool) -> float | None:
    """Seconds of 100 ms bins with their middle in the window, in which a client is hurt while all is green.

    None when a bin with a hurt client has no probe to tell (or none was ever made).
    """
    if not known:
        return None
    bins = (b for interval in intervals for b in range(*bins_within(interval)))
    hurt_bins = [b for b in bins if 0 <= b < len(hurt.clients) and hurt.clients[b] > 0]
    of = [int(states[b]) if b < len(states) else UNKNOWN for b in hurt_bins]
    return None if UNKNOWN in of else of.count(GREEN) * BIN_NS / NS


def detect_s(seen: Seen, probes: pd.DataFrame, of_id: Sequence[FaultEvent], horizon_ns: int) -> float | None:
    """Effective to the first red probe of the target, or to its leaving a frontend's list.

    Looked for from the injection, because what we measure as the effect may be seen later than the
    probes see it (then 0), until the fault is over (recovered). Several targets: the last one's, None
    while one goes unseen.
    """
    found: list[float] = []
    for e in of_id:
        start = e.effective_ns or 0
        end = next((t for t in (e.recovered_ns, e.gone_ns) if t is not None), horizon_ns)
        end = max(end, start + 1)
        since = min(t for t in (e.injected_ns, start) if t is not None)
        for name in e.processes:
            red = health.first_red_ns(probes, name, since, end)
            left = health.left_ns(seen.changes, name, since, end)
            times = [t for t in (red, left) if t is not None]
            if not times:
                return None
            found.append(max(0, min(times) - start) / NS)
    return max(found, default=None)


def mitigate_s(hurt: Hurt, effective_ns: int, until_ns: int, horizon_ns: int) -> float | None:
    """Effective to the end of the last hurt bin before the first 1 s free of hurt after the first one.

    The first hurt bin is looked for until the fault was recovered (`until_ns`); none: 0. None when the
    run ended (`horizon_ns`, its last event) before there was such a second: nobody knows.
    """
    low, high = effective_ns // BIN_NS, max(bins_of((effective_ns, until_ns))[1], effective_ns // BIN_NS + 1)
    clients = hurt.clients
    first = np.flatnonzero(clients[low:high] > 0)
    if not len(first):
        return 0.0
    at = np.flatnonzero(clients[low + int(first[0]) :] > 0) + low + int(first[0])
    breaks = np.flatnonzero(np.diff(at) > FREE_BINS)
    last = int(at[breaks[0]]) if len(breaks) else int(at[-1])
    if not len(breaks) and (last + 1 + FREE_BINS) * BIN_NS > horizon_ns:
        return None
    return ((last + 1) * BIN_NS - effective_ns) / NS


@dataclass(frozen=True)
class Steady:
    """What `recover_s` compares with; None: the run had no steady state."""

    goodput_ratio: float | None
    ttft_p50_ms: float | None


def recover_s(
    streams: Streams, good_rows: Bools, steady: Steady, undo_ns: int, end_ns: int,
    unlisted: Sequence[Interval],
) -> tuple[float | None, bool, str]:  # fmt: skip
    """Undo requested to the start of the first 5 s that are as good as steady: (value, known, note).

    As good: goodput_ratio at least 90% and p50 TTFT at most 110% of steady's (better is never worse),
    and all instances listed throughout. Windows start every 100 ms from the undo, and must end before
    the load does. known False: there was no such window or no steady state, so that nothing is proven.
    """
    starts = np.arange(undo_ns, end_ns - GOOD_NS + 1, STEP_NS, dtype=np.int64)
    if not len(starts):
        return None, False, f"the load ended less than {GOOD_NS // NS} s after the undo"
    if steady.goodput_ratio is None or steady.ttft_p50_ms is None:
        return None, False, "the run has no steady state to compare with"
    ratio = _goodput(streams, good_rows, starts)
    possible = ratio >= (1 - TOLERANCE) * steady.goodput_ratio
    for low, high in unlisted:
        possible &= ~((starts < high) & (starts + GOOD_NS > low))
    has_first = streams.has_ttft
    first = np.sort(streams.first[has_first])
    by_first = np.argsort(streams.first[has_first], kind="stable")
    ttft = (streams.first - streams.start)[has_first][by_first]
    for start in starts[possible]:
        a, b = np.searchsorted(first, [start, start + GOOD_NS])
        if b > a and float(np.median(ttft[a:b])) / MS <= (1 + TOLERANCE) * steady.ttft_p50_ms:
            return (int(start) - undo_ns) / NS, True, ""
    return None, True, "goodput, TTFT or the list of instances never came back to steady"


def _goodput(s: Streams, good_rows: Bools, starts: Ints) -> Floats:
    """goodput_ratio of the requests that overlap [start, start + 5 s), for each start; NaN without any."""
    counted = ~s.is_("cancelled")
    total, hits = (_overlapping(s, rows, starts) for rows in (counted, good_rows))
    ratio: Floats = np.divide(hits, total, out=np.full(len(starts), np.nan), where=total > 0)
    return ratio


def _overlapping(s: Streams, rows: Bools, starts: Ints) -> Ints:
    began = np.searchsorted(np.sort(s.start[rows]), starts + GOOD_NS, side="left")
    ended = np.searchsorted(np.sort(np.maximum(s.end, s.start + 1)[rows]), starts, side="right")
    return np.asarray(began - ended, np.int64)


def services(
    seen: Seen, streams: Streams, good_rows: Bools, steady: Mapping[str, Steady], probes: pd.DataFrame,
    found: Sequence[FaultEvent], windows: dict[str, Window], horizon_ns: int,
    ready: Mapping[str, Readiness],
) -> dict[str, Service]:  # fmt: skip
    """The times of each fault id that took effect. steady, ready: of each (ready by readiness.by_fault)."""
    end_ns = windows["all"].end_ns or 0
    result = {}
    for fault_id in events.fault_ids(found):
        of_id = events.of_id(found, fault_id)
        window = windows[f"fault:{fault_id}"].intervals
        effective = min(e.effective_ns or 0 for e in of_id)
        undo = [e.undo_requested_ns for e in of_id if e.undo_requested_ns is not None]
        if len(undo) == len(of_id):
            back = recover_s(streams, good_rows, steady[fault_id], max(undo), end_ns, seen.unlisted)
        else:
            back = (None, True, "it was never undone")
        result[fault_id] = Service(
            fault_id=fault_id,
            detect_s=detect_s(seen, probes, of_id, horizon_ns) if seen.has_probes else None,
            mitigate_s=mitigate_s(seen.hurt, effective, _over_ns(of_id, horizon_ns), horizon_ns),
            recover_s=back[0],
            recover_known=back[1],
            recover_note=back[2],
            silent_s=silent_s(seen.hurt, seen.ready, window, seen.has_probes),
            silent_all_s=silent_s(seen.hurt, seen.all_green, window, seen.has_probes),
            readiness=ready.get(fault_id, Readiness()),
        )
    return result


def losses(
    seen: Seen, streams: Streams, found: Sequence[FaultEvent], known: dict[str, Service], horizon_ns: int
) -> tuple[Loss, ...]:
    """What users lost to each fault, from its effect until it was recovered and users no longer hurt.

    Overlapping faults both count what was lost in common. Formulas: see analysis.Loss.
    """
    there = np.maximum(open_clients(streams, seen.bins), 1)
    clients = np.zeros(seen.bins, np.int64)
    clients[: len(seen.hurt.clients)] = seen.hurt.clients[: seen.bins]
    result = []
    for fault_id, service in known.items():
        of_id = events.of_id(found, fault_id)
        effective = min(e.effective_ns or 0 for e in of_id)
        over = _over_ns(of_id, horizon_ns)
        if service.mitigate_s is None:
            over = horizon_ns
        else:
            over = max(over, effective + round(service.mitigate_s * NS))
        low, high = bins_of((effective, over))
        rows = seen.hurt.in_bins(low, high)
        hurt_user_s = seen.hurt.user_bins(low, high) * BIN_NS / NS
        outage_s = float((clients[low:high] / there[low:high]).sum()) * BIN_NS / NS
        result.append(_loss(fault_id, of_id, streams.ids(rows, MAX_IDS), len(rows), hurt_user_s, outage_s))
    return tuple(result)


def _loss(
    fault_id: str, of_id: Sequence[FaultEvent], ids: tuple[str, ...], hurt: int, hurt_user_s: float,
    outage_s: float,
) -> Loss:  # fmt: skip
    ratio = outage_s / MONTH_BUDGET_S
    text = (
        f"{hurt} requests hurt for {hurt_user_s:.1f} user-seconds, as much as an outage of {outage_s:.1f} s "
        f"for everybody: {100 * ratio:.2g}% of a month's 99.9% budget ({MONTH_BUDGET_S:.0f} s)"
    )
    return Loss(
        fault_id, of_id[0].fault, tuple(e.target for e in of_id), hurt, ids, hurt_user_s, outage_s,
        ratio, text if hurt else "nobody was hurt",
    )  # fmt: skip


def _over_ns(of_id: Sequence[FaultEvent], horizon_ns: int) -> int:
    """When the last of a fault's targets was recovered; the horizon when one never was."""
    return max(horizon_ns if e.recovered_ns is None else e.recovered_ns for e in of_id)
