"""Made-up experiments: runs of thousands of requests, run-to-run noise of many laws, known shifts.

A bank of runs is simulated request by request once for each law of requests; an experiment draws runs from
it and adds run effects (night, drift, slow wander, own noise, outliers) on top, where the metrics shift by
them as they would: latencies by the effect, E2E by its shares of TTFT and ITL, goodput along its own curve.
Both runs of a pair replay one trace. Columns are the twelve gating metrics in the plan's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats.plan import defaults

Floats = NDArray[np.float64]
Rng = np.random.Generator

METRICS = defaults()
SIGNS = np.array([one.sign for one in METRICS])
GRID = np.linspace(-0.6, 0.8, 29)  # run effects at which a run's goodput is tabulated
RAW_TRACES = 120  # of which the requests themselves are kept, for tests that pool requests
GOOD = 0.97


@dataclass(frozen=True)
class Requests:
    """Law of the requests within a run (logs): AR(1) of neighbours, prompt length, own noise, a Pareto tail."""

    n: int = 2000
    phi: float = 0.7
    wander: float = 0.2
    length: float = 0.35
    own: float = 0.3
    tail: float = 0.02
    alpha: float = 2.0


@dataclass(frozen=True)
class Law:
    """Law of the run effects (logs). total: sd of ttft_p50 between runs of a night that replay a trace, spells
    included, drift and outliers on top. slow: share of AR noise within the night; common: share of each run's
    own noise that all metrics have; base: its distribution. spells: chance that a run is `spell` times
    noisier. drift: sd of the slope, per slot. outliers: chance of a run slowed by Exp(25%). night: sd between
    nights. as_targets: noise as the targets suppose, total 3% and p99s in proportion."""

    name: str
    requests: Requests = Requests()
    total: float = 0.03
    slow: float = 0.0
    phi: float = 0.8
    common: float = 0.5
    base: str = "normal"
    drift: float = 0.0
    night: float = 0.0
    outliers: float = 0.0
    spells: float = 0.0
    spell: float = 2.5
    as_targets: bool = True


@dataclass(frozen=True)
class Bank:
    """What each simulated run says before run effects; arrays (traces, 2 replays)."""

    x: Floats  # (traces, 2, 12) logs
    ttft_share: Floats  # (traces, 2, 3) of E2E p50, p99 and mean
    goodput: Floats  # (traces, 2, len(GRID))
    within: float  # sd of ttft_p50 from requests alone
    raw: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Experiments:
    """a, b: logs of run values, (experiments, pairs, metrics); c: probe's log ratio, (experiments, pairs);
    rows: bank traces behind them; effect_a, effect_b: run effects on TTFT and ITL."""

    a: Floats
    b: Floats
    c: Floats
    rows: NDArray[np.int64]
    effect_a: Floats
    effect_b: Floats

    @property
    def d(self) -> Floats:
        found: Floats = SIGNS * (self.b - self.a)
        return found


def bank(law: Requests, traces: int, rng: Rng) -> Bank:
    """Simulate `traces` traces, each replayed twice."""
    parts = [_replays(law, min(100, traces - done), rng) for done in range(0, traces, 100)]
    raw = {
        name: np.concatenate([part[name] for part in parts])[:RAW_TRACES] for name in ("ttft", "itl", "e2e")
    }
    slo = float(np.quantile(np.concatenate([part["ttft"].ravel()[::7] for part in parts]), GOOD))
    x, share, good = (
        np.concatenate(one) for one in zip(*(_measure(p, slo, rng) for p in parts), strict=True)
    )
    within = float(np.std(x[:, 0, 0] - x[:, 1, 0]) / np.sqrt(2))
    return Bank(x, share, good, within, raw)


def _replays(law: Requests, traces: int, rng: Rng) -> dict[str, Any]:
    """Requests of both replays: prompt and output lengths are the trace's, the rest each replay's own."""
    from scipy.signal import lfilter

    shape = (traces, 2, law.n)
    prompt = rng.normal(0, law.length, (traces, 1, law.n))
    tokens = np.exp(rng.normal(np.log(150), 0.4, (traces, 1, law.n)))
    steps = rng.normal(0, law.wander * np.sqrt(1 - law.phi**2), shape)
    wander = lfilter([1.0], [1.0, -law.phi], steps, axis=2)
    slow = np.where(rng.random(shape) < law.tail, 1 + rng.pareto(law.alpha, shape), 1.0)
    ttft = 0.25 * np.exp(prompt + wander + rng.normal(0, law.own, shape)) * slow
    itl = 0.02 * np.exp(0.5 * wander + rng.normal(0, 0.15, shape))
    itl *= np.where(rng.random(shape) < law.tail, 1 + rng.pareto(law.alpha, shape), 1.0)
    return {
        "ttft": ttft.astype(np.float32),
        "itl": itl.astype(np.float32),
        "e2e": (ttft + itl * tokens).astype(np.float32),
    }


def _measure(part: dict[str, Any], slo: float, rng: Rng) -> tuple[Floats, Floats, Floats]:
    """Metrics of each run of a part: logs (traces, 2, 12), TTFT's share of E2E, goodput along GRID."""
    ttft, itl, e2e = part["ttft"], part["itl"], part["e2e"]
    traces, _, n = ttft.shape
    x = np.zeros((traces, 2, len(METRICS)))
    for j, values in ((0, ttft), (2, itl), (4, e2e)):
        x[..., j], x[..., j + 1] = np.log(np.quantile(values, (0.5, 0.99), axis=2))
    share = np.empty((traces, 2, 3))
    order = np.argsort(e2e, axis=2)
    ordered = np.take_along_axis(ttft, order, 2) / np.take_along_axis(e2e, order, 2)
    share[..., 0] = ordered[..., int(0.4 * n) : int(0.6 * n)].mean(axis=2)
    share[..., 1] = ordered[..., int(0.985 * n) : int(0.995 * n)].mean(axis=2)
    share[..., 2] = (ttft / e2e).mean(axis=2)
    sorted_ttft = np.sort(ttft, axis=2)
    good = np.empty((traces, 2, len(GRID)))
    for g, effect in enumerate(GRID):
        good[..., g] = (sorted_ttft <= slo * np.exp(-effect)).mean(axis=2)
    x[..., 7] = -np.log(e2e.mean(axis=2)) + rng.normal(0, 0.002, (traces, 2))
    start = rng.integers(0, int(0.9 * n), (traces, 1, 1)) + np.zeros((1, 2, 1), np.int64)
    hit = np.take_along_axis(ttft, start + np.arange(int(0.06 * n)), 2)
    x[..., 8] = np.log(1.5 * np.median(hit, axis=2)) + rng.normal(0, 0.15, (traces, 2))
    x[..., 9], x[..., 10] = _stalls(traces, rng)
    x[..., 11] = np.log(3.0) + rng.normal(0, 0.15, (traces, 2))
    return x, share, good


