"""Counter arithmetic by hand: absent is not zero, restarts count from zero, rises add up."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.collect import counters
from harness.collect.counters import counter_delta
from harness.collect.scrape import canonical

M = "dynamo_frontend_model_migration_total"
OTHER = "dynamo_x_total"


def frame(*rows: tuple[int, str, str, dict[str, str], float]) -> pd.DataFrame:
    table = [(t, process, metric, canonical(labels), value) for t, process, metric, labels, value in rows]
    columns = ["t_ns", "process", "metric", "labels", "value"]
    return pd.DataFrame(table, columns=columns).astype({"t_ns": "int64", "value": "float64"})


def page(
    t: int, value: float | None = None, metric: str = M, process: str = "frontend-1", **labels: str
) -> list:
    """A scrape that always has a gauge, and the metric unless value is None."""
    rows = [(t, process, "dynamo_gauge", {}, 1.0)]
    return rows if value is None else [*rows, (t, process, metric, labels, value)]


def delta(
    samples: pd.DataFrame, t0: int, t1: int, metric: str = M, process: str = "frontend-1", **labels: str
):
    return counter_delta(samples, process, metric, labels, t0, t1)


def test_difference_of_the_last_pages() -> None:
    samples = frame(*page(0, 3), *page(10, 5), *page(20, 9))
    assert delta(samples, 0, 20) == 6
    assert delta(samples, 9, 19) == 2  # pages at 0 and at 10
    assert delta(samples, 10, 25) == 4


def test_nothing_scraped_in_the_interval_is_unknown() -> None:
    samples = frame(*page(0, 3), *page(10, 5))
    assert delta(samples, 10, 20) is None
    assert delta(samples, 1, 9) is None
    assert delta(samples, -5, 10) is None  # what it was before the first page: unknown
    assert delta(samples, 0, 10, process="frontend-2") is None
    assert delta(frame(), 0, 10) is None


def test_a_series_that_appears_counts_from_zero() -> None:
    samples = frame(*page(0), *page(10, 5), *page(20, 7))
    assert delta(samples, 0, 10) == 5
    assert delta(samples, 0, 20) == 7


def test_a_series_never_seen_is_zero_only_when_it_is_known_to_be_lazy() -> None:
    samples = frame(*page(0), *page(10))
    assert delta(samples, 0, 10) == 0
    assert delta(samples, 0, 10, metric="dynamo_frontend_migrations_misspelt_total") is None
    later = frame(*page(0), *page(10), *page(20, 4, OTHER))
    assert delta(later, 0, 10, metric=OTHER) == 0  # it exists: it was just not there yet


def test_labels_are_a_subset_and_matching_series_are_summed() -> None:
    samples = frame(
        *page(0, 1, kind="ongoing", model="m"), *page(0, 10, kind="new", model="m"),
        *page(5, 4, kind="ongoing", model="m"), *page(5, 30, kind="new", model="m"),
    )  # fmt: skip
    assert delta(samples, 0, 5, kind="ongoing") == 3
    assert delta(samples, 0, 5, model="m") == 23
    assert delta(samples, 0, 5) == 23
    assert delta(samples, 0, 5, kind="absent") == 0


def test_a_smaller_value_is_a_restart() -> None:
    samples = frame(*page(0, 10), *page(10, 12), *page(20, 3), *page(30, 4))
    assert delta(samples, 0, 30) == 2 + 3 + 1


@pytest.mark.parametrize(
    ("name", "before", "after", "rise"),
    [
        ("process_start_time_seconds", 100.0, 200.0, 50),
        ("process_start_time_seconds", 100.0, 100.0, 40),
        ("dynamo_component_uptime_seconds", 100.0, 2.0, 50),
        ("dynamo_component_uptime_seconds", 100.0, 110.0, 40),
    ],
)
def test_a_restart_that_counted_beyond_the_old_value(
    name: str, before: float, after: float, rise: float
) -> None:
    rows = [(0, "frontend-1", name, {}, before), (10, "frontend-1", name, {}, after)]
    samples = frame(*page(0, 10), *page(10, 50), *rows)
    assert delta(samples, 0, 10) == rise


def test_a_series_gone_after_a_restart_and_back() -> None:
    samples = frame(*page(0, 10), *page(10), *page(20, 2))
    assert delta(samples, 0, 10) == 0
    assert delta(samples, 0, 20) == 2


def test_a_dead_process_leaves_a_gap_but_its_count_goes_on() -> None:
    samples = frame(*page(0, 10), *page(50, 3))
    assert delta(samples, 10, 40) is None
    assert delta(samples, 10, 50) == 3


def test_squalls_own_rows_are_no_scrape() -> None:
    own = (5, "frontend-1", "squall_instance_listed", {}, 1.0)
    samples = frame(*page(0, 3), own)
    assert delta(samples, 0, 10) is None
    assert counters.processes(frame(own)) == []


def test_sum_over_processes_is_unknown_when_one_is() -> None:
    one, two = (
        [*page(0, 1), *page(10, 4)],
        [*page(0, 2, process="frontend-2"), *page(10, 9, process="frontend-2")],
    )
    worker = page(0, 1, process="worker-1")
    total = counters.counter_delta_all
    assert total(frame(*one, *two, *worker), M, {}, 0, 10, "frontend") == 10
    assert total(frame(*one, *two, *worker), M, {}, 0, 10) is None
    assert total(frame(*one, *two[:2]), M, {}, 0, 10, "frontend") is None
    assert total(frame(*worker), M, {}, 0, 10, "frontend") is None


def test_value_at() -> None:
    samples = frame(*page(0, 1, a="1"), *page(0, 2, a="2"), *page(10))
    assert counters.value_at(samples, "frontend-1", M, {}, 9) == 3
    assert counters.value_at(samples, "frontend-1", M, {"a": "2"}, 9) == 2
    assert counters.value_at(samples, "frontend-1", M, {}, 10) is None
    assert counters.value_at(samples, "frontend-1", M, {}, -1) is None


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=12)


@settings(max_examples=30, deadline=None)
@given(STEPS, st.data())
def test_rises_are_the_true_counts_and_adjoining_intervals_add_up(
    steps: list[tuple[bool, int, int]], data: st.DataObject
) -> None:
    """A model of a process: it restarts or not, then counts in two series; the sum of rises is what it counted."""
    rows, truth, now, started = [], [0], {"a": 0, "b": 0}, 0.0
    for n, (restart, a, b) in enumerate(steps):
        if n and restart:
            now, started = {"a": 0, "b": 0}, started + 1
        now = {"a": now["a"] + a, "b": now["b"] + b}
        rows.append((n * 10, "p", "process_start_time_seconds", {}, started))
        rows += [(n * 10, "p", OTHER, {"s": name}, value) for name, value in now.items() if value]
        truth.append(truth[-1] + a + b)
    samples = frame(*rows)
    last = len(steps) - 1
    middle = data.draw(st.integers(0, last))
    if (samples["metric"] == OTHER).any():
        whole = delta(samples, 0, last * 10, metric=OTHER, process="p")
        assert whole == truth[-1] - truth[1]
        parts = [
            delta(samples, a * 10, b * 10, metric=OTHER, process="p") or 0
            for a, b in ((0, middle), (middle, last))
        ]
        assert sum(parts) == whole
    else:
        assert delta(samples, 0, last * 10, metric=OTHER, process="p") is None
