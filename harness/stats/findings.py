"""What a look found, as the lines of verdict.json and the reasons that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.stats import estimate as estimating
from harness.stats import scale
from harness.stats.estimate import Estimate
from harness.stats.looks import Result
from harness.stats.pairs import TAIL_REQUESTS, Bools, Floats, Pairs
from harness.stats.plan import GatingMetric
from harness.stats.scale import History, Scale

NOT_RECOVERED = "not_recovered"
ROW = (
    "metric", "window", "unit", "baseline", "candidate", "delta_ratio", "ci_low", "ci_high", "p_regression",
    "p_improvement", "status", "mde_ratio", "more_pairs", "note",
)  # fmt: skip
LOG_LIMIT = 50.0  # e^50 is a number that JSON and people can still write


def observed(pairs: Pairs, metrics: Sequence[GatingMetric], n: int) -> Bools:
    """p99s of too few requests, in the first n pairs: shown, never tested."""
    tail = np.array([one.is_tail for one in metrics])
    few: Bools = tail & (pairs.requests[:n] < TAIL_REQUESTS).any(axis=0) & ~pairs.absent
    return few


def tested(pairs: Pairs, metrics: Sequence[GatingMetric], n: int) -> Bools:
    known = np.isfinite(pairs.d[:n]).all(axis=0)
    taking_part: Bools = known & ~pairs.absent & ~observed(pairs, metrics, n)
    return taking_part


def rows(result: Result, pairs: Pairs, metrics: Sequence[GatingMetric], noise: Scale) -> list[dict[str, Any]]:
    """`metrics` of verdict.json, in the plan's order. p_improvement is p_regression with the arms swapped."""
    n = result.look.n
    only_seen = observed(pairs, metrics, n)
    part = [j for j, one in enumerate(result.tested) if one]
    rows = []
    for j, one in enumerate(metrics):
        row: dict[str, Any] = dict.fromkeys(ROW)
        row |= {"metric": one.metric, "window": one.window, "unit": one.unit, "note": ""}
        rows.append(row)
        if pairs.absent[j]:
            row |= {"status": "absent", "note": "in neither arm"}
            continue
        row |= {"baseline": _median(pairs.a[:n, j]), "candidate": _median(pairs.b[:n, j])}
        if j in part:
            k = part.index(j)
            e = result.estimate
            row |= _shift(one.sign, float(e.m[k]), reach(e, k))
            row |= {
                "p_regression": float(e.p_reg[k]), "p_improvement": float(e.p_imp[k]), "status": result.statuses[k],
                "mde_ratio": float(result.mde[k]), "more_pairs": result.more_pairs[k], "note": result.notes[k],
            }  # fmt: skip
        elif only_seen[j]:
            only = Scale(noise.s0[[j]], noise.nu0[[j]], noise.pairs[[j]])
            e = estimating.of(pairs.d[:n, [j]], only)
            row |= _shift(one.sign, float(e.m[0]), reach(e, 0))
            row |= {
                "status": "observe",
                "note": f"observe only: a run has fewer than {TAIL_REQUESTS} requests",
            }
        else:
            row |= {"status": NOT_RECOVERED, "note": "a run did not recover before it ended"}
    return rows


def reach(estimate: Estimate, k: int) -> float:
    """Half of the 95% interval of shift k."""
    return float(estimate.se[k] * estimating.upper_point(0.025, float(estimate.df[k])))


def _shift(sign: int, m: float, reach: float) -> dict[str, float]:
    """Change of candidate/baseline with its 95% interval, from a shift that is signed for the worse."""
    low, high = sorted((sign * m - reach, sign * m + reach))
    return {
        name: math.expm1(min(value, LOG_LIMIT))
        for name, value in (("delta_ratio", sign * m), ("ci_low", low), ("ci_high", high))
    }


def _median(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def why(result: Result, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The reasons of a regression or of no decision."""
    n = result.look.n
    found = [
        f"{row['metric']} in {row['window']} is {abs(row['delta_ratio']):.1%} "
        f"{'higher' if row['delta_ratio'] > 0 else 'lower'} (95% {row['ci_low']:+.1%} to {row['ci_high']:+.1%}, "
        f"p {row['p_regression']:.2g}, {n} pairs)"
        for row in rows
        if row["status"] == "regression"
    ]
    if found:
        return found
    still = [row for row in rows if row["status"] == "inconclusive"]
    if not still:
        return []
    more = max(row["more_pairs"] for row in still)
    names = ", ".join(f"{row['metric']} in {row['window']}" for row in still)
    return [
        f"undecided after {n} pairs: {names}; about {more} more pair{'s' if more > 1 else ''} would decide"
    ]


def left_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    left = [
        f"{row['metric']} in {row['window']} ({row['note']})"
        for row in rows
        if row["status"] in ("absent", "observe")
    ]
    return [f"left out: {', '.join(left)}"] if left else []


def about_noise(result: Result, history: History, noise: Scale, metrics: Sequence[GatingMetric]) -> list[str]:
    """What a reader must know about where the noise came from."""
    found, tested = [], result.tested
    cold = [one.name for one, bare in zip(metrics, noise.cold & tested, strict=True) if bare]
    if cold:
        which = "all metrics" if len(cold) == tested.sum() else ", ".join(cold)
        found.append(
            f"cold start for {which}: fewer than {scale.COLD} archived pairs, so only these runs' own spread counts "
            "(it rarely decides before 7 to 10 pairs)"
        )
    if result.guard.limit is None:
        if len(cold) < tested.sum():
            found.append(
                f"guard against a noisier night skipped: {len(history)} archived pairs, "
                f"needed {max(scale.COLD, result.look.n)}"
            )
    elif result.guard.noisier:
        found.append(
            f"noise regime changed: this session's spread is {result.guard.lam:.3g} times the archive's variance, "
            f"its 99% limit is {result.guard.limit:.3g}; only these runs' own spread counts"
        )
    return found
