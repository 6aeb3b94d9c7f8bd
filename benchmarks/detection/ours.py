"""Our method over many made-up experiments: the code behind judge, without the frames around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from benchmarks.detection.generate import METRICS, SIGNS, Experiments, Floats
from harness.core import clock
from harness.stats import guard, looks, scale
from harness.stats.compare import judge
from harness.stats.plan import Plan
from harness.stats.scale import History

ALL = np.ones(len(METRICS), np.bool_)


@dataclass
class Tally:
    """Verdicts counted: by status, pairs used, and how often ttft_p50_ms was named."""

    statuses: list[str] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    named: int = 0
    noisier: int = 0

    def share(self, *statuses: str) -> float:
        return sum(self.statuses.count(one) for one in statuses) / max(1, len(self.statuses))

    @property
    def mean_pairs(self) -> float:
        return float(np.mean(self.pairs))

    @property
    def n(self) -> int:
        return len(self.statuses)


def history(made: Experiments, last: int = 60) -> History:
    """An archive of A/A pairs from nights of experiments."""
    d = made.d.reshape(-1, made.d.shape[2])[-last:]
    return History(d, np.ones(len(d), np.bool_), made.c.reshape(-1)[-last:])


def judge_all(
    tally: Tally, plan: Plan, archive: History, d: Iterable[Floats], c: Iterable[Floats] | None
) -> None:
    """Judge each experiment against one archive; c: with the machine-speed probe."""
    if c is not None:
        theta = scale.probe_share(archive, scale.of(archive))
        archive = scale.without_probe(archive, theta)
        d = [one - theta * probe[:, None] for one, probe in zip(d, c, strict=True)]
    noise = scale.of(archive)
    for one in d:
        result = looks.until_decided(plan.spent, one, METRICS, lambda _: ALL, archive, noise)
        if result is None:
            raise RuntimeError("an experiment has too few pairs for its plan")
        tally.statuses.append(result.status)
        tally.pairs.append(result.look.n)
        tally.named += result.statuses[0] == "regression"
        tally.noisier += result.guard.noisier


def residuals(made: Experiments) -> History:
    """An archive of residuals between consecutive pairs of each night."""
    d = (np.diff(made.d, axis=1) / np.sqrt(2)).reshape(-1, made.d.shape[2])
    return History(d, np.zeros(len(d), np.bool_), np.full(len(d), np.nan))


def frames(pairs: int, archived: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values and archive of equal systems with 5% noise, as judge takes them."""
    rng = np.random.default_rng(1)
    rows = [
        (pair, arm, one.metric, one.window, 0.5 * np.exp(rng.normal(0, 0.05)), 2000)
        for pair in range(pairs)
        for arm in "AB"
        for one in METRICS
    ]
    past = [
        (pair, "aa", one.metric, one.window, sign * rng.normal(0, 0.07))
        for pair in range(archived)
        for one, sign in zip(METRICS, SIGNS, strict=True)
    ]
    return (
        pd.DataFrame(rows, columns=["pair_id", "arm", "metric", "window", "value", "n"]),
        pd.DataFrame(past, columns=["pair_id", "kind", "metric", "window", "d"]),
    )


def speed() -> str:
    """ms for a verdict on 10 pairs x 12 metrics and an archive of 120: with the guard's reference, and again."""
    values, archive = frames(10, 120)
    judge(values, archive.iloc[:0])  # imports
    first, again = [], []
    for _ in range(5):
        guard.reference.cache_clear()
        for times in (first, again):
            began = clock.now_ns()
            verdict = judge(values, archive)
            times.append((clock.now_ns() - began) / clock.MS)
    return (
        f"A verdict on 10 pairs x 12 metrics, {verdict.pairs_used} pairs used: {np.median(first):.0f} ms with the "
        f"guard's reference, {np.median(again):.0f} ms once it is known (median of 5)."
    )
