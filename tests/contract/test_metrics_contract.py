"""Every metric in METRICS: named as in the contract, with unit and formula, None where nothing is known."""

from __future__ import annotations

import inspect

import pytest
from make_run import make_run, plain_parts, record, write_run

from harness.stats import analyse, metrics
from harness.stats.metrics import METRICS

CONTRACT = [
    *(f"{family}_p{p}_ms" for family in ("ttft", "itl", "e2e") for p in (50, 90, 99)), "itl_mean_p50_ms",
    *(f"{family}_p{p}_due_ms" for family in ("ttft", "e2e") for p in (50, 90, 99)), "stall_p50_ms", "stall_max_ms",
    "goodput_ratio", "output_tokens_per_s", "shed_ratio", "error_ratio", "cancel_ratio", "migrations_ongoing",
    "migrations_new", "migrations_ledger", "in_flight_at_fault", "detect_s", "mitigate_s", "recover_s", "silent_s",
    "silent_all_s", "not_ready_s", "ready_s", "false_green_s", "false_red_s",
    *(f"cancel_abort_{q}_ms" for q in ("p50", "p99", "max")), "cancel_wasted_tokens_p50", "cancel_wasted_tokens_max",
    "cancel_unaborted", "cancel_next_ttft_p50_ms", "amplification_ratio", "answered_ratio",
]  # fmt: skip


def test_all_metrics_of_the_contract_are_there():
    assert sorted(METRICS) == sorted(CONTRACT)


def test_only_goodput_and_throughput_are_better_when_higher():
    assert {n for n, m in METRICS.items() if m.better == "higher"} == {
        "goodput_ratio", "output_tokens_per_s", "answered_ratio",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(METRICS))
def test_unit_and_formula(name):
    metric = METRICS[name]
    suffix = {"ms": "_ms", "s": "_s", "ratio": "_ratio", "tokens/s": "_per_s"}.get(metric.unit)
    assert suffix is None or name.endswith(suffix)
    assert metric.kinds <= metrics.EVERYWHERE
    assert metric.formula and inspect.isroutine(getattr(metric.compute, "func", metric.compute))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    full = analyse.analyse(make_run(base / "full")[0])
    parts = plain_parts([])
    parts.samples, parts.probes = [], []
    return full, analyse.analyse(write_run(base / "empty", parts))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_float_where_it_exists_and_none_where_nothing_is_known(runs, name):
    full, empty = runs
    kinds = {window.kind for window in full.windows.values()}
    values = {k: [full.metrics[w.name][name] for w in full.windows.values() if w.kind == k] for k in kinds}
    for kind, found in values.items():
        if kind not in METRICS[name].kinds:
            assert found == [None] * len(found)
    assert any(type(v) in (float, int) for found in values.values() for v in found), name
    assert all(values[name] is None for values in empty.metrics.values())


def test_every_window_has_every_metric(runs):
    for found in runs:
        for values in found.metrics.values():
            assert list(values) == list(METRICS)


def test_one_request_is_enough(tmp_path):
    found = analyse.analyse(write_run(tmp_path / "run", plain_parts([record(10)])))
    assert found.metrics["all"]["ttft_p99_ms"] == 50
