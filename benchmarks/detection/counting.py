"""Counts: migrations per stream in flight, and rejections, through judge_counts itself."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.stats.counts import judge_counts

TIMES = 4000
PAIRS = 5
COLUMNS = ["pair_id", "arm", "kind", "x", "n"]


def measure(seed: int) -> tuple[str, dict[str, float]]:
    """Shares of `regression` verdicts by kind of experiment."""
    rng = np.random.default_rng(seed)
    found = {
        name: float(
            np.mean(
                [
                    judge_counts(make(rng), shed_archive(rng) if warm else None).status == "regression"
                    for _ in range(TIMES)
                ]
            )
        )
        for name, make, warm in (
            ("migrations 1.0 to 0.9", lambda r: migrations(r, 0.9), False),
            ("migrations equal, counts +-40%", lambda r: migrations(r, 1.0), False),
            ("rejections 0 to 1 pp", lambda r: rejections(r, 0.0, 0.01, 0.0), False),
            ("rejections 2% to 3%", lambda r: rejections(r, 0.02, 0.03, 0.0), False),
            ("rejections 0 to 1 pp, overdispersed", lambda r: rejections(r, 0.0, 0.01, 0.3), True),
            ("rejections equal, 2%", lambda r: rejections(r, 0.02, 0.02, 0.0), False),
            ("rejections equal, overdispersed", lambda r: rejections(r, 0.02, 0.02, 0.3), False),
            ("rejections equal, overdispersed, archive", lambda r: rejections(r, 0.02, 0.02, 0.3), True),
        )
    }
    lines = [
        f"### Counts, 5 pairs (seed {seed}, {TIMES} experiments each)",
        "",
        "| experiment | regression |",
        "|---|---|",
    ]
    lines += [f"| {name} | {share:.3f} |" for name, share in found.items()]
    return "\n".join(lines), found


def migrations(rng: np.random.Generator, ratio: float) -> pd.DataFrame:
    """Each run kills a worker with 24 streams +-40% in flight, each migrated with that probability."""
    rows = []
    for pair in range(PAIRS):
        for arm in "AB":
            k = max(24 if arm == "B" else 1, round(30 * rng.uniform(0.6, 1.4)))
            rows.append((pair, arm, "migrated", rng.binomial(k, ratio if arm == "B" else 1.0), k))
    return pd.DataFrame(rows, columns=COLUMNS)


def rejections(rng: np.random.Generator, a: float, b: float, spread: float) -> pd.DataFrame:
    """Rejected of 1000 a run; spread: log sd of the run's own rate."""
    rows = []
    for pair in range(PAIRS):
        for arm, rate in (("A", a), ("B", b)):
            own = min(1.0, rate * float(np.exp(rng.normal(-(spread**2) / 2, spread))))
            rows.append((pair, arm, "shed", rng.binomial(1000, own), 1000))
    return pd.DataFrame(rows, columns=COLUMNS)


def shed_archive(rng: np.random.Generator) -> pd.DataFrame:
    """30 A/A pairs of the overdispersed rejections, one row a run."""
    parts = [rejections(rng, 0.02, 0.02, 0.3) for _ in range(6)]
    whole = pd.concat([part.assign(pair_id=part["pair_id"] + PAIRS * k) for k, part in enumerate(parts)])
    return whole.assign(metric="shed_ratio", kind="aa")


def bars(found: dict[str, float]) -> list[tuple[str, float, float, bool]]:
    """(target, figure, bar, at least)."""
    equal = max(found[name] for name in found if name.startswith("rejections equal"))
    return [
        ("migrations 1.0 to 0.9, >= 120 in flight, >= 99%", found["migrations 1.0 to 0.9"], 0.99, True),
        ("... counts alone +-40%: no alarm", found["migrations equal, counts +-40%"], 0.0, False),
        ("rejections 0 to +1 pp >= 99%", found["rejections 0 to 1 pp"], 0.99, True),
        ("... A/A <= 1%", equal, 0.01, False),
    ]
