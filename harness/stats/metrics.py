"""Every metric: its unit, which way is better, in which windows it exists, and its formula.

A metric is a function of a Scope (one window of one run); None means that the value can't be known.
To add one: a function and a line in METRICS. Quantiles are numpy's `linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.collect import counters
from harness.core import strict
from harness.core.clock import NS
from harness.core.config import Scenario
from harness.core.errors import ScenarioError
from harness.core.records import FAILED
from harness.stats import cancels as cancelling
from harness.stats import readiness, service, windows
from harness.stats.analysis import Ints, LedgerEntry, Service, Window
from harness.stats.cancels import Cancels
from harness.stats.load import RunData
from harness.stats.service import Seen
from harness.stats.streams import ABSENT, Bools, Streams, within
from harness.stats.tally import Tally

MIGRATIONS = "dynamo_frontend_model_migration_total"
Kind = Literal["all", "steady", "phase", "fault", "recovery"]
EVERYWHERE: frozenset[Kind] = frozenset({"all", "steady", "phase", "fault", "recovery"})
AT_FAULT: frozenset[Kind] = frozenset({"fault"})


@dataclass(frozen=True)
class Scope:
    """One window of one run, with what several metrics share computed once."""

    data: RunData
    window: Window
    good: Bools  # service.good
    stalls: Ints  # stalls_us
    seen: Seen | None = None
    services: Mapping[str, Service] | None = None
    ledger: tuple[LedgerEntry, ...] = ()
    cancels: Cancels | None = None

    @property
    def streams(self) -> Streams:
        return self.data.requests

    @cached_property
    def rows(self) -> Bools:
        """Requests whose [t_start, t_end) overlaps the window."""
        return self.streams.in_window(self.window.intervals)

    @cached_property
    def gaps(self) -> tuple[Tally, NDArray[np.float64]]:
        """Of the gaps that end in the window: all of them in us, and their mean in each request that has one."""
        s, tally, means = self.streams, Tally(), [np.zeros(0)]
        for low, high in s.blocks(self.window.start_ns or 0, self.window.end_ns or 0):
            if s.gaps_within(low, high, self.window.intervals):  # all of them, so they needn't be looked at
                tally.add(s.gaps_us[s.offsets[low] : s.offsets[high]])
                count = np.diff(s.offsets[low : high + 1])
                means.append(s.gap_sum_us[low:high][count > 0] / count[count > 0])
                continue
            gaps = s.gaps_of(low, high)
            mask = within(gaps.end_ns, self.window.intervals)
            inside, row = gaps.us[mask], gaps.row[mask]
            if len(row):
                count = np.bincount(row - row[0])
                means.append(np.bincount(row - row[0], inside)[count > 0] / count[count > 0])
                tally.add(inside)
        return tally, np.concatenate(means)

    @cached_property
    def values(self) -> dict[str, NDArray[Any]]:
        """Values by family, in ms, that quantiles are taken of."""
        s = self.streams
        first = within(s.first, self.window.intervals) & s.has_ttft
        done = within(s.end, self.window.intervals) & s.closed & s.is_("ok", "corrupted")
        return {
            "ttft": (s.first - s.start)[first] / 1e6,
            "ttft_due": (s.first - s.due)[first] / 1e6,
            "e2e": (s.end - s.start)[done] / 1e6,
            "e2e_due": (s.end - s.due)[done] / 1e6,
            "itl_mean": self.gaps[1] / 1000,
            "stall": self.stalls[self.rows & (self.stalls >= 0)] / 1000,
        }

    @cached_property
    def itl_ms(self) -> dict[float, float]:
        tally, _ = self.gaps
        levels = [0.5, 0.9, 0.99]
        return (
            dict(zip(levels, [us / 1000 for us in tally.quantiles(levels)], strict=True))
            if tally.total
            else {}
        )


@dataclass(frozen=True)
class Metric:
    """compute(scope) -> value in `unit` or None. better: which way is good; None: neither."""

    unit: str
    better: Literal["lower", "higher"] | None
    kinds: frozenset[Kind]
    compute: Callable[[Scope], float | None]

    @property
    def formula(self) -> str:
        """The definition, from the function's docstring."""
        of = self.compute.func if isinstance(self.compute, partial) else self.compute
        return " ".join((of.__doc__ or "").split())


