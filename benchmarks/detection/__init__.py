"""`python -m benchmarks detection`: how often comparisons cry wolf, and how often they see one.

Prints the tables of docs/detection.md. Seeds are below. The method's constants come from elsewhere; laws of
DEVELOPMENT are those that it was chosen by, laws of VALIDATION were never used to choose anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.detection import counting, ours, rivals
from benchmarks.detection.generate import (
    DEVELOPMENT,
    RAW_TRACES,
    VALIDATION,
    Bank,
    Experiments,
    Law,
    bank,
    experiments,
)
from benchmarks.detection.ours import Tally
from harness.core import clock
from harness.stats.plan import Plan, fixed

DEVELOPMENT_SEED, VALIDATION_SEED = 20_101, 90_907
ARCHIVES = 40  # archives a law, each judged against by as many experiments of each kind
EQUAL, SHIFTED = 60, 25  # A/A experiments, and experiments with a shift, an archive
TRACES = 1000
NIGHTS = 1000  # of each kind, for the rules people use
LEVEL = 0.01
BESIDE = (
    VALIDATION[0],  # nights alike, which favours rules that compare with stored runs
    VALIDATION[2],
    replace(VALIDATION[3], name="Laplace, 4% outlier runs, night 2%", night=0.02),
)


def measure(place: Path) -> str:
    """The whole of it, as Markdown."""
    began = clock.now_ns()
    sections = [
        table("Development laws", DEVELOPMENT, DEVELOPMENT_SEED),
        table("Validation laws", VALIDATION, VALIDATION_SEED),
    ]
    text, tallies = zip(*sections, strict=True)
    parts = [*text]
    regimes, noisy = regime(VALIDATION_SEED + 1)
    probes, probe = with_probe(VALIDATION_SEED + 2)
    residuals = residual_archives(VALIDATION_SEED + 5)
    compared, best = beside(place, VALIDATION_SEED + 3)
    counts, counted = counting.measure(VALIDATION_SEED + 4)
    speed = ours.speed()
    parts += [regimes, probes, residuals, compared, counts, speed]
    parts.append(targets(tallies[1], noisy, probe, best, counted))
    parts.append(f"{(clock.now_ns() - began) / clock.NS:.0f} s")
    return "\n\n".join(["", *parts])


def _rng(*path: int) -> np.random.Generator:
    return np.random.default_rng(path)


def tallies_of(law: Law, seed: int) -> dict[str, Tally]:
    """All kinds of experiments under one law. Names: shift and plan."""
    rng = _rng(seed)
    runs = bank(law.requests, TRACES, rng)
    found = {name: Tally() for name in ("aa5", "aa", "10%5", "10%", "20%", "5%")}
    for _ in range(ARCHIVES):
        archive = ours.history(experiments(law, runs, rng, 12, 5))
        for name, count, shift in (
            ("aa", EQUAL, 0.0),
            ("10%", SHIFTED, 0.1),
            ("20%", SHIFTED, 0.2),
            ("5%", SHIFTED, 0.05),
        ):
            d = experiments(law, runs, rng, count, 10, ttft=shift).d
            ours.judge_all(found[name], Plan(), archive, d, None)
            if name + "5" in found:
                ours.judge_all(found[name + "5"], fixed(5), archive, d, None)
    return found


def table(title: str, laws: Sequence[Law], seed: int) -> tuple[str, dict[str, dict[str, Tally]]]:
    """False alarms and power by law of noise."""
    found = {}
    lines = [
        f"### {title} (seed {seed})",
        "",
        "| law | A/A, 5 pairs | A/A, adaptive | +5% TTFT, adaptive | +10%, 5 pairs | +10%, adaptive | +20%, adaptive |",
        "|---|---|---|---|---|---|---|",
    ]
    for k, law in enumerate(laws):
        t = found[law.name] = tallies_of(law, seed * 100 + k)
        cells = [verdicts(t["aa5"]), *(f"{verdicts(t[n])}, {t[n].mean_pairs:.1f}" for n in ("aa", "5%"))]
        cells += [verdicts(t["10%5"]), *(f"{verdicts(t[n])}, {t[n].mean_pairs:.1f}" for n in ("10%", "20%"))]
        lines.append(f"| {law.name} | {' | '.join(cells)} |")
        _say(lines[-1])
    first = found[laws[0].name]
    lines += [
        "",
        f"Each cell: regression/pass/inconclusive (pass includes improvement), mean pairs where adaptive. {first['aa'].n} A/A experiments "
        f"and {first['10%'].n} of each shift a law, against {ARCHIVES} archives of 60 A/A pairs.",
    ]
    return "\n".join(lines), found


def verdicts(t: Tally) -> str:
    figures = (t.share("regression"), t.share("pass", "improvement"), t.share("inconclusive"))
    return "/".join(f"{one:.3f}" for one in figures)


def regime(seed: int) -> tuple[str, dict[str, Tally]]:
    """A/A experiments in a session whose noise is a multiple of the archive's."""
    lines = [
        f"### A session noisier than the archive (A/A, seed {seed})",
        "",
        "| law | x1.5, 5 pairs | x2 | x3 | x1.5, adaptive | x2 | x3 |",
        "|---|---|---|---|---|---|---|",
    ]
    found = {}
    for k, law in enumerate((VALIDATION[0], VALIDATION[2], VALIDATION[3])):
        rng = _rng(seed * 100 + k)
        runs = bank(law.requests, TRACES, rng)
        cells = {(plan, f): Tally() for plan in ("5 pairs", "adaptive") for f in (1.5, 2.0, 3.0)}
        for _ in range(ARCHIVES):
            archive = ours.history(experiments(law, runs, rng, 12, 5))
            for f in (1.5, 2.0, 3.0):
                d = experiments(law, runs, rng, EQUAL // 2, 10, noisier=f).d
                ours.judge_all(cells["5 pairs", f], fixed(5), archive, d, None)
                ours.judge_all(cells["adaptive", f], Plan(), archive, d, None)
        found |= {f"{law.name}, x{f:g}, {plan}": t for (plan, f), t in cells.items()}
        shown = [verdicts(t) for t in cells.values()]
        lines.append(f"| {law.name} | {' | '.join(shown)} |")
        _say(lines[-1])
    lines += ["", f"{ARCHIVES * (EQUAL // 2)} experiments a cell."]
    return "\n".join(lines), found


def with_probe(seed: int) -> tuple[str, dict[str, Tally]]:
    """+10% TTFT in 5 pairs with a machine-speed probe of known R^2."""
    lines = [
        f"### With a machine-speed probe (5 pairs, seed {seed})",
        "",
        "| law | probe's R^2 | A/A | +10% TTFT |",
        "|---|---|---|---|",
    ]
    found = {}
    for k, (law, r2) in enumerate(((VALIDATION[7], 0.92), (VALIDATION[7], 0.5), (VALIDATION[0], 0.92))):
        rng = _rng(seed * 100 + k)
        runs = bank(law.requests, TRACES, rng)
        equal, shifted = Tally(), Tally()
        for _ in range(ARCHIVES):
            archive = ours.history(experiments(law, runs, rng, 12, 5, probe_r2=r2))
            for tally, ttft in ((equal, 0.0), (shifted, 0.1)):
                made = experiments(law, runs, rng, EQUAL // 2, 5, ttft=ttft, probe_r2=r2)
                ours.judge_all(tally, fixed(5), archive, made.d, made.c)
        lines.append(f"| {law.name} | {r2:g} | {verdicts(equal)} | {verdicts(shifted)} |")
        _say(lines[-1])
        found |= {f"{law.name} {r2:g}": shifted, f"{law.name} {r2:g} A/A": equal}
    return "\n".join(lines), found


def residual_archives(seed: int) -> str:
    """No A/A run at all: the archive is residuals of past nights of 5 pairs, some of which had a shift."""
    law = VALIDATION[0]
    lines = [
        f"### Archives without any A/A run ({law.name}, 5 pairs, seed {seed})",
        "",
        "| past nights | A/A | +10% TTFT |",
        "|---|---|---|",
    ]
    for k, past in enumerate((4, 8, 16)):
        rng = _rng(seed * 100 + k)
        runs = bank(law.requests, TRACES, rng)
        equal, shifted = Tally(), Tally()
        for _ in range(ARCHIVES):
            archive = ours.residuals(experiments(law, runs, rng, past, 5, ttft=0.1))
            for tally, ttft in ((equal, 0.0), (shifted, 0.1)):
                d = experiments(law, runs, rng, EQUAL // 2, 5, ttft=ttft).d
                ours.judge_all(tally, fixed(5), archive, d, None)
        lines.append(f"| {past} | {verdicts(equal)} | {verdicts(shifted)} |")
        _say(lines[-1])
    lines += ["", "The past nights had a true shift of 10% each: residuals don't see it."]
    return "\n".join(lines)


def beside(place: Path, seed: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """The rules that people use, at their usual limit and at one that gives 1% false alarms."""
    lines = [
        f"### Beside other rules: 5+5 runs, +10% TTFT (seed {seed})",
        "",
        "| law | rule | A/A as used | +10% as used | limit for 1% | A/A there | +10% there |",
        "|---|---|---|---|---|---|---|",
    ]
    best: dict[str, tuple[float, float]] = {}
    for k, law in enumerate(BESIDE):
        rng = _rng(seed * 100 + k)
        whole = bank(law.requests, TRACES, rng)
        few = Bank(whole.x[:RAW_TRACES], whole.ttft_share[:RAW_TRACES], whole.goodput[:RAW_TRACES],
                   whole.within, whole.raw)  # fmt: skip
        nights = [_nights(law, few, rng, ttft) for ttft in (0.0, 0.0, 0.1)]
        rates = []
        for rule in rivals.RULES:
            at = [(rule.tuned or rule.strange)(one, place) for one in nights]
            usual = [rule.strange(one, place) for one in nights[1:]] if rule.tuned else at[1:]
            limit = float(np.quantile(at[0], 1 - LEVEL))
            used = [float((one > rule.usual).mean()) for one in usual]
            equal = [float((one > limit).mean()) for one in at[1:]]
            rates.append(equal[1])
            lines.append(
                f"| {law.name} | {rule.name} ({rule.says}) | {used[0]:.3f} | {used[1]:.3f} | {_limit(rule, limit)} "
                f"| {equal[0]:.3f} | {equal[1]:.3f} |"
            )
            _say(lines[-1])
        for name, plan in (("squall, 5 pairs", fixed(5)), ("squall, adaptive", Plan())):
            found = [_against(law, few, rng, plan, made.made) for made in _ten_pairs(law, few, rng)]
            lines.append(f"| {law.name} | **{name}** | {found[0]:.3f} | {found[1]:.3f} | as it is | | |")
            best[f"{law.name}, {name}"] = (found[1], max(rates))
            _say(lines[-1])
    lines += ["", f"{NIGHTS} nights a figure; limits from {NIGHTS} other A/A nights of the same law."]
    return "\n".join(lines), best


def _nights(law: Law, runs: Bank, rng: np.random.Generator, ttft: float) -> rivals.Nights:
    stored = experiments(law, runs, rng, NIGHTS * rivals.STORED, 1).a.reshape(NIGHTS, rivals.STORED, -1)
    return rivals.Nights(experiments(law, runs, rng, NIGHTS, 5, ttft=ttft), stored, runs)


def _ten_pairs(law: Law, runs: Bank, rng: np.random.Generator) -> list[rivals.Nights]:
    return [
        rivals.Nights(experiments(law, runs, rng, NIGHTS, 10, ttft=ttft), np.zeros(0), runs)
        for ttft in (0.0, 0.1)
    ]


def _against(law: Law, runs: Bank, rng: np.random.Generator, plan: Plan, made: Experiments) -> float:
    """Share of regressions, 25 experiments an archive."""
    tally = Tally()
    for k in range(0, NIGHTS, 25):
        archive = ours.history(experiments(law, runs, rng, 12, 5))
        ours.judge_all(tally, plan, archive, made.d[k : k + 25], None)
    return tally.share("regression")


def _limit(rule: rivals.Rule, limit: float) -> str:
    if rule.strange is rivals.ten_percent:
        return f"+{np.expm1(limit):.0%}"
    return f"{limit:.1f} sd" if rule.strange is rivals.three_sigma else f"p {10**-limit:.1g}"


def targets(
    laws: dict[str, dict[str, Tally]], noisy: dict[str, Tally], probe: dict[str, Tally],
    best: dict[str, tuple[float, float]], counted: dict[str, float],
) -> str:  # fmt: skip
    """Each target with the worst figure over the validation laws, met or not."""
    outliers = VALIDATION[3].name
    supposed = {law.name for law in VALIDATION if law.as_targets}
    steady = {name: t for name, t in laws.items() if name in supposed - {outliers}}

    def worst(of: dict[str, float], least: bool) -> tuple[float, str]:
        name = (min if least else max)(of, key=lambda key: of[key])
        return of[name], name

    aa = {
        f"{n}, {p}": t[k].share("regression")
        for n, t in laws.items()
        for k, p in (("aa5", "5"), ("aa", "adaptive"))
    }
    rows = [
        ("A/A regression verdicts <= 1%", *worst(aa, False), 0.01, False),
        (
            "... noise 1.5-3x the archive's <= 2%",
            *worst({n: t.share("regression") for n, t in noisy.items()}, False),
            0.02,
            False,
        ),
        (
            "+10% TTFT, 5 pairs >= 85%",
            *worst({n: t["10%5"].share("regression") for n, t in steady.items()}, True),
            0.85,
            True,
        ),
        (
            "... with a probe of R^2 >= .9 >= 98%",
            *worst({n: t.share("regression") for n, t in probe.items() if n.endswith("0.92")}, True),
            0.98,
            True,
        ),
        (
            "+10%, adaptive >= 95%",
            *worst({n: t["10%"].share("regression") for n, t in steady.items()}, True),
            0.95,
            True,
        ),
        (
            "... mean pairs <= 6.5",
            *worst({n: t["10%"].mean_pairs for n, t in steady.items()}, False),
            6.5,
            False,
        ),
        (
            "A/A, adaptive, passes >= 95%",
            *worst({n: t["aa"].share("pass", "improvement") for n, t in steady.items()}, True),
            0.95,
            True,
        ),
        (
            "4% outlier runs, +10%, adaptive >= 92%",
            laws[outliers]["10%"].share("regression"),
            outliers,
            0.92,
            True,
        ),
        (
            "false pass of +10% <= 3%",
            *worst(
                {
                    f"{n}, {p}": t[k].share("pass", "improvement")
                    for n, t in laws.items()
                    for k, p in (("10%5", "5"), ("10%", "adaptive"))
                },
                False,
            ),
            0.03,
            False,
        ),
        *((name, value, "", bar, least) for name, value, bar, least in counting.bars(counted)),
        *(
            (
                f"{name}: more power than the best other rule at 1%",
                *worst({n: a - b for n, (a, b) in best.items() if n.endswith(name)}, True),
                0.0,
                True,
            )
            for name in ("adaptive", "5 pairs")
        ),
    ]
    lines = [
        "### Targets, worst law",
        "",
        "| target | figure | where | mean over laws | met |",
        "|---|---|---|---|---|",
    ]
    means = {
        "A/A regression verdicts <= 1%": np.mean(list(aa.values())),
        "+10% TTFT, 5 pairs >= 85%": np.mean([t["10%5"].share("regression") for t in steady.values()]),
        "+10%, adaptive >= 95%": np.mean([t["10%"].share("regression") for t in steady.values()]),
        "... mean pairs <= 6.5": np.mean([t["10%"].mean_pairs for t in steady.values()]),
        "A/A, adaptive, passes >= 95%": np.mean(
            [t["aa"].share("pass", "improvement") for t in steady.values()]
        ),
    }
    for name, value, where, bar, least in rows:
        met = value >= bar if least else value <= bar
        mean = f"{means[name]:.3f}" if name in means else ""
        lines.append(f"| {name} | {value:.3f} | {where} | {mean} | {'yes' if met else '**no**'} |")
    lines += [
        "",
        "False alarms and false passes: worst of all validation laws. The rest: of those with noise as the targets "
        f"suppose; not {', '.join(law.name for law in VALIDATION if not law.as_targets)}.",
    ]
    return "\n".join(lines)


def _say(line: str) -> None:
    """Progress, as it comes."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
