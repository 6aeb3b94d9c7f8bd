"""Rejections and migrations, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.stats.compare import judge_counts

COLUMNS = ["pair_id", "arm", "kind", "x", "n"]


def counts(kind, a, b):
    """a, b: (x, n) by pair."""
    rows = [
        (pair, arm, kind, *both)
        for pair, pair_counts in enumerate(zip(a, b, strict=True))
        for arm, both in zip("AB", pair_counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def shed(a, b, n=1000):
    return counts("shed", [(x, n) for x in a], [(x, n) for x in b])


def migrated(b, k, a=None):
    return counts("migrated", a or [(one, one) for one in k], list(zip(b, k, strict=True)))


def test_no_rejection_at_all_is_a_pass_with_p_1():
    found = judge_counts(shed([0] * 5, [0] * 5))
    assert found.status == "pass"
    assert found.rows[0]["p_regression"] == 1.0
    assert found.reasons == ()


def test_one_point_more_is_named():
    found = judge_counts(shed([0] * 5, [10] * 5))
    assert found.status == "regression"
    assert (found.rows[0]["baseline"], found.rows[0]["candidate"]) == (0.0, 0.01)
    assert found.reasons[0].startswith("shed_ratio rose from 0.000% to 1.000%")
    assert judge_counts(shed([10] * 5, [0] * 5)).status == "improvement"


def test_the_test_of_rates_by_hand():
    """Rates .02 and .025 of 5000; Pearson's X2 of 15, 25, 20, 20, 20 around 20 and 25 around 25; phi is 1."""
    found = judge_counts(shed([15, 25, 20, 20, 20], [25] * 5)).rows[0]
    assert found["p_regression"] == pytest.approx(stats.t.sf(0.005 / np.sqrt(0.0225 * 0.9775 * 2 / 5000), 8))
    wild = judge_counts(shed([0, 60, 0, 40, 0], [25] * 5)).rows[0]
    x2 = (3 * 400 + 1600 + 400) / (1000 * 0.02 * 0.98)
    assert wild["p_regression"] == pytest.approx(
        stats.t.sf(0.005 / np.sqrt(x2 / 8 * 0.0225 * 0.9775 * 2 / 5000), 8)
    )


def test_undecided_rejections():
    found = judge_counts(shed([20, 40, 0, 10, 30], [20, 50, 0, 30, 20]))
    assert found.status == "inconclusive"
    assert "undecided" in found.reasons[0]


def archived(xs, kind="aa"):
    """Two runs a pair."""
    rows = [(k, kind, "shed_ratio", x, 1000) for k, both in enumerate(xs) for x in both]
    return pd.DataFrame(rows, columns=["pair_id", "kind", "metric", "x", "n"])


def test_the_archive_says_how_rates_vary():
    """Twelve pairs of 10 and 30 around 20: X2 = 2 x 100 / 19.6 a pair, phi0 the same, nu0 = 8.4."""
    now = shed([20] * 5, [30] * 5)
    cold, warm = judge_counts(now).rows[0], judge_counts(now, archived([(10, 30)] * 12)).rows[0]
    phi0 = 2 * 100 / (1000 * 0.02 * 0.98)
    phi = 8.4 * phi0 / (8.4 + 8)
    se = np.sqrt(phi * 0.025 * 0.975 * 2 / 5000)
    assert warm["p_regression"] == pytest.approx(stats.t.sf(0.01 / se, 16.4))
    assert warm["p_regression"] > cold["p_regression"]
    few = judge_counts(now, archived([(10, 30)] * 11)).rows[0]
    assert few["p_regression"] == cold["p_regression"]


def test_an_archive_of_one_row_a_pair():
    rows = pd.DataFrame(
        {"pair_id": range(12), "kind": "residual", "metric": "shed", "x": [10, 30] * 6, "n": 1000}
    )
    phi0 = 12 * 100 / (1000 * 0.02 * 0.98) / 11
    phi = 6 * phi0 / (6 + 8)
    found = judge_counts(shed([20] * 5, [30] * 5), rows).rows[0]
    assert found["p_regression"] == pytest.approx(
        stats.t.sf(0.01 / np.sqrt(phi * 0.025 * 0.975 * 2 / 5000), 14)
    )


def test_every_stream_migrated_is_a_pass_however_many_there_were():
    for k in ([24] * 5, [14, 34, 20, 30, 24]):
        assert judge_counts(migrated(k, k)).status == "pass"


def test_streams_that_did_not_migrate_are_named():
    k = [24, 30, 20, 26, 24]
    found = judge_counts(migrated([22, 27, 18, 23, 22], k))
    assert found.status == "regression"
    assert found.rows[0]["p_regression"] == pytest.approx(stats.binom.cdf(112, 124, 0.99))
    assert found.reasons[0].startswith("migrated_ratio: too few: 112 migrations of 124 streams in flight")
    assert judge_counts(migrated([23, 30, 20, 26, 24], k)).status == "pass"


def test_more_than_one_migration_each_is_named():
    found = judge_counts(migrated([48] * 5, [24] * 5))
    assert found.status == "regression"
    assert found.rows[0]["p_regression"] == pytest.approx(stats.poisson.sf(239, 120))
    assert "more than one each" in found.reasons[0]
    assert judge_counts(migrated([25] * 5, [24] * 5)).status == "pass"


def test_an_archive_that_knows_fewer_migrations_asks_for_fewer():
    earlier = pd.DataFrame(
        {"pair_id": range(20), "kind": "aa", "metric": "migrated_ratio", "x": [9, 10] * 10, "n": 10}
    )
    now = migrated([22, 27, 18, 23, 22], [24, 30, 20, 26, 24])
    assert judge_counts(now, earlier).status == "pass"
    assert judge_counts(now, earlier.iloc[:5]).status == "regression"


def test_both_kinds_are_judged_and_the_worse_one_counts():
    both = pd.concat([shed([0] * 5, [0] * 5), migrated([12] * 5, [24] * 5)])
    found = judge_counts(both)
    assert found.status == "regression"
    assert [row["metric"] for row in found.rows] == ["shed_ratio", "migrated_ratio"]
    assert judge_counts(both.sample(frac=1, random_state=1)) == found


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (shed([], []), "no counts to compare"),
        (shed([1], [1]).drop(columns="n"), "lack the column n"),
        (shed([1], [1]).replace({"arm": {"A": "C"}}), "arm 'C' is none of A, B"),
        (shed([1], [1]).replace({"kind": {"shed": "lost"}}), "kind 'lost' is none of shed, migrated"),
        (shed([-1], [1]), "x -1 of n 1000 is no count"),
        (shed([float("nan")], [1]), "is no count"),
        (shed([1001], [1]), "1001 rejected of 1000 sent"),
        (pd.concat([shed([1], [1])] * 2), "is there twice"),
        (shed([1, 1], [1, 1]).iloc[:-1], "pair 1 has shed of one arm only"),
        (shed([1], [1]), "1 pair"),
        (shed([0], [0], n=0), "an arm sent no request"),
        (migrated([0], [0]), "no stream in flight"),
    ],
)
def test_bad_counts_are_invalid(frame, said):
    found = judge_counts(frame)
    assert found.status == "invalid"
    assert said in found.reasons[0]