def stalls_us(s: Streams) -> NDArray[np.int64]:
    """Longest gap of each request in us, t_end - t_last included when it was cut; -1 where there is none.

    Cut: stream_error, truncated or timed_out.
    """
    cut = s.is_("stream_error", "truncated", "timed_out") & (s.last != ABSENT)
    tail = np.where(cut, (s.end - np.where(cut, s.last, 0)) // 1000, -1)
    return np.maximum(s.longest_gap_us(), tail)


def quantile(family: str, q: float, scope: Scope) -> float | None:
    """Quantile over the window's values: ttft = t_first - t_start of requests whose t_first is in it
    (streamed ones; in a run without any, t_first is the arrival of the answer),
    e2e = t_end - t_start of complete requests (ok, corrupted) whose t_end is in it, *_due from t_due,
    stall = longest gap (t_end - t_last too when cut) of requests that overlap it, itl_mean = mean per
    request of the gaps that end in it."""
    values = scope.values[family]
    return float(np.quantile(values, q)) if len(values) else None


def itl(q: float, scope: Scope) -> float | None:
    """Quantile over all gaps between tokens that end in the window, requests pooled."""
    return scope.itl_ms.get(q)


def stall_max(scope: Scope) -> float | None:
    """The longest gap of any request that overlaps the window, t_end - t_last included when it was cut."""
    values = scope.values["stall"]
    return float(values.max()) if len(values) else None


def goodput_ratio(scope: Scope) -> float | None:
    """ok within the SLO / (sent - cancelled), of requests that overlap the window; shed is a miss."""
    counted = int((scope.rows & ~scope.streams.is_("cancelled")).sum())
    return int((scope.rows & scope.good).sum()) / counted if counted else None


def output_tokens_per_s(scope: Scope) -> float | None:
    """Tokens that arrived in the window / its length."""
    if not scope.window.length_ns or not len(scope.streams):
        return None
    first = within(scope.streams.first, scope.window.intervals)
    tokens = int(first.sum()) + scope.gaps[0].total + int(scope.streams.whole_tokens(first).sum())
    return tokens / (scope.window.length_ns / NS)


def outcome_ratio(names: tuple[str, ...], scope: Scope) -> float | None:
    """Requests with such an outcome / all that overlap the window (sent); error: the failed ones."""
    sent = int(scope.rows.sum())
    return int((scope.rows & scope.streams.is_(*names)).sum()) / sent if sent else None


def amplification(scope: Scope) -> float | None:
    """Requests that overlap the window / those of them that were no retries: 1 = nothing was asked twice."""
    sent = int(scope.rows.sum())
    again = int((scope.rows & retried(scope.streams)).sum())
    return sent / (sent - again) if sent > again else None


def answered_ratio(scope: Scope) -> float | None:
    """Of the requests that overlap the window and were no retries, those that a client got an answer to (ok)
    in the end, be it by a later attempt; cancelled ones left out."""
    s = scope.streams
    asked = scope.rows & ~retried(s) & ~s.is_("cancelled")
    return int((asked & s.answered).sum()) / int(asked.sum()) if asked.any() else None


def retried(s: Streams) -> Bools:
    """Rows that repeat an earlier attempt."""
    return s.retried


def migrations_counted(kind: str, scope: Scope) -> float | None:
    """Rise of dynamo_frontend_model_migration_total{migration_type} over the window, all frontends.

    It counts attempts: a stream that may not migrate counts as well. None without scrapes of each frontend.
    """
    frontends = frontend_processes(scope.data)
    rises = [
        _rise(scope.data, process, kind, start, end)
        for process in frontends
        for start, end in scope.window.intervals
    ]
    known = [rise for rise in rises if rise is not None]
    return sum(known) if rises and len(known) == len(rises) else None


def _rise(data: RunData, process: str, kind: str, start_ns: int, end_ns: int) -> float | None:
    """Rise in one stretch; one too short to hold a scrape (they come at 1 Hz) adds nothing: the next does."""
    rise = counters.counter_delta(
        data.samples, process, MIGRATIONS, {"migration_type": kind}, start_ns, end_ns
    )
    if rise is None and end_ns - start_ns < 2 * NS:
        times = counters.scrape_times(data.samples, process)
        before, after = np.searchsorted(times, [start_ns, end_ns], side="right")
        return 0.0 if before == after > 0 else None
    return rise


def migrations_ledger(scope: Scope) -> float | None:
    """Sum of `migrated` (segments - 1, told by the engines) of requests that overlap the window."""
    migrated = scope.data.frame["migrated"][scope.rows]
    answered = scope.streams.first[scope.rows] != ABSENT
    if not len(migrated) or migrated.isna().all() or bool((migrated.isna().to_numpy() & answered).any()):
        return None
    return float(migrated.sum())


def in_flight_at_fault(scope: Scope) -> float | None:
    """Streams in flight on the fault's targets when it took effect, from the ledger."""
    of_id = [entry for entry in scope.ledger if entry.fault_id == scope.window.fault_id]
    found = [entry.in_flight for entry in of_id if entry.in_flight is not None]
    return float(sum(found)) if found and len(found) == len(of_id) else None


def of_service(name: str, scope: Scope) -> float | None:
    """detect_s: effective to the first red probe of the target or its leaving the frontend's list.
    mitigate_s: effective to the end of the last hurt bin before the first 1 s free of hurt; 0: nobody hurt.
    recover_s: undo requested to the first 5 s as good as steady; None: never."""
    known = (scope.services or {}).get(scope.window.fault_id or "")
    return None if known is None else getattr(known, name)


def of_readiness(name: str, scope: Scope) -> float | None:
    """By the target's own readiness (its health URLs but /live; of several targets the worst).
    not_ready_s: effective to its first red. ready_s: undo requested to its first green that lasts 5 s.
    false_green_s: 100 ms bins from the effect to recovered in which it is green and can't serve (gone or
    stopped, not listed, or its streams wait and got no token for 1 s). false_red_s: in which it is red,
    listed, and its streams get tokens. None: never, or nobody can tell."""
    known = (scope.services or {}).get(scope.window.fault_id or "")
    return None if known is None else getattr(known.readiness, name)


def silent(every: bool, scope: Scope) -> float | None:
    """Bins of 100 ms in the window with a hurt client while every readiness signal is green
    (silent_all_s: every process's health)."""
    seen = scope.seen
    if seen is None:
        return None
    states = seen.all_green if every else seen.ready
    return service.silent_s(seen.hurt, states, scope.window.intervals, seen.has_probes)


def cancel_abort(q: float, scope: Scope) -> float | None:
    """Quantile over the streams that we cancelled in the window and whose engine stopped before their last
    token: from our leaving until it stopped (1: the longest). From the witness engines' segments."""
    return _of_cancels(scope, "abort_ms", q)


def cancel_wasted(q: float, scope: Scope) -> float | None:
    """Quantile over the streams that we cancelled in the window: tokens that the engine made beyond those
    that had arrived when we left (those under way included). From the witness engines' segments."""
    return _of_cancels(scope, "wasted", q)


def cancel_unaborted(scope: Scope) -> float | None:
    """Streams that we cancelled in the window and whose engine went on to the last token, more than 1 s
    later, or never ended. From the witness engines' segments."""
    if scope.cancels is None:
        return None
    fate = scope.cancels.fate[scope.cancels.within(scope.window.intervals)]
    return float((fate == "unaborted").sum()) if (fate != "unknown").any() else None


def cancel_next_ttft(q: float, scope: Scope) -> float | None:
    """Quantile of the TTFT of requests that the same user sent right after a cancelled one (on a new
    connection), where t_first is in the window."""
    if scope.cancels is None:
        return None
    s, row = scope.streams, scope.cancels.next_row
    row = row[row >= 0]
    row = row[within(s.first[row], scope.window.intervals)]
    return cancelling.quantile((s.first - s.start)[row] / 1e6, q)


def _of_cancels(scope: Scope, name: str, q: float) -> float | None:
    if scope.cancels is None:
        return None
    values = getattr(scope.cancels, name)[scope.cancels.within(scope.window.intervals)]
    return cancelling.quantile(values[~np.isnan(values)], q)


def frontend_processes(data: RunData) -> tuple[str, ...]:
    """Processes whose counters are the frontends': those of that role, else all that were scraped."""
    return data.sut.of_role("frontend") or tuple(counters.processes(data.samples))


def _quantiles(family: str, name: str) -> dict[str, Metric]:
    return {
        name.format(p): Metric("ms", "lower", EVERYWHERE, partial(quantile, family, p / 100))
        for p in (50, 90, 99)
    }


def _ratio(*names: str, better: Literal["lower"] | None = "lower") -> Metric:
    return Metric("ratio", better, EVERYWHERE, partial(outcome_ratio, names))


METRICS: dict[str, Metric] = {
    **_quantiles("ttft", "ttft_p{}_ms"),
    **{f"itl_p{p}_ms": Metric("ms", "lower", EVERYWHERE, partial(itl, p / 100)) for p in (50, 90, 99)},
    "itl_mean_p50_ms": Metric("ms", "lower", EVERYWHERE, partial(quantile, "itl_mean", 0.5)),
    **_quantiles("e2e", "e2e_p{}_ms"),
    **_quantiles("ttft_due", "ttft_p{}_due_ms"),
    **_quantiles("e2e_due", "e2e_p{}_due_ms"),
    "stall_p50_ms": Metric("ms", "lower", EVERYWHERE, partial(quantile, "stall", 0.5)),
    "stall_max_ms": Metric("ms", "lower", EVERYWHERE, stall_max),
    "goodput_ratio": Metric("ratio", "higher", EVERYWHERE, goodput_ratio),
    "output_tokens_per_s": Metric("tokens/s", "higher", EVERYWHERE, output_tokens_per_s),
    "shed_ratio": _ratio("shed"),
    "error_ratio": _ratio(*sorted(FAILED)),
    "cancel_ratio": _ratio("cancelled", better=None),
    "amplification_ratio": Metric("ratio", "lower", EVERYWHERE, amplification),
    "answered_ratio": Metric("ratio", "higher", EVERYWHERE, answered_ratio),
    **{
        f"cancel_abort_{name}_ms": Metric("ms", "lower", EVERYWHERE, partial(cancel_abort, q))
        for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    },
    **{
        f"cancel_wasted_tokens_{name}": Metric("count", "lower", EVERYWHERE, partial(cancel_wasted, q))
        for name, q in (("p50", 0.5), ("max", 1.0))
    },
    "cancel_unaborted": Metric("count", "lower", EVERYWHERE, cancel_unaborted),
    "cancel_next_ttft_p50_ms": Metric("ms", "lower", EVERYWHERE, partial(cancel_next_ttft, 0.5)),
    "migrations_ongoing": Metric("count", None, EVERYWHERE, partial(migrations_counted, "ongoing_request")),
    "migrations_new": Metric("count", None, EVERYWHERE, partial(migrations_counted, "new_request")),
    "migrations_ledger": Metric("count", None, EVERYWHERE, migrations_ledger),
    "in_flight_at_fault": Metric("count", None, AT_FAULT, in_flight_at_fault),
    "detect_s": Metric("s", "lower", AT_FAULT, partial(of_service, "detect_s")),
    "mitigate_s": Metric("s", "lower", AT_FAULT, partial(of_service, "mitigate_s")),
    "recover_s": Metric("s", "lower", frozenset({"fault", "recovery"}), partial(of_service, "recover_s")),
    **{name: Metric("s", "lower", AT_FAULT, partial(of_readiness, name)) for name in readiness.METRICS},
    "silent_s": Metric("s", "lower", EVERYWHERE, partial(silent, False)),
    "silent_all_s": Metric("s", "lower", EVERYWHERE, partial(silent, True)),
}


def compute(scope: Scope, wanted: Collection[str] | None = None) -> dict[str, float | None]:
    """All metrics of one window, or the wanted ones; those that don't exist in this kind of window are None."""
    return {
        name: metric.compute(scope) if scope.window.kind in metric.kinds else None
        for name, metric in METRICS.items()
        if wanted is None or name in wanted
    }


def check_gates(scenario: Scenario, file: str) -> None:
    """Refuse gates and `known` entries on metrics and windows that no run of the scenario can have.

    Raises ScenarioError. Called before a run starts.
    """
    for n, gate in enumerate(scenario.gates):
        if gate.metric not in METRICS:
            raise ScenarioError(
                file, f"gates[{n}].metric", f"{gate.metric!r} is no metric", strict.nearest(gate.metric, METRICS)
            )  # fmt: skip
        _check_window(scenario, gate.window, f"gates[{n}].window", file)
        kinds = METRICS[gate.metric].kinds
        if gate.window.partition(":")[0] not in kinds:
            shown = " or ".join(
                sorted(f"{kind}:<id>" if kind in ("fault", "recovery") else kind for kind in kinds)
            )
            raise ScenarioError(
                file, f"gates[{n}].window", f"{gate.metric} doesn't exist in {gate.window!r}", f"use {shown}"
            )  # fmt: skip
    for n, known in enumerate(scenario.known):
        _check_window(scenario, known.window, f"known[{n}].window", file)


def _check_window(scenario: Scenario, name: str, path: str, file: str) -> None:
    if not windows.exists(scenario, name):
        remedy = strict.nearest(name, windows.names(scenario))
        raise ScenarioError(file, path, f"{name!r} is no window of this scenario", remedy)
