"""Counts that need no pairs of quantiles: rejections as rates, migrations per stream in flight at a fault.

How many streams are in flight when a fault strikes is luck, so migrations are held against their own
number of chances, never against the other arm's count. Each test has a level of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import InvalidRun
from harness.stats.comparison import Verdict, worst
from harness.stats.pairs import ARMS, Floats
from harness.stats.plan import Plan
from harness.stats.scale import COLD, LAST_PAIRS, WEIGHT

KINDS = ("shed", "migrated")
NAMES = {"shed": "shed_ratio", "migrated": "migrated_ratio"}
ARCHIVED = {"shed": ("shed_ratio", "shed"), "migrated": ("migrated_ratio", "migrated", "migrations_ledger")}
MARGIN = 0.01  # of the rejection rate, absolute
PASS_LEVEL = 0.05
# Of each test. At 1% equal systems with overdispersed rejections were called a regression in 1.0% to 1.2% of the
# experiments of `python -m benchmarks detection`, because phi is estimated from ten runs and never below 1.
LEVEL = 0.0075
MIGRATED = 0.99  # of the streams in flight, at least


def judge_counts(
    counts: pd.DataFrame, archive: pd.DataFrame | None = None, plan: Plan | None = None
) -> Verdict:
    """Counts [pair_id, arm, kind shed|migrated, x, n] of the pairs that were used.

    shed: x rejected of n sent; migrated: x migrations for n streams in flight on the target. archive: rows
    with metric shed_ratio or migrated_ratio (or the kind's name) carry x and n. The plan names no levels
    for counts; it is taken so that both judges are called alike.
    """
    del plan
    try:
        frame = _frame(counts)
        earlier = {kind: _archived(archive, kind) for kind in KINDS}
    except InvalidRun as error:
        return Verdict("invalid", 0, reasons=(str(error),))
    judged = [
        JUDGES[kind](frame[frame["kind"] == kind], earlier[kind])
        for kind in KINDS
        if (frame["kind"] == kind).any()
    ]
    return Verdict(
        worst([str(row["status"]) for row, _ in judged]),
        int(frame["pair_id"].nunique()),
        tuple(row for row, _ in judged),
        tuple(reason for _, reason in judged if reason),
    )


def _frame(counts: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("pair_id", "arm", "kind", "x", "n") if name not in counts.columns]
    if missing:
        raise InvalidRun(f"counts lack the column {', '.join(missing)}; they need pair_id, arm, kind, x, n")
    if not len(counts):
        raise InvalidRun("no counts to compare; give x and n of each run, or leave counts out")
    for column, right in (("arm", ARMS), ("kind", KINDS)):
        wrong = sorted({str(one) for one in counts[column].unique()} - set(right))
        if wrong:
            raise InvalidRun(f"counts: {column} {wrong[0]!r} is none of {', '.join(right)}")
    frame = counts.assign(
        **{name: pd.to_numeric(counts[name], errors="coerce") for name in ("pair_id", "x", "n")}
    ).sort_values(["kind", "pair_id", "arm"])
    for row in frame.to_dict("records"):
        place = f"counts: pair {row['pair_id']}, arm {row['arm']}, {row['kind']}"
        if not (row["x"] >= 0 and row["n"] >= 0 and np.isfinite(row["x"] + row["n"])):
            raise InvalidRun(f"{place}: x {row['x']} of n {row['n']} is no count; run the pair again")
        if row["kind"] == "shed" and row["x"] > row["n"]:
            raise InvalidRun(
                f"{place}: {row['x']:g} rejected of {row['n']:g} sent; look at that run's records"
            )
    if frame.duplicated(["pair_id", "arm", "kind"]).any():
        twice = frame[frame.duplicated(["pair_id", "arm", "kind"])].iloc[0]
        raise InvalidRun(
            f"counts: pair {twice['pair_id']}, arm {twice['arm']}, {twice['kind']} is there twice; remove one"
        )
    arms = frame.groupby(["kind", "pair_id"])["arm"].nunique()
    if (arms < len(ARMS)).any():
        kind, pair_id = arms.index[arms < len(ARMS)][0]
        raise InvalidRun(f"counts: pair {pair_id} has {kind} of one arm only; run the pair again")
    return frame


def _archived(archive: pd.DataFrame | None, kind: str) -> pd.DataFrame:
    """x, n of earlier pairs: columns group (pair_id, kind), x, n, weight."""
    empty = pd.DataFrame({"pair_id": [], "kind": [], "x": [], "n": []}, dtype=object)
    if archive is None or not len(archive) or not {"metric", "x", "n"} <= set(archive.columns):
        return empty
    rows = archive[archive["metric"].isin(ARCHIVED[kind])]
    if "valid" in rows.columns:
        rows = rows[rows["valid"].astype(bool)]
    rows = rows.assign(
        x=pd.to_numeric(rows["x"], errors="coerce"), n=pd.to_numeric(rows["n"], errors="coerce")
    )
    rows = rows[(rows["n"] > 0) & (rows["x"] >= 0)]
    last = np.sort(rows["pair_id"].unique())[-LAST_PAIRS:]
    return rows[rows["pair_id"].isin(last)].sort_values(["pair_id", "kind", "x", "n"])


def _sums(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    """x and n of arms A and B."""
    by_arm = frame.groupby("arm")[["x", "n"]].sum().reindex(list(ARMS))
    return by_arm["x"].to_numpy(np.float64), by_arm["n"].to_numpy(np.float64)


def _shed(frame: pd.DataFrame, earlier: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Pooled rates with overdispersion: t = (p_B - p_A) / sqrt(phi p (1 - p) (1/N_A + 1/N_B)).

    phi = max(1, (nu0 phi0 + X2) / (nu0 + df)), X2 Pearson's around each arm's own rate, df = runs - 2;
    t has nu0 + df degrees of freedom. phi0, nu0 from the archive; cold: 1 and 0.
    """
    from scipy.stats import t

    x, n = _sums(frame)
    if not n.all():
        row = _row("shed", x, n, status="invalid", note="no request was sent")
        return row, "shed_ratio: an arm sent no request; run the pairs again"
    rate = x / n
    p = float(x.sum() / n.sum())
    own = np.where(frame["arm"] == "A", rate[0], rate[1])
    x2 = _pearson(frame["x"].to_numpy(np.float64), frame["n"].to_numpy(np.float64), own)
    runs = len(frame)
    phi0, nu0 = _dispersion(earlier)
    df = nu0 + runs - 2
    if df <= 0:
        row = _row("shed", x, n, status="invalid", note="one pair only")
        return row, "shed_ratio: 1 pair; a verdict needs at least 2"
    phi = max(1.0, (nu0 * phi0 + x2) / df)
    se = float(np.sqrt(phi * p * (1 - p) * (1 / n).sum()))
    off = float(rate[1] - rate[0])
    p_reg, p_imp = (1.0, 1.0) if se == 0 else (float(t.sf(off / se, df)), float(t.sf(-off / se, df)))
    bound = off + float(t.isf(PASS_LEVEL, df)) * se
    reach = float(t.isf(0.025, df)) * se
    status = (
        "regression"
        if p_reg < LEVEL
        else "improvement" if p_imp < LEVEL else "pass" if bound < MARGIN else "inconclusive"
    )  # fmt: skip
    row = _row(
        "shed", x, n, status=status, p_regression=p_reg, p_improvement=p_imp,
        delta_ratio=off / float(rate[0]) if rate[0] else None,
        note=f"rates differ by {off:+.3%} of all requests (95% {off - reach:+.3%} to {off + reach:+.3%})",
    )  # fmt: skip
    said = {
        "regression": f"shed_ratio rose from {rate[0]:.3%} to {rate[1]:.3%} (p {p_reg:.2g})",
        "inconclusive": f"shed_ratio undecided: {off:+.3%}, up to {bound:+.3%}; margin {MARGIN:.0%}",
    }
    return row, said.get(status, "")


def _pearson(x: Floats, n: Floats, rate: Floats | float) -> float:
    """Pearson's X2 of counts x of n around a rate; a rate of 0 or 1 has no variance to exceed."""
    variance = n * rate * (1 - rate)
    off = (x - n * rate) ** 2
    return float(np.divide(off, variance, out=np.zeros_like(off), where=variance > 0).sum())


def _dispersion(earlier: pd.DataFrame) -> tuple[float, float]:
    """phi0 and its degrees of freedom: Pearson's X2 within archived pairs, or between them where each is one row."""
    pairs = earlier.groupby(["pair_id", "kind"]) if len(earlier) else None
    if pairs is None or pairs.ngroups < COLD:
        return 1.0, 0.0
    x, n = earlier["x"].to_numpy(np.float64), earlier["n"].to_numpy(np.float64)
    kinds, size = pairs["kind"].first(), pairs["x"].size()
    if pairs.ngroups == len(earlier):
        rate: Floats | float = float(x.sum() / n.sum())
        df = len(earlier) - 1
    else:
        rate = (pairs["x"].transform("sum") / pairs["n"].transform("sum")).to_numpy(np.float64)
        df = len(earlier) - pairs.ngroups
        kinds = kinds[size > 1]
    nu0 = sum(WEIGHT.get(str(kind), 0.0) for kind in kinds)
    return _pearson(x, n, rate) / df, nu0


def _migrated(frame: pd.DataFrame, earlier: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Candidate's migrations of its streams in flight: too few by the binomial lower tail against
    min(.99, the archive's 1% quantile), too many (more than one each) by the Poisson upper tail."""
    from scipy.stats import binom, poisson

    x, k = _sums(frame)
    if not k.all():
        row = _row("migrated", x, k, status="invalid", note="nothing was in flight")
        return row, "migrated_ratio: an arm had no stream in flight at the fault; send more load"
    warm = len(earlier) >= COLD
    least = MIGRATED
    if warm:
        ratios = (earlier["x"] / earlier["n"]).to_numpy(np.float64)
        least = min(MIGRATED, float(np.quantile(ratios, 0.01)))
    few = float(binom.cdf(x[1], k[1], least)) if x[1] <= k[1] else 1.0
    many = float(poisson.sf(x[1] - 1, k[1])) if x[1] > k[1] else 1.0
    p = min(few, many)
    status = "regression" if p < LEVEL else "pass"
    row = _row(
        "migrated", x, k, status=status, p_regression=p, p_improvement=None,
        delta_ratio=float(x[1] / k[1] / (x[0] / k[0]) - 1) if x[0] else None,
        note=f"per stream in flight at the fault; at least {least:.3g}" + ("" if warm else " (cold start)"),
    )  # fmt: skip
    what = f"{x[1]:g} migrations of {k[1]:g} streams in flight (p {p:.2g})"
    why = "too few" if few < many else "more than one each"
    return row, f"migrated_ratio: {why}: {what}" if status == "regression" else ""


def _row(kind: str, x: Floats, n: Floats, **known: Any) -> dict[str, Any]:
    """A line of `metrics`; baseline and candidate are rates."""
    rates = [float(one / all_) if all_ else None for one, all_ in zip(x, n, strict=True)]
    empty = dict.fromkeys(
        ("delta_ratio", "ci_low", "ci_high", "p_regression", "p_improvement", "mde_ratio", "more_pairs")
    )
    window = {"shed": "all", "migrated": "fault"}[kind]
    return {
        **empty, "metric": NAMES[kind], "window": window, "unit": "ratio", "baseline": rates[0],
        "candidate": rates[1], "note": "", **known,
    }  # fmt: skip


JUDGES = {"shed": _shed, "migrated": _migrated}
