"""The verdict of a comparison: what it says, and that nothing makes bad data a pass."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sessions import archive, session
from statsmodels.robust.norms import HuberT, estimate_location
from statsmodels.stats.multitest import multipletests

from harness.stats import compare
from harness.stats.compare import Plan, fixed, judge
from harness.stats.plan import of_scenario
from harness.stats.verdict import to_bytes

KEYS = {
    "schema", "status", "exit_code", "pairs_used", "run_ids", "metrics", "gates", "invariants", "known", "faults",
    "reasons",
}  # fmt: skip
ROW = {
    "metric", "window", "unit", "baseline", "candidate", "delta_ratio", "ci_low", "ci_high", "p_regression",
    "p_improvement", "status", "mde_ratio", "more_pairs", "note",
}  # fmt: skip
TWENTY = {"ttft_p50_ms": 0.2}


def row(verdict, metric="ttft_p50_ms", window="steady"):
    return next(r for r in verdict.to_dict()["metrics"] if (r["metric"], r["window"]) == (metric, window))


def statuses(verdict):
    return {(r["metric"], r["window"]): r["status"] for r in verdict.rows}


def test_equal_arms_pass_and_a_slower_candidate_is_named():
    same = judge(session(10), archive(60), Plan())
    assert (same.status, same.exit_code) == ("pass", 0)
    worse = judge(session(10, TWENTY), archive(60), Plan())
    assert (worse.status, worse.exit_code, worse.pairs_used) == ("regression", 1, 3)
    assert row(worse)["status"] == "regression"
    assert row(worse, "itl_p50_ms")["status"] == "pass"
    assert row(worse)["delta_ratio"] == pytest.approx(0.2, abs=0.05)
    assert row(worse)["ci_low"] < row(worse)["delta_ratio"] < row(worse)["ci_high"]
    assert worse.reasons[0].startswith("ttft_p50_ms in steady is ")


def test_a_faster_candidate_is_an_improvement_and_fewer_tokens_a_regression():
    better = judge(session(10, {"ttft_p50_ms": -0.2}), archive(60))
    assert (better.status, better.exit_code) == ("improvement", 0)
    assert row(better)["delta_ratio"] < 0
    fewer = judge(session(10, {"output_tokens_per_s": -0.2}), archive(60))
    assert fewer.status == "regression"
    assert row(fewer, "output_tokens_per_s")["delta_ratio"] == pytest.approx(-0.2, abs=0.05)
    assert row(fewer, "output_tokens_per_s")["p_regression"] < 1e-4
    assert judge(session(10, {"output_tokens_per_s": 0.2}), archive(60)).status == "improvement"


def test_the_file_has_the_contracts_keys():
    tree = json.loads(to_bytes(judge(session(5, TWENTY), archive(60), Plan()).to_dict()))
    assert set(tree) == KEYS
    assert len(tree["metrics"]) == 12
    assert all(set(one) == ROW for one in tree["metrics"])
    assert tree["invariants"] == [{"name": "not_recovered", "ok": True, "count": 0, "request_ids": []}]


def reference(values, archive, look):
    """Steps 2 to 6 written out for one look, metric by metric; every metric is there, archive is warm."""
    plan = Plan()
    size, n = len(plan.metrics), look.n
    s0, nu0, d, past = {}, {}, {}, {}
    wide = values.pivot_table(index=["metric", "window", "pair_id"], columns="arm", values=["value", "n"])
    for t in plan.metrics:
        block = wide.loc[t.key].sort_index().iloc[:n]
        raw = {
            arm: np.maximum(block["value", arm], 1 / (2 * block["n", arm]) if t.is_ratio else 0)
            for arm in "AB"
        }
        sign = -1 if t.metric in ("goodput_ratio", "output_tokens_per_s") else 1
        d[t.key] = (sign * (np.log(raw["B"]) - np.log(raw["A"]))).to_numpy()
        rows = archive[(archive["metric"] == t.metric) & (archive["window"] == t.window)].sort_values(
            "pair_id"
        )
        h = past[t.key] = rows["d"].to_numpy()
        s = 1.4826 * np.median(np.abs(h))
        for _ in range(500):
            s = np.sqrt(np.mean(np.clip(h / s, -2.5, 2.5) ** 2) * s**2 / 0.9776)
        s0[t.key] = max(0.001, s)
        nu0[t.key] = float(rows["kind"].map({"aa": 0.7, "residual": 0.5}).sum())

    def location(x, key):
        return float(estimate_location(x, s0[key], HuberT(1.345), maxiter=500))

    def lam(block):
        q = np.zeros(n)
        for key, x in block.items():
            q += np.clip((x - location(x, key)) / s0[key], -2.5, 2.5) ** 2 / len(block)
        k = n - (1 if n < 7 else 2)
        return np.sort(q)[:k].sum() / (k - 0.5)

    draw, h = np.random.default_rng(0), len(next(iter(past.values())))
    picks = [draw.choice(h, n, replace=False) for _ in range(2000)]
    found = [lam({key: x[pick] for key, x in past.items()}) for pick in picks[:200]]
    tonight = lam(d)
    result = {}
    for t in plan.metrics:
        x, key = d[t.key], t.key
        m = location(x, key)
        own = np.sum(np.clip(x - m, -2.5 * s0[key], 2.5 * s0[key]) ** 2) / (n - 1)
        df = nu0[key] + n - 1
        s = np.sqrt((nu0[key] * s0[key] ** 2 + (n - 1) * own) / df)
        result[key] = (m, s * np.sqrt(1.05 / n), df, s0[key] * np.sqrt(1.05 / n))
    return result, tonight, np.median(found), size


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 4), (0.06, 5), (-0.08, 6)])
def test_it_is_the_method_written_out(shift, seed):
    values = session(5, {"ttft_p50_ms": shift, "output_tokens_per_s": shift}, seed=seed)
    earlier = pd.concat(
        [archive(30), archive(30, kind="residual", seed=8).assign(pair_id=lambda f: f["pair_id"] + 30)]
    )
    plan = fixed(5)
    verdict = judge(values, earlier, plan)
    wanted, tonight, l50, size = reference(values, earlier, plan.spent[0])
    worse = {}
    for (metric, window), (m, se, df, least) in wanted.items():
        got = row(verdict, metric, window)
        sign = -1 if metric in ("goodput_ratio", "output_tokens_per_s") else 1
        assert got["delta_ratio"] == pytest.approx(np.expm1(sign * m), abs=1e-5)
        # The guard's median is over 200 of its 2,000 draws here.
        guarded = max(se, least * np.sqrt(max(1.0, tonight / l50)))
        assert got["p_regression"] == pytest.approx(stats.t.sf(m / guarded, df), rel=0.15, abs=1e-9)
        if tonight < 0.9 * l50:
            assert got["p_regression"] == pytest.approx(stats.t.sf(m / max(se, least), df), rel=1e-4)
        worse[metric, window] = got["p_regression"]
    adjusted = multipletests(list(worse.values()), method="holm")[1]
    for (key, _), p in zip(worse.items(), adjusted, strict=True):
        is_clear = p < 0.01 and wanted[key][0] >= np.log1p(
            next(t.floor for t in plan.metrics if t.key == key)
        )
        assert (statuses(verdict)[key] == "regression") == is_clear
    assert size == len(verdict.rows)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_changes_no_byte(seed):
    values, earlier = session(5, {"ttft_p50_ms": 0.06}), archive(30)
    first = to_bytes(judge(values, earlier, fixed(5)).to_dict())
    mixed = [frame.sample(frac=1, random_state=seed) for frame in (values, earlier)]
    assert not mixed[0].index.equals(values.index)
    assert to_bytes(judge(*mixed, fixed(5)).to_dict()) == first
    other = values.assign(value=values["value"].where(values.index != 0, 200.0))
    assert to_bytes(judge(other, earlier, fixed(5)).to_dict()) != first


@given(st.integers(0, 10_000), st.floats(-0.15, 0.15), st.sampled_from([3, 5, 10]), st.sampled_from([0, 30]))
@settings(max_examples=25, deadline=None)
def test_swapping_the_arms_turns_everything_around(seed, shift, pairs, archived):
    values, earlier = session(pairs, {"ttft_p50_ms": shift}, seed=seed), archive(archived)
    one = judge(values, earlier, fixed(pairs)).to_dict()
    other = judge(values.replace({"arm": {"A": "B", "B": "A"}}), earlier, fixed(pairs)).to_dict()
    turned = {"regression": "improvement", "improvement": "regression"}
    for this, that in zip(one["metrics"], other["metrics"], strict=True):
        assert (this["baseline"], this["candidate"]) == (that["candidate"], that["baseline"])
        assert that["delta_ratio"] == pytest.approx(1 / (1 + this["delta_ratio"]) - 1, rel=1e-4, abs=1e-9)
        assert that["ci_low"] == pytest.approx(1 / (1 + this["ci_high"]) - 1, rel=1e-4, abs=1e-9)
        assert (this["p_regression"], this["p_improvement"]) == (that["p_improvement"], that["p_regression"])
        if this["status"] in turned:
            assert that["status"] == turned[this["status"]]


def test_it_stops_at_the_first_look_that_decides():
    long, short = session(10, TWENTY), session(10, TWENTY).query("pair_id < 3")
    assert judge(long, archive(60)).to_dict() == judge(short, archive(60)).to_dict()
    open_ = session(4, {"ttft_p50_ms": 0.07}, sd=0.03)
    verdict = judge(open_, archive(60, sd=0.03))
    assert (verdict.status, verdict.exit_code, verdict.pairs_used) == ("inconclusive", 3, 3)
    assert verdict.reasons[0].startswith("undecided after 3 pairs: ")
    assert row(verdict)["more_pairs"] >= 1
    assert row(verdict)["mde_ratio"] > 0.07


def test_a_cold_start_is_said_and_slow():
    verdict = judge(session(10, {"ttft_p50_ms": 0.15}), None)
    assert any(one.startswith("cold start for all metrics") for one in verdict.reasons)
    assert verdict.pairs_used > 3
    assert verdict.status == "regression"
    warm = judge(session(10, {"ttft_p50_ms": 0.15}), archive(60))
    assert warm.pairs_used < verdict.pairs_used
    assert not any("cold" in one for one in warm.reasons)


def test_the_guard_is_said_when_it_is_skipped_and_when_it_strikes():
    few = judge(session(13), archive(12), fixed(13))
    assert any(
        "guard against a noisier night skipped: 12 archived pairs, needed 13" in one for one in few.reasons
    )
    noisy = judge(session(5, TWENTY, sd=0.06, seed=2), archive(60), fixed(5))
    assert any(one.startswith("noise regime changed") for one in noisy.reasons)
    assert noisy.status == "inconclusive"
    calm = judge(session(5), archive(60), fixed(5))
    assert not any("guard" in one or "regime" in one for one in calm.reasons)


def test_a_tail_of_few_requests_is_shown_and_not_tested():
    shift = {"ttft_p99_ms": 1.0, "itl_p50_ms": 0.0}
    few = judge(session(5, shift, n=999), archive(60))
    assert few.status == "pass"
    assert row(few, "ttft_p99_ms")["status"] == "observe"
    assert row(few, "ttft_p99_ms")["p_regression"] is None
    assert row(few, "ttft_p99_ms")["delta_ratio"] == pytest.approx(1.0, abs=0.2)
    assert any("left out: ttft_p99_ms in steady (observe only" in one for one in few.reasons)
    assert judge(session(5, shift, n=1000), archive(60)).status == "regression"


def test_a_metric_of_neither_arm_is_left_out_and_keeps_its_place():
    values = session(5, {"ttft_p50_ms": 0.07})
    alone = judge(values.query("metric == 'ttft_p50_ms' and window == 'steady'"), archive(60), fixed(5))
    assert statuses(alone)["itl_p50_ms", "steady"] == "absent"
    assert any(one.startswith("left out: ttft_p99_ms in steady (in neither arm)") for one in alone.reasons)
    assert alone.to_dict()["invariants"] == []
    p = row(alone)["p_regression"]
    assert (alone.status == "regression") == (12 * p < 0.01)


def never(values, *where):
    """The values with recover_s infinite in those (pair, arm)."""
    for pair, arm in where:
        at = (values["pair_id"] == pair) & (values["arm"] == arm) & (values["metric"] == "recover_s")
        values.loc[at, "value"] = float("inf")
    return values


def test_a_candidate_that_never_recovers_fails():
    verdict = judge(never(session(5), (1, "B")), archive(60))
    assert (verdict.status, verdict.exit_code) == ("fail", 1)
    assert verdict.reasons[0] == "not_recovered: pair 1, arm B did not recover before the run ended"
    assert verdict.to_dict()["invariants"][0] == {
        "name": "not_recovered",
        "ok": False,
        "count": 1,
        "request_ids": [],
    }
    assert statuses(verdict)["recover_s", "recovery"] == "not_recovered"
    assert statuses(verdict)["itl_p50_ms", "steady"] == "pass"
    late = judge(never(session(10), (9, "B")), archive(60))
    assert (late.status, late.pairs_used) == ("fail", judge(session(10), archive(60)).pairs_used)


def test_a_baseline_that_never_recovers_is_no_pass():
    verdict = judge(never(session(5), (1, "A")), archive(60))
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 3)
    assert verdict.reasons[0].startswith("baseline broken: not_recovered in pair 1, arm A")
    worse = judge(never(session(5, TWENTY), (1, "A")), archive(60))
    assert (worse.status, worse.exit_code) == ("regression", 1)


def test_both_arms_that_never_recover_fail():
    verdict = judge(never(session(5), (1, "A"), (2, "B")), archive(60))
    assert (verdict.status, verdict.exit_code) == ("fail", 1)
    assert "also in baseline (pair 1)" in verdict.reasons[0]


def test_a_broken_invariant_stays_a_fact_in_data_that_cant_be_judged():
    assert judge(never(session(1), (0, "B")), archive(60)).exit_code == 1
    assert judge(never(session(1), (0, "A")), archive(60)).exit_code == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.query("pair_id < 1"), "1 pair: a verdict needs at least 3; run 2 more"),
        (lambda v: v.query("pair_id < 2"), "2 pairs: a verdict needs at least 3; run 1 more"),
        (lambda v: v.iloc[:0], "no runs to compare"),
        (lambda v: v.query("arm == 'B'"), "pair 0 has no run of arm A"),
        (lambda v: v.replace({"arm": {"A": "base"}}), "arm 'base' is neither A nor B"),
        (lambda v: pd.concat([v, v.iloc[:1]]), "is there twice"),
        (lambda v: v.assign(value=v["value"].where(v.index != 0)), "is no number (nan)"),
        (lambda v: v.drop(index=0), "pair 0, arm A: ttft_p50_ms in steady is missing"),
        (lambda v: v.assign(window="nowhere"), "no gating metric can be tested"),
        (lambda v: v.assign(value="x"), "value 'x' is no number"),
        (lambda v: v.drop(columns="value"), "lack the column value"),
    ],
)
@pytest.mark.parametrize("earlier", [60, 0])
def test_bad_data_is_invalid_with_a_reason_on_one_line(change, said, earlier):
    verdict = judge(change(session(10)), archive(earlier))
    assert (verdict.status, verdict.exit_code) == ("invalid", 4)
    text = " ".join(verdict.reasons)
    assert said in text
    assert all("\n" not in one for one in verdict.reasons)
    assert json.loads(to_bytes(verdict.to_dict()))["exit_code"] == verdict.exit_code


def spoil(values, kind, at, pick):
    """One thing wrong in row `at`."""
    if kind == "drop":
        return values.drop(index=at)
    if kind == "twice":
        return pd.concat([values, values.loc[[at]]])
    column, bad = {
        "value": ("value", [float("nan"), float("inf"), -float("inf"), -1.0]),
        "arm": ("arm", ["C", "", "a", None]),
        "pair": ("pair_id", [99, 0.5, float("nan"), -7]),
    }[kind]
    return values.astype({column: object}).assign(
        **{column: values[column].astype(object).where(values.index != at, bad[pick % 4])}
    )


@given(st.sampled_from(["drop", "twice", "value", "arm", "pair"]), st.integers(0, 119), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_one_spoilt_row_is_never_a_pass(kind, at, pick):
    values, earlier = session(5), archive(30)
    assert judge(values, earlier, fixed(5)).exit_code == 0
    assert judge(spoil(values, kind, at, pick), earlier, fixed(5)).exit_code in (1, 3, 4)


def test_an_archive_that_is_none_is_invalid():
    verdict = judge(session(5), archive(60).drop(columns="d"))
    assert (verdict.status, verdict.reasons) == (
        "invalid", ("archive lacks the column d; it needs pair_id, kind, metric, window, d",),
    )  # fmt: skip
    mixed = archive(60).assign(scenario=lambda f: np.where(f["pair_id"] < 30, "a", "b"))
    assert judge(session(5), mixed).exit_code == 4


def test_a_fixed_plan_needs_all_its_pairs():
    assert judge(session(4), archive(60), fixed(5)).exit_code == 4
    assert judge(session(5), archive(60), fixed(5)).pairs_used == 5


def test_a_plan_names_other_windows():
    values = session(5, TWENTY).replace({"window": {"fault": "fault:kill", "recovery": "recovery:kill"}})
    earlier = archive(60).replace({"window": {"fault": "fault:kill", "recovery": "recovery:kill"}})
    plan = of_scenario(None, None, {}, {}, "kill")
    verdict = judge(values, earlier, plan)
    assert "absent" not in statuses(verdict).values()
    assert statuses(verdict)["ttft_p50_ms", "fault:kill"] == "regression"
    assert statuses(judge(values, earlier))["ttft_p50_ms", "fault"] == "absent"


def test_the_machine_speed_probe_takes_the_machine_out():
    """Runs whose every metric follows the machine: 8% too small to see, until the probe explains the noise."""
    draw = np.random.default_rng(3)

    def machine(frame, pairs, column):
        speed = pd.Series(draw.normal(0, 0.06, pairs))
        moved = np.exp(frame["pair_id"].map(speed) * (frame["arm"] == "B"))
        value = np.where(
            frame["metric"] == "output_tokens_per_s", frame["value"] / moved, frame["value"] * moved
        )
        value = np.where(frame["metric"] == "goodput_ratio", frame["value"], value)
        return frame.assign(value=value, **{column: frame["pair_id"].map(speed)}), speed

    values, c = machine(session(5, {"ttft_p50_ms": 0.08}, sd=0.005), 5, "c")
    noise = session(60, sd=0.005, seed=8)
    past, _ = machine(noise, 60, "c_probe")
    wide = past.pivot_table(
        index=["pair_id", "metric", "window", "c_probe"], columns="arm", values="value"
    ).reset_index()
    sign = np.where(wide["metric"].isin(["goodput_ratio", "output_tokens_per_s"]), -1, 1)
    earlier = wide.assign(d=sign * np.log(wide["B"] / wide["A"]), kind="aa")
    without = judge(values.drop(columns="c"), earlier, fixed(5))
    with_probe = judge(values, earlier, fixed(5))
    assert with_probe.status == "regression"
    assert row(with_probe)["delta_ratio"] == pytest.approx(0.08, abs=0.01)
    assert row(with_probe)["mde_ratio"] < 0.5 * row(without)["mde_ratio"]
    assert any(one.startswith("machine-speed probe used") for one in with_probe.reasons)
    by_itself = judge(values.drop(columns="c"), earlier, fixed(5), covariate=c)
    assert by_itself.to_dict() == with_probe.to_dict()
    unknown = judge(values, earlier.drop(columns="c_probe"), fixed(5))
    assert any(one.startswith("machine-speed probe not used") for one in unknown.reasons)


def test_worst_of_several():
    assert compare.worst(["pass", "improvement"]) == "improvement"
    assert compare.worst(["regression", "inconclusive", "pass"]) == "regression"
    assert compare.worst(["invalid", "regression"]) == "invalid"
    assert compare.worst(["invalid", "fail"]) == "fail"


def test_importing_it_loads_no_statistics_package():
    """`squall run` pays for none: they take seconds to import."""
    code = "import sys, harness.stats.compare, harness.stats.archive; print({'scipy', 'statsmodels'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
