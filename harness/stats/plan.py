"""What a comparison is decided by, fixed before the first run: metrics, margins, floors, looks, levels.

Pure data. It belongs to the scenario (`compare:`) and so into the config hash: a plan that is changed after
the data were seen is no plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core import strict
from harness.core.errors import UsageError
from harness.stats.metrics import METRICS

MIN_PAIRS = 3
ALPHA, BETA = 0.01, 0.05
EARLY_ALPHA = 0.0005  # Haybittle-Peto: early looks cost next to nothing of the last one's level
LOOKS = (3, 5, 7, 10)
PASS_SPENT = (0.01, 0.01, 0.015, 0.015)  # of BETA, at the four looks


@dataclass(frozen=True)
class GatingMetric:
    """One gating metric. margin: a change that users may not suffer; floor: one too small to act upon; ratios."""

    metric: str
    window: str
    margin: float
    floor: float

    @property
    def key(self) -> tuple[str, str]:
        return self.metric, self.window

    @property
    def name(self) -> str:
        return f"{self.metric} in {self.window}"

    @property
    def unit(self) -> str:
        known = METRICS.get(self.metric)
        return known.unit if known else ""

    @property
    def sign(self) -> int:
        """+1 where larger is worse, -1 where larger is better."""
        known = METRICS.get(self.metric)
        return -1 if known and known.better == "higher" else 1

    @property
    def is_ratio(self) -> bool:
        return self.metric.endswith("_ratio")

    @property
    def is_tail(self) -> bool:
        """A p99, which a run of few requests doesn't have."""
        return "_p99_" in self.metric


@dataclass(frozen=True)
class Look:
    """One look at the first `n` pairs. alpha: level of REGRESSION (before Holm); beta: level of PASS."""

    n: int
    alpha: float
    beta: float


def defaults(fault: str = "fault", recovery: str = "recovery") -> tuple[GatingMetric, ...]:
    """The twelve metrics that gate unless the scenario says otherwise; windows of the first fault by name."""
    middle = ("ttft_p50_ms", "itl_p50_ms", "e2e_p50_ms", "goodput_ratio", "output_tokens_per_s")
    tails = ("ttft_p99_ms", "itl_p99_ms", "e2e_p99_ms")
    steady = {m: GatingMetric(m, "steady", 0.10, 0.03) for m in middle}
    steady |= {m: GatingMetric(m, "steady", 0.20, 0.05) for m in tails}
    order = (
        "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "e2e_p50_ms", "e2e_p99_ms", "goodput_ratio",
        "output_tokens_per_s",
    )  # fmt: skip
    return (
        *(steady[metric] for metric in order),
        GatingMetric("ttft_p50_ms", fault, 0.40, 0.05),
        GatingMetric("stall_p50_ms", fault, 0.50, 0.05),
        GatingMetric("stall_max_ms", fault, 0.50, 0.05),
        GatingMetric("recover_s", recovery, 0.50, 0.05),
    )


def spend(looks: Sequence[int]) -> tuple[Look, ...]:
    """The levels of each look: alpha sums up to 1%, beta to 5%; one look has all of it.

    alpha: .05% at each look but the last (Haybittle-Peto). beta: 1%, 1%, 1.5%, 1.5% at four looks, else
    equal parts.
    """
    last = len(looks) - 1
    early = min(EARLY_ALPHA, ALPHA / (2 * len(looks)))
    passes = PASS_SPENT if len(looks) == len(PASS_SPENT) else (BETA / len(looks),) * len(looks)
    return tuple(
        Look(n, ALPHA - early * last if k == last else early, passes[k]) for k, n in enumerate(looks)
    )


@dataclass(frozen=True)
class Plan:
    """Looks (numbers of pairs, rising) and gating metrics. One look is a fixed number of pairs.

    Raises UsageError for looks below 3 pairs or out of order, margins or floors that aren't above 0, and
    a metric that gates twice.
    """

    looks: tuple[int, ...] = LOOKS
    metrics: tuple[GatingMetric, ...] = defaults()

    def __post_init__(self) -> None:
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[0] < MIN_PAIRS:
            raise UsageError(
                f"compare.looks: {list(self.looks)} are no looks; name rising numbers of pairs, from {MIN_PAIRS} on"
            )
        if not self.metrics:
            raise UsageError("compare.metrics: no metric gates; name at least one, or leave the key out")
        for tested in self.metrics:
            if not (tested.margin > 0 and tested.floor >= 0):
                raise UsageError(
                    f"compare: {tested.name}: margin {tested.margin:g} and floor {tested.floor:g}; "
                    "margins are above 0, floors not below"
                )
        keys = [tested.key for tested in self.metrics]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise UsageError(f"compare.metrics: {twice[0]} in {twice[1]} is named twice; remove one")

    @property
    def spent(self) -> tuple[Look, ...]:
        return spend(self.looks)


def fixed(pairs: int, plan: Plan | None = None) -> Plan:
    """The plan with one look, at `pairs` pairs."""
    return replace(plan or Plan(), looks=(pairs,))


def of_scenario(
    looks: Sequence[int] | None,
    metrics: Sequence[str] | None,
    margins: Mapping[str, float],
    floors: Mapping[str, float],
    fault_id: str | None,
) -> Plan:
    """The plan of a scenario whose first fault is `fault_id`, with the overrides of its `compare:`.

    A metric is named `ttft_p50_ms` (window steady, or the only one in which it gates) or with its window,
    `ttft_p50_ms@fault:kill`. One that isn't among the twelve takes the margin and floor of steady medians.
    Raises UsageError naming the key.
    """
    windows = (f"fault:{fault_id}", f"recovery:{fault_id}") if fault_id is not None else ("fault", "recovery")
    known = {tested.key: tested for tested in defaults(*windows)}
    if metrics is not None:
        named = [_find(name, known, "compare.metrics") for name in metrics]
        known = {key: known.get(key, GatingMetric(*key, 0.10, 0.03)) for key in named}
    for name, margin in margins.items():
        key = _gating(name, known, "compare.margins")
        known[key] = replace(known[key], margin=margin)
    for name, floor in floors.items():
        key = _gating(name, known, "compare.floors")
        known[key] = replace(known[key], floor=floor)
    return Plan(tuple(looks) if looks is not None else LOOKS, tuple(known.values()))


def _find(name: str, known: Mapping[tuple[str, str], GatingMetric], path: str) -> tuple[str, str]:
    """(metric, window) that a name means."""
    metric, _, window = name.partition("@")
    if metric not in METRICS:
        raise UsageError(f"{path}: {metric!r} is no metric; {strict.nearest(metric, METRICS)}")
    if window:
        return metric, window
    of_metric = [key for key in known if key[0] == metric]
    return of_metric[0] if len(of_metric) == 1 else (metric, "steady")


def _gating(name: str, known: Mapping[tuple[str, str], GatingMetric], path: str) -> tuple[str, str]:
    key = _find(name, known, path)
    if key not in known:
        gating = ", ".join(f"{metric}@{window}" for metric, window in known)
        raise UsageError(f"{path}: {name!r} doesn't gate; gating are {gating}")
    return key
