"""One look and the sequence of looks: statuses at their boundaries, Holm, what it would take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.stats import looks
from harness.stats.estimate import Estimate, tails
from harness.stats.plan import GatingMetric, Look, Plan
from harness.stats.scale import History, Scale

LOOK = Look(5, 0.01, 0.05)
ONE = GatingMetric("ttft_p50_ms", "steady", 0.10, 0.03)


def estimate(m, se, df=46.0, n=5, s=None):
    m, se, df = np.atleast_1d(m) * 1.0, np.atleast_1d(se) * 1.0, np.atleast_1d(df) * 1.0
    s = se * np.sqrt(n / 1.05) if s is None else np.atleast_1d(s)
    return Estimate(n, m, s, se, df, *tails(m, se, df), np.zeros(len(m), bool))


def status(m, se, size=12, look=LOOK):
    statuses, notes = looks.verdicts(estimate(m, se), [ONE], look, size)
    return statuses[0], notes[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 5))
@settings(max_examples=20, deadline=None)  # the library collects garbage at each call
def test_holm_is_the_librarys(values, absent):
    p = np.array(values)
    wanted = multipletests(np.concatenate([p, np.ones(absent)]), method="holm")[1][: len(p)]
    assert looks.holm(p, len(p) + absent) == pytest.approx(wanted)


def test_regression_needs_level_and_floor():
    edge = float(stats.t.isf(0.01 / 12, 46))
    se = 0.02
    assert status(se * (edge + 0.01), se)[0] == "regression"
    assert status(se * (edge - 0.01), se)[0] == "inconclusive"
    assert status(se * (edge - 0.01), se, size=1)[0] == "regression"
    assert status(np.log(1.0301), 0.005) == ("regression", "")
    assert status(np.log(1.0299), 0.005) == ("pass", "real, below practical floor")


def test_improvement_is_the_mirror():
    assert status(-np.log(1.0301), 0.005) == ("improvement", "")
    assert status(-np.log(1.0299), 0.005) == ("pass", "real, below practical floor")
    assert status(-0.5, 0.02)[0] == "improvement"


def test_pass_needs_the_upper_bound_below_the_margin():
    margin, t = np.log(1.1), float(stats.t.isf(0.05, 46))
    assert status(0.0, (margin - 1e-6) / t) == ("pass", "")
    assert status(0.0, (margin + 1e-6) / t)[0] == "inconclusive"


def test_a_small_real_shift_that_may_be_large_is_open():
    """Clear, below the floor, and the bound above the margin: only possible with a margin below the floor."""
    odd = GatingMetric("x", "steady", 0.01, 0.05)
    statuses, notes = looks.verdicts(estimate(0.02, 0.002), [odd], LOOK, 1)
    assert (statuses, notes) == (("inconclusive",), ("",))


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [
        (["pass", "regression", "inconclusive"], "regression"),
        (["pass", "inconclusive", "improvement"], "inconclusive"),
        (["pass", "improvement"], "improvement"),
        (["pass", "pass"], "pass"),
    ],
)
def test_the_runs_status(statuses, wanted):
    assert looks.overall(statuses) == wanted


def test_what_it_would_take_by_hand():
    e = estimate(0.0, 0.04)
    reach = stats.t.isf(0.01 / 12, 46) + stats.t.ppf(0.9, 46)
    assert looks.smallest_found(e, LOOK, 12) == pytest.approx([np.exp(reach * 0.04) - 1])
    s2 = 0.04**2 * 5 / 1.05
    more = np.ceil(reach**2 * s2 * 1.05 / np.log(1.1) ** 2) - 5
    assert looks.more_pairs(e, [ONE], ["inconclusive"], LOOK, 12) == (int(more),)
    assert looks.more_pairs(e, [ONE], ["pass"], LOOK, 12) == (None,)
    assert looks.more_pairs(estimate(0.0, 1e-6), [ONE], ["inconclusive"], LOOK, 12) == (1,)


def sequence(d, tested=lambda n: np.ones(1, bool)):
    past = History(np.random.default_rng(0).normal(0, 0.03, (60, 1)), np.ones(60, bool), np.full(60, np.nan))
    noise = Scale(np.array([0.03]), np.array([42.0]), np.array([60]))
    return looks.until_decided(Plan().spent, np.asarray(d)[:, None], [ONE], tested, past, noise)


def test_the_first_look_that_decides_ends_it():
    assert sequence([0.3] * 10).look.n == 3
    assert sequence([0.0, 0.01, -0.01] * 4).status == "pass"
    late = sequence([0.12, -0.02, 0.06, 0.05, 0.08, 0.07, 0.06, 0.07, 0.08, 0.06])
    assert late.look.n > 3


def test_pairs_after_the_deciding_look_change_nothing():
    d = [0.3, 0.31, 0.29]
    assert sequence(d + [-5.0] * 7).estimate.m == sequence(d).estimate.m


def test_open_with_pairs_between_looks():
    found = sequence([0.1, -0.05, 0.09, 0.2])
    assert (found.look.n, found.status) == (3, "inconclusive")


def test_nothing_to_test():
    assert sequence([0.0] * 10, lambda n: np.zeros(1, bool)) is None
    assert sequence([0.0] * 2) is None


def test_more_pairs_are_those_of_the_last_look():
    """An early look's level is strict; who adds pairs gets on to a milder one."""
    found = sequence([0.1, -0.05, 0.09])
    e = found.estimate
    first, last = Plan().spent[0], Plan().spent[-1]
    assert found.more_pairs == looks.more_pairs(e, [ONE], ["inconclusive"], last, 1)
    assert found.more_pairs[0] < looks.more_pairs(e, [ONE], ["inconclusive"], first, 1)[0]
