"""Did the candidate get worse? Interleaved pairs of runs against an archive of noise, look by look.

`judge` is a pure function of DataFrames and knows no files. The method, with its limits, is
docs/detection.md; each step has a module: pairs, scale, estimate, guard, looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import Exit, InvalidRun
from harness.stats import estimate as estimating
from harness.stats import looks, scale
from harness.stats import pairs as pairing
from harness.stats.counts import judge_counts
from harness.stats.looks import Result
from harness.stats.pairs import TAIL_REQUESTS, Bools, Floats, Pairs
from harness.stats.plan import GatingMetric, Plan, fixed
from harness.stats.scale import History, Scale
from harness.stats.verdict import SCHEMA, rounded_tree

__all__ = ["Plan", "Verdict", "fixed", "judge", "judge_counts"]

NOT_RECOVERED = "not_recovered"
CODES = {
    "pass": Exit.PASS,
    "improvement": Exit.PASS,
    "fail": Exit.FAIL,
    "regression": Exit.FAIL,
    "inconclusive": Exit.INCONCLUSIVE,
    "invalid": Exit.INVALID,
}
ROW = (
    "metric", "window", "unit", "baseline", "candidate", "delta_ratio", "ci_low", "ci_high", "p_regression",
    "p_improvement", "status", "mde_ratio", "more_pairs", "note",
)  # fmt: skip
LOG_LIMIT = 50.0  # e^50 is a number that JSON and people can still write
SEVERITY = ("fail", "invalid", "regression", "inconclusive", "improvement", "pass")


@dataclass(frozen=True)
class Verdict:
    """A comparison's verdict; verdict.json is `to_dict()`.

    rows: one for each gating metric. pairs_used: those that the deciding look saw. What files alone can
    tell (run ids, gates, ...) the caller adds with dataclasses.replace.
    """

    status: str  # pass | fail | improvement | regression | inconclusive | invalid
    pairs_used: int
    rows: tuple[Mapping[str, Any], ...] = ()
    reasons: tuple[str, ...] = ()
    invariants: tuple[Mapping[str, Any], ...] = ()
    run_ids: tuple[str, ...] = ()
    gates: tuple[Mapping[str, Any], ...] = ()
    known: tuple[Mapping[str, Any], ...] = ()
    faults: tuple[Mapping[str, Any], ...] = ()

    @property
    def exit_code(self) -> int:
        return int(CODES[self.status])

    def to_dict(self) -> dict[str, Any]:
        """verdict.json as plain data, rounded."""
        tree = {
            "schema": SCHEMA,
            "status": self.status,
            "exit_code": self.exit_code,
            "pairs_used": self.pairs_used,
            "run_ids": self.run_ids,
            "metrics": self.rows,
            "gates": self.gates,
            "invariants": self.invariants,
            "known": self.known,
            "faults": self.faults,
            "reasons": self.reasons,
        }
        rounded: dict[str, Any] = rounded_tree(tree)
        return rounded


def worst(statuses: Sequence[str]) -> str:
    """The status of several judgements together: broken invariant, invalid, regression, inconclusive, pass."""
    return min(statuses, key=SEVERITY.index)


def judge(
    values: pd.DataFrame,
    archive: pd.DataFrame | None = None,
    plan: Plan | None = None,
    covariate: pd.Series | None = None,
) -> Verdict:
    """The verdict at the first look that decides, pairs in order of pair_id.

    values: [pair_id, arm A|B, metric, window, value, n], raw (ms, ratio, s); n: requests behind the value.
    archive: [pair_id (order is age), kind aa|residual, metric, window, d], d = log candidate/baseline,
    larger is worse; may be empty (cold start). covariate: log of the machine-speed probe's time B/A by
    pair_id (or a column `c` of values); used if the archive has `c_probe`.
    Data that can't be judged make it `invalid` with a reason; nothing is raised for them.
    """
    plan = plan or Plan()
    try:
        pairs = pairing.read(values, plan.metrics, covariate)
        history = scale.read(archive, plan.metrics)
    except InvalidRun as error:
        return Verdict("invalid", 0, reasons=(str(error),))
    broken = sorted({arm for _, arm in pairs.censored})
    invariants = _invariants(pairs, plan)
    said = _recovery(pairs)
    problems = [*pairs.problems, *_too_few(pairs, plan)]
    if problems:
        status = "fail" if "B" in broken else "invalid"
        return Verdict(status, 0, reasons=(*said, *problems), invariants=invariants)
    pairs, history, about_probe = _without_probe(pairs, history)
    noise = scale.of(history)
    result = looks.until_decided(
        plan.spent, pairs.d, plan.metrics, lambda n: _tested(pairs, plan.metrics, n), history, noise
    )
    if result is None:
        status = "fail" if "B" in broken else "invalid"
        why = "no gating metric can be tested: each is absent or of too few requests; compare longer runs"
        return Verdict(status, 0, reasons=(*said, why), invariants=invariants)
    rows = rows_of(result, pairs, plan.metrics, noise)
    status = "fail" if "B" in broken else worst([result.status, "inconclusive"]) if broken else result.status
    notes = (
        *_why(result, rows),
        *_left_out(rows),
        *_about_noise(result, history, noise, plan.metrics),
    )
    return Verdict(status, result.look.n, tuple(rows), (*said, *notes, *about_probe), invariants)


def _too_few(pairs: Pairs, plan: Plan) -> list[str]:
    need = plan.looks[0]
    if len(pairs) >= need:
        return []
    have = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    return [f"{have}: a verdict needs at least {need}; run {need - len(pairs)} more"]


def _invariants(pairs: Pairs, plan: Plan) -> tuple[dict[str, Any], ...]:
    """not_recovered, where recovery gates and somebody measured it."""
    measured = any(
        t.metric == "recover_s" and not gone for t, gone in zip(plan.metrics, pairs.absent, strict=True)
    )
    if not measured:
        return ()
    return (
        {"name": NOT_RECOVERED, "ok": not pairs.censored, "count": len(pairs.censored), "request_ids": ()},
    )


def _recovery(pairs: Pairs) -> list[str]:
    """What is said of runs that never recovered: candidate's fault, baseline's, or both."""
    by_arm = {arm: [pair for pair, one in pairs.censored if one == arm] for arm in ("A", "B")}
    if not pairs.censored:
        return []
    if not by_arm["B"]:
        return [
            f"baseline broken: {NOT_RECOVERED} in pair {_listed(by_arm['A'])}, arm A; mend it, then compare again"
        ]
    also = f"; also in baseline (pair {_listed(by_arm['A'])})" if by_arm["A"] else ""
    return [f"{NOT_RECOVERED}: pair {_listed(by_arm['B'])}, arm B did not recover before the run ended{also}"]


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def _without_probe(pairs: Pairs, history: History) -> tuple[Pairs, History, tuple[str, ...]]:
    """Differences, tonight's and archived, less what the machine-speed probe explains."""
    if pairs.c is None:
        return pairs, history, ()
    theta = scale.probe_share(history, scale.of(history))
    if not theta.any():
        return (
            pairs,
            history,
            ("machine-speed probe not used: the archive doesn't show that it explains anything",),
        )
    d = pairs.d - theta * pairs.c[:, None]
    note = f"machine-speed probe used: {int((theta > 0).sum())} of {len(theta)} metrics corrected by up to {theta.max():.2f} of it"
    return replace(pairs, d=d), scale.without_probe(history, theta), (note,)


