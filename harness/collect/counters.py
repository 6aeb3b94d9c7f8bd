"""Reading counters back from the samples of a run: what a counter rose by between two instants.

Pure functions of a samples frame (columns t_ns, process, metric, labels, value). The value at an
instant is that of the process's last scrape at or before it, so rises of adjoining intervals add up.
A series that doesn't exist isn't zero unless we know that it would: see `counter_delta`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

# Labelled counters that Dynamo makes at their first use: on a page that was read and hasn't got
# them, they are 0. Any other name that nobody ever saw may be a wrong name: unknown.
LAZY: frozenset[str] = frozenset(
    {
        "dynamo_frontend_requests_total",
        "dynamo_frontend_requests_started_total",
        "dynamo_frontend_failures_total",
        "dynamo_frontend_output_tokens_total",
        "dynamo_frontend_model_migration_total",
        "dynamo_frontend_model_migration_max_seq_len_exceeded_total",
        "dynamo_frontend_model_cancellation_total",
        "dynamo_frontend_model_rejection_total",
        "dynamo_component_requests_total",
        "dynamo_component_cancellation_total",
        "dynamo_component_errors_total",
        "dynamo_component_router_requests_total",
    }
)
STARTED = ("process_start_time_seconds",)  # another value: another process
UPTIME = ("dynamo_component_uptime_seconds", "dynamo_frontend_uptime_seconds")  # smaller: another process
OWN = "squall_"  # rows that don't come from a scrape (instances.py)


def counter_delta(
    samples: pd.DataFrame, process: str, metric: str, labels: Mapping[str, str], t0_ns: int, t1_ns: int
) -> float | None:
    """How much the series of `process` that have all of `labels` rose in (t0_ns, t1_ns], summed.

    None when that isn't known: no scrape at or before t0_ns, or none in the interval, or a metric
    that no page ever showed and that isn't LAZY. A series that is absent from a page which was read
    counts from 0. A restart (smaller value, or the process's own word for it) counts from 0 again;
    what a process counted after its last scrape before it died is nobody's to know.
    """
    of_process = samples[(samples["process"] == process) & (samples["t_ns"] <= t1_ns)]
    scraped = scrape_times(of_process, process)
    first, last = _page_before(scraped, t0_ns), _page_before(scraped, t1_ns)
    if first is None or last is None or first == last:
        return None
    rows = of_process[of_process["metric"] == metric]
    rows = rows[matching(rows["labels"], labels)]
    if rows.empty:
        ever = bool(((samples["process"] == process) & (samples["metric"] == metric)).any())
        return 0.0 if ever or metric in LAZY else None
    pages = scraped[(scraped >= first) & (scraped <= last)]
    table = rows.pivot_table(index="t_ns", columns="labels", values="value", aggfunc="last").reindex(pages)
    return _rise(table.to_numpy(float), _restarts(of_process, pages))


def counter_delta_all(
    samples: pd.DataFrame, metric: str, labels: Mapping[str, str], t0_ns: int, t1_ns: int, role: str = ""
) -> float | None:
    """The sum over all processes whose name starts with `role`; None when one of them is unknown.

    Processes that no page of the run came from aren't known here and don't count.
    """
    names = sorted({name for name in processes(samples) if name.startswith(role)})
    deltas = [counter_delta(samples, name, metric, labels, t0_ns, t1_ns) for name in names]
    known = [delta for delta in deltas if delta is not None]
    return sum(known) if known and len(known) == len(deltas) else None


def processes(samples: pd.DataFrame) -> list[str]:
    """Processes that were scraped at least once."""
    return sorted(samples.loc[_scraped_rows(samples), "process"].unique())


def scrape_times(samples: pd.DataFrame, process: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """When pages of `process` were read, ns, ascending."""
    rows = samples[(samples["process"] == process) & _scraped_rows(samples)]
    return np.unique(rows["t_ns"].to_numpy(np.int64))


def value_at(
    samples: pd.DataFrame, process: str, metric: str, labels: Mapping[str, str], t_ns: int
) -> float | None:
    """Sum of the matching series on the last page at or before t_ns; None when that page has none."""
    last = _page_before(scrape_times(samples, process), t_ns)
    if last is None:
        return None
    rows = samples[
        (samples["process"] == process) & (samples["metric"] == metric) & (samples["t_ns"] == last)
    ]
    rows = rows[matching(rows["labels"], labels)]
    return None if rows.empty else float(rows["value"].sum())


def matching(texts: pd.Series[str], labels: Mapping[str, str]) -> pd.Series[bool]:
    """Which canonical label texts contain all of `labels`."""
    hit = {text: labels.items() <= json.loads(text).items() for text in texts.unique()}
    return texts.map(hit).astype(bool)


def _scraped_rows(samples: pd.DataFrame) -> pd.Series[bool]:
    return ~samples["metric"].str.startswith(OWN)


def _page_before(scraped: np.ndarray[tuple[int], np.dtype[np.int64]], t_ns: int) -> int | None:
    n = int(np.searchsorted(scraped, t_ns, side="right"))
    return int(scraped[n - 1]) if n else None


def _restarts(
    of_process: pd.DataFrame, pages: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each page but the first: is it another process's than the page before?"""
    changed = np.zeros(max(0, len(pages) - 1), dtype=bool)
    for names, differs in ((STARTED, np.not_equal), (UPTIME, np.less)):
        for name in names:
            rows = of_process[of_process["metric"] == name]
            if not rows.empty:
                values = rows.groupby("t_ns")["value"].max().reindex(pages).ffill().to_numpy(float)
                both = ~np.isnan(values[1:]) & ~np.isnan(values[:-1])
                changed |= both & differs(values[1:], values[:-1])
    return changed


def _rise(
    pages: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    restarted: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> float:
    """Sum of rises over pages x series; NaN = absent on that page, which counts as 0."""
    values = np.nan_to_num(pages, nan=0.0)
    before, after = values[:-1], values[1:]
    fresh = (after < before) | restarted[:, None]
    return float(np.where(fresh, after, after - before).sum())
