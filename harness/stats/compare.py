"""Did the candidate get worse? Interleaved pairs of runs against an archive of noise, look by look.

`judge` is a pure function of DataFrames and knows no files. The method, with its limits, is
docs/detection.md; each step has a module: pairs, scale, estimate, guard, looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.core.errors import InvalidRun
from harness.stats import findings, looks, scale
from harness.stats import pairs as pairing
from harness.stats.comparison import CODES, Verdict, worst
from harness.stats.counts import judge_counts
from harness.stats.findings import NOT_RECOVERED
from harness.stats.pairs import Pairs
from harness.stats.plan import Plan, fixed
from harness.stats.scale import History

__all__ = ["CODES", "Plan", "Verdict", "fixed", "judge", "judge_counts", "worst"]


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
        plan.spent, pairs.d, plan.metrics, lambda n: findings.tested(pairs, plan.metrics, n), history, noise
    )
    if result is None:
        status = "fail" if "B" in broken else "invalid"
        why = "no gating metric can be tested: each is absent or of too few requests; compare longer runs"
        return Verdict(status, 0, reasons=(*said, why), invariants=invariants)
    rows = findings.rows(result, pairs, plan.metrics, noise)
    status = "fail" if "B" in broken else worst([result.status, "inconclusive"]) if broken else result.status
    notes = (
        *findings.why(result, rows),
        *findings.left_out(rows),
        *findings.about_noise(result, history, noise, plan.metrics),
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
