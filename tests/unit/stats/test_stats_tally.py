"""Quantiles from counts are numpy's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.tally import DENSE, Tally

VALUES = st.integers(0, 300) | st.integers(DENSE - 3, DENSE + 3) | st.integers(0, 2**31 - 1)
LEVELS = [0.0, 0.5, 0.9, 0.99, 1.0]


@given(st.lists(st.lists(VALUES, max_size=30), max_size=5), st.floats(0, 1))
def test_quantiles_are_numpys(parts: list[list[int]], level: float) -> None:
    tally, arrays = Tally(), [np.array(part, np.int32) for part in parts]
    for array in arrays:
        tally.add(array)
    whole = np.concatenate([np.zeros(0, np.int32), *arrays])
    assert tally.total == len(whole)
    if len(whole):
        assert tally.quantiles([*LEVELS, level]) == np.quantile(whole, [*LEVELS, level]).tolist()


def test_many_values_of_a_real_spread() -> None:
    r = np.random.default_rng(1)
    values = np.concatenate([r.lognormal(9.9, 0.4, 50_000), r.uniform(10**6, 10**9, 40)]).astype(np.int32)
    tally = Tally()
    for part in np.array_split(values, 7):
        tally.add(part)
    assert tally.quantiles(LEVELS) == np.quantile(values, LEVELS).tolist()


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        Tally().quantiles([0.5])