def _stalls(traces: int, rng: Rng) -> tuple[Floats, Floats]:
    """Median and longest stall of the K streams that a kill hit, K negative binomial around 16."""
    k = np.maximum(1, rng.negative_binomial(8, 8 / 24, (traces, 2)))
    stalls = rng.normal(np.log(0.6), 0.3, (traces, 2, int(k.max())))
    hit = np.arange(k.max()) < k[..., None]
    return np.nanmedian(np.where(hit, stalls, np.nan), axis=2), np.where(hit, stalls, -np.inf).max(axis=2)


def _draw(base: str, rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Noise of variance 1 and some other law than the normal."""
    if base == "student":
        return rng.standard_t(4, shape) / np.sqrt(2)
    if base == "lognormal":
        s = 0.6
        return (np.exp(rng.normal(0, s, shape)) - np.exp(s**2 / 2)) / np.sqrt(
            (np.exp(s**2) - 1) * np.exp(s**2)
        )
    if base == "laplace":
        return rng.laplace(0, 1 / np.sqrt(2), shape)
    return rng.normal(0, 1, shape)


def _effects(law: Law, own_sd: float, rng: Rng, nights: int, slots: int) -> Floats:
    """Run effects (nights, slots, 3) on TTFT, ITL and what comes with faults."""
    common = rng.normal(0, law.night, (nights, 1)) if law.night else np.zeros((nights, 1))
    common = common + rng.normal(0, law.drift, (nights, 1)) * np.arange(slots) if law.drift else common
    if law.slow:
        wander = np.empty((nights, slots))
        wander[:, 0] = rng.normal(0, 1, nights)
        for k in range(1, slots):
            wander[:, k] = law.phi * wander[:, k - 1] + np.sqrt(1 - law.phi**2) * rng.normal(0, 1, nights)
        common = common + own_sd * np.sqrt(law.slow) * wander
    size = own_sd * np.sqrt((1 - law.slow) / (1 + law.spells * (law.spell**2 - 1)))
    size = size * np.where(rng.random((nights, slots, 1)) < law.spells, law.spell, 1.0)
    together = _draw(law.base, rng, (nights, slots, 1))
    alone = _draw(law.base, rng, (nights, slots, 3))
    own = size * (np.sqrt(law.common) * together + np.sqrt(1 - law.common) * alone)
    out = np.where(rng.random((nights, slots)) < law.outliers, rng.exponential(0.25, (nights, slots)), 0.0)
    return own + (common + out)[:, :, None]


def experiments(
    law: Law, runs: Bank, rng: Rng, nights: int, pairs: int, *, ttft: float = 0.0, itl: float = 0.0,
    noisier: float = 1.0, probe_r2: float | None = None,
) -> Experiments:  # fmt: skip
    """One experiment a night: pairs in ABBA order. ttft, itl: candidate/baseline - 1. noisier: factor on all
    noise between the arms. probe_r2: share of ttft_p50's difference that the machine-speed probe explains."""
    own_sd = np.sqrt(max(law.total**2 - runs.within**2, 0.0))
    effects = _effects(law, own_sd, rng, nights, 2 * pairs)
    first = np.arange(pairs) % 2  # A first in even pairs, B first in odd ones
    slots = 2 * np.arange(pairs)
    effect_a, effect_b = effects[:, slots + first], effects[:, slots + 1 - first]
    rows = np.stack([rng.choice(len(runs.x), pairs, replace=False) for _ in range(nights)])
    a0, b0 = _values(runs, rows, 0, effect_a), _values(runs, rows, 1, effect_b)
    if noisier != 1.0:
        middle = (a0 + b0) / 2
        a0, b0 = middle + noisier * (a0 - middle), middle + noisier * (b0 - middle)
    shift = np.zeros((nights, pairs, 3)) + np.log1p([ttft, itl, 0.0])
    b = b0 + _values(runs, rows, 1, effect_b + shift) - _values(runs, rows, 1, effect_b)
    c = np.full((nights, pairs), np.nan)
    if probe_r2 is not None:
        moved = b0[..., 0] - a0[..., 0]
        c = moved + rng.normal(0, moved.std() * np.sqrt((1 - probe_r2) / probe_r2), moved.shape)
    return Experiments(a0, b, c, rows, effect_a, effect_b + shift)


def _values(runs: Bank, rows: NDArray[np.int64], replay: int, effect: Floats) -> Floats:
    """Logs of run values (nights, pairs, 12) under run effects."""
    x = runs.x[rows, replay].copy()
    share = runs.ttft_share[rows, replay]
    ttft, itl, fault = effect[..., 0], effect[..., 1], effect[..., 2]
    x[..., 0:2] += ttft[..., None]
    x[..., 2:4] += itl[..., None]
    x[..., 4:6] += share[..., :2] * ttft[..., None] + (1 - share[..., :2]) * itl[..., None]
    x[..., 6] = np.log(_along(runs.goodput[rows, replay], ttft))
    x[..., 7] -= share[..., 2] * ttft + (1 - share[..., 2]) * itl
    x[..., 8] += ttft
    x[..., 9:] += fault[..., None]
    return x


def _along(curve: Floats, effect: Floats) -> Floats:
    """Each run's goodput at its effect, linear between the points of GRID."""
    at = np.clip((effect - GRID[0]) / (GRID[1] - GRID[0]), 0, len(GRID) - 1.001)
    low = at.astype(np.int64)[..., None]
    left, right = np.take_along_axis(curve, low, -1)[..., 0], np.take_along_axis(curve, low + 1, -1)[..., 0]
    found: Floats = np.maximum(left + (at - low[..., 0]) * (right - left), 1e-4)
    return found


def requests_of(runs: Bank, made: Experiments, e: int, name: str, arm: str) -> Floats:
    """The pooled requests of one arm of experiment e; rows must be among the bank's first RAW_TRACES."""
    column = {"ttft": 0, "itl": 1}
    effect = (made.effect_a if arm == "A" else made.effect_b)[e]
    values = runs.raw[name][made.rows[e], 0 if arm == "A" else 1].astype(np.float64)
    if name == "e2e":
        ttft, e2e = (runs.raw[k][made.rows[e], 0 if arm == "A" else 1] for k in ("ttft", "e2e"))
        moved = ttft * np.exp(effect[:, [0]]) + (e2e - ttft) * np.exp(effect[:, [1]])
        return np.asarray(moved, np.float64).ravel()
    return (values * np.exp(effect[:, [column[name]]])).ravel()


DEVELOPMENT = (  # normal noise as in the tables that the method was chosen by
    Law("total 3%", Requests()),
    Law("3% total, 4% outlier runs", Requests(), outliers=0.04),
    Law("total 3.8%, n=1000", Requests(n=1000), total=0.038, as_targets=False),
)
VALIDATION = (
    Law("Student t, 4 df", Requests(phi=0.5, wander=0.25), base="student", common=0.3),
    Law("skewed (log-normal)", Requests(own=0.4), base="lognormal", common=0.7),
    Law("night 3%, drift .3% a slot, wander", Requests(), night=0.03, drift=0.003, slow=0.5, phi=0.9),
    Law("Laplace, 4% outlier runs", Requests(), base="laplace", outliers=0.04),
    Law("heavy tails within runs", Requests(tail=0.08, alpha=1.5, phi=0.9, wander=0.15), as_targets=False),
    Law("noisy spells (15% of runs x2.5)", Requests(), spells=0.15, common=0.4),
    Law("metrics independent", Requests(phi=0.0, wander=0.0), common=0.0),
    Law("one common factor", Requests(), common=1.0),
    Law("Student t, total 5%", Requests(), base="student", total=0.05, as_targets=False),
)
