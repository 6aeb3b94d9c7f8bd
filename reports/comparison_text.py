"""A comparison in words: how much, how sure, and what it would take to be sure. Shared by all renderers."""

from __future__ import annotations

from collections.abc import Sequence

from reports import text
from reports.data import ComparedMetric

JUDGED = ("regression", "not_recovered", "inconclusive", "improvement", "pass")


MAX_RATIO, MAX_PAIRS = 3.0, 50  # beyond these, figures only say that nobody can tell


def named_from(ratio: float | None) -> str:
    """The smallest change that would have been named, as far as that is a useful figure."""
    return (
        f"over {text.percent(MAX_RATIO)}" if ratio is not None and ratio > MAX_RATIO else text.percent(ratio)
    )


def more_pairs(count: int) -> str:
    """How many more pairs would decide, as far as that is a useful figure."""
    if count > MAX_PAIRS:
        return f"more than {MAX_PAIRS} more pairs"
    return f"about {count} more pair{'s' if count > 1 else ''}"


def change(row: ComparedMetric) -> str:
    """The change with its interval and p."""
    if row.delta_ratio is None:
        return row.note or text.UNKNOWN
    if row.ci_low is None or row.ci_high is None:
        return text.signed_percent(row.delta_ratio)
    p = f", p {row.p_regression:.2g}" if row.p_regression is not None and row.status == "regression" else ""
    return (
        f"{text.signed_percent(row.delta_ratio)} (95% {text.signed_percent(row.ci_low)} to "
        f"{text.signed_percent(row.ci_high)}{p})"
    )


def says(rows: Sequence[ComparedMetric], pairs: int, baseline: str, candidate: str) -> list[str]:
    """One sentence each: what is worse and better, what is open, what would have been seen."""
    over = f"over {pairs} pairs of runs"
    judged = [row for row in rows if row.status in JUDGED]
    found = []
    if judged and all(row.status in ("pass", "improvement") for row in judged):
        found.append(f"{candidate} is no worse than {baseline} in any of {len(judged)} metrics, {over}.")
    found += _shifted(judged, "regression", f"worse with {candidate} than with {baseline}", over)
    found += _open(judged, over)
    found += _shifted(judged, "improvement", f"better with {candidate} than with {baseline}", over)
    return [*found, *_sharpness(judged, over)] or [f"Nothing could be judged, {over}."]


def _shifted(judged: Sequence[ComparedMetric], status: str, words: str, over: str) -> list[str]:
    """What changed: by how much, how surely, from what to what."""
    return [
        f"{row.metric} in {row.window} is {words}: {change(row)}, {text.quantity(row.baseline, row.unit)} before and "
        f"{text.quantity(row.candidate, row.unit)} now, {over}."
        for row in judged
        if row.status == status
    ]


def _open(judged: Sequence[ComparedMetric], over: str) -> list[str]:
    """What is undecided, and how many pairs would decide it."""
    still = [row for row in judged if row.status == "inconclusive"]
    if not still:
        return []
    more = max((row.more_pairs or 0 for row in still), default=0)
    names = ", ".join(f"{row.metric} in {row.window}" for row in still)
    would = f" It would take {more_pairs(more)} to decide." if more else ""
    return [f"Undecided {over}: {names}.{would}"]


def _sharpness(judged: Sequence[ComparedMetric], over: str) -> list[str]:
    """The smallest changes that these pairs would have named."""
    seen = sorted((row.mde_ratio, row.metric, row.window) for row in judged if row.mde_ratio is not None)
    if not seen:
        return []
    (sharp, metric, window), (blunt, other, there) = seen[0], seen[-1]
    return [
        f"What would have been named with 90% probability {over}: a change for the worse of {named_from(sharp)} "
        f"in {metric} ({window}) at best, of {named_from(blunt)} in {other} ({there}) at worst."
    ]