def _observed(pairs: Pairs, metrics: Sequence[GatingMetric], n: int) -> Bools:
    """p99s of too few requests, in the first n pairs: shown, never tested."""
    tail = np.array([one.is_tail for one in metrics])
    few: Bools = tail & (pairs.requests[:n] < TAIL_REQUESTS).any(axis=0) & ~pairs.absent
    return few


def _tested(pairs: Pairs, metrics: Sequence[GatingMetric], n: int) -> Bools:
    known = np.isfinite(pairs.d[:n]).all(axis=0)
    tested: Bools = known & ~pairs.absent & ~_observed(pairs, metrics, n)
    return tested


def rows_of(
    result: Result, pairs: Pairs, metrics: Sequence[GatingMetric], noise: Scale
) -> list[dict[str, Any]]:
    """`metrics` of verdict.json, in the plan's order. p_improvement is p_regression with the arms swapped."""
    from scipy.stats import t

    n = result.look.n
    observed = _observed(pairs, metrics, n)
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
            row |= _shift(one.sign, float(e.m[k]), float(e.se[k] * t.isf(0.025, e.df[k])))
            row |= {
                "p_regression": float(e.p_reg[k]), "p_improvement": float(e.p_imp[k]), "status": result.statuses[k],
                "mde_ratio": float(result.mde[k]), "more_pairs": result.more_pairs[k], "note": result.notes[k],
            }  # fmt: skip
        elif observed[j]:
            only = Scale(noise.s0[[j]], noise.nu0[[j]], noise.pairs[[j]])
            e = estimating.of(pairs.d[:n, [j]], only)
            row |= _shift(one.sign, float(e.m[0]), float(e.se[0] * t.isf(0.025, e.df[0])))
            row |= {
                "status": "observe",
                "note": f"observe only: a run has fewer than {TAIL_REQUESTS} requests",
            }
        else:
            row |= {"status": NOT_RECOVERED, "note": "a run did not recover before it ended"}
    return rows


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


def _why(result: Result, rows: Sequence[Mapping[str, Any]]) -> list[str]:
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


def _left_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    left = [
        f"{row['metric']} in {row['window']} ({row['note']})"
        for row in rows
        if row["status"] in ("absent", "observe")
    ]
    return [f"left out: {', '.join(left)}"] if left else []


def _about_noise(
    result: Result, history: History, noise: Scale, metrics: Sequence[GatingMetric]
) -> list[str]:
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
