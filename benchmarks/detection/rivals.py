"""Rules that people use instead, each as one number a night: how strange the night looks.

A rule alarms above its limit. `usual` is the limit of its users; at equal family-wise error the limit is
the 99% quantile over A/A nights of the same noise, which no user of these rules has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.detection import otava_venv
from benchmarks.detection.generate import SIGNS, Bank, Experiments, Floats, requests_of

STORED = 30  # runs of the baseline from as many earlier nights
POOLED = ("ttft", "itl", "e2e")


@dataclass(frozen=True)
class Nights:
    """Experiments of 5+5 runs, and for each the runs stored before, (experiments, STORED, metrics) logs."""

    made: Experiments
    stored: Floats
    bank: Bank


def ten_percent(nights: Nights, place: Path) -> Floats:
    """Largest rise of a metric's median over one stored run."""
    del place
    off = SIGNS * (np.median(nights.made.b, axis=1) - nights.stored[:, -1])
    found: Floats = off.max(axis=1)
    return found


def three_sigma(nights: Nights, place: Path) -> Floats:
    """Largest distance of a metric's mean from the stored runs' mean, in their standard deviations."""
    del place
    off = SIGNS * (nights.made.b.mean(axis=1) - nights.stored.mean(axis=1))
    found: Floats = (off / nights.stored.std(axis=1, ddof=1)).max(axis=1)
    return found


def pooled(nights: Nights, place: Path) -> Floats:
    """-log10 of the smallest p of one-sided Mann-Whitney tests on all requests of each arm, times 3 tests."""
    del place
    found = []
    for e in range(len(nights.made.a)):
        worst = 0.0
        for name in POOLED:
            a, b = (requests_of(nights.bank, nights.made, e, name, arm) for arm in "AB")
            test = stats.mannwhitneyu(b, a, alternative="greater", method="asymptotic")
            worst = max(worst, -np.log10(max(float(test.pvalue) * len(POOLED), 1e-300)))
        found.append(worst)
    return np.array(found)


def welch(nights: Nights, place: Path) -> Floats:
    """-log10 of the smallest p of one-sided Welch tests on 5+5 run values, times 12 (Holm's first step)."""
    del place
    test = stats.ttest_ind(
        nights.made.b * SIGNS, nights.made.a * SIGNS, axis=1, equal_var=False, alternative="greater"
    )
    found: Floats = -np.log10(np.clip(test.pvalue.min(axis=1) * len(SIGNS), 1e-300, 1.0))
    return found


def by_otava(level: float) -> Callable[[Nights, Path], Floats]:
    """-log10 of the smallest p of a change for the worse where tonight's 5 runs follow the stored ones."""

    def rule(nights: Nights, place: Path) -> Floats:
        series = np.exp(np.concatenate([nights.stored, nights.made.b], axis=1)).transpose(0, 2, 1)
        points = otava_venv.change_points(series.reshape(-1, series.shape[2]), level, place)
        found = np.zeros(series.shape[:2])
        for k, of_series in enumerate(points):
            e, j = divmod(k, series.shape[1])
            for index, p, before, after in of_series:
                if abs(index - STORED) <= 1 and SIGNS[j] * (after - before) > 0:
                    found[e, j] = max(found[e, j], -np.log10(max(p, 1e-300)))
        worst: Floats = found.max(axis=1)
        return worst

    return rule


@dataclass(frozen=True)
class Rule:
    """tuned: how the rule is measured where its limit is found, if it takes one as a parameter."""

    name: str
    strange: Callable[[Nights, Path], Floats]
    usual: float
    says: str
    tuned: Callable[[Nights, Path], Floats] | None = None


RULES = (
    Rule("+10% of one stored run", ten_percent, float(np.log(1.1)), "a metric 10% worse"),
    Rule("3 sigma of 30 stored runs", three_sigma, 3.0, "a mean 3 sd worse"),
    Rule("pooled Mann-Whitney", pooled, -float(np.log10(0.01)), "Holm p < .01, 3 tests"),
    Rule("Welch + Holm", welch, -float(np.log10(0.01)), "Holm p < .01, 12 tests"),
    Rule(f"otava {otava_venv.version()}", by_otava(0.001), 3.0, "its default, p < .001", by_otava(0.05)),
)
