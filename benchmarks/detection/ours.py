"""Our method over many made-up experiments: the code behind judge, without the frames around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.detection.generate import METRICS, Experiments, Floats
from harness.stats import looks, scale
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
