"""Lengths: each law against its own distribution (a wrong one fails), bounds, files, refusals."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import config, lengths
from harness.core.errors import ScenarioError
from harness.core.lengths import Distribution, Length, Lognormal, Normal

N = 4000
LIMIT = 1.95 / math.sqrt(N)  # Kolmogorov-Smirnov; exceeded by the right law once in 1,000 seeds


def drawn(length: Length, seed: int = 3) -> np.ndarray[Any, Any]:
    r = random.Random(seed)
    return np.array([lengths.draw(length, r) for _ in range(N)])


def ks(values: np.ndarray[Any, Any], cdf: Any) -> float:
    """Largest distance at the whole numbers, rounding taken into account."""
    at = np.unique(values)
    share = np.searchsorted(np.sort(values), at, side="right") / len(values)
    return float(np.abs(share - cdf(at + 0.5)).max())


def phi(z: Any) -> Any:
    return np.array([0.5 * (1 + math.erf(one / math.sqrt(2))) for one in np.atleast_1d(z)])


def test_a_normal_is_normal_and_a_lognormal_is_not() -> None:
    normal = drawn(Distribution(normal=Normal(1000, 100)))
    skewed = drawn(Distribution(lognormal=Lognormal(1000, 0.5)))
    assert ks(normal, lambda x: phi((x - 1000) / 100)) < LIMIT
    assert ks(normal, lambda x: phi((x - 1010) / 100)) > LIMIT / 2  # a tenth of a deviation off shows
    assert ks(skewed, lambda x: phi(np.log(x / 1000) / 0.5)) < LIMIT
    assert ks(skewed, lambda x: phi((x - skewed.mean()) / skewed.std())) > LIMIT


def test_uniform_and_empirical_have_their_values_equally_often() -> None:
    uniform = drawn(Distribution(uniform=(11, 14)))
    assert set(uniform) == {11, 12, 13, 14}
    assert all(abs((uniform == value).mean() - 0.25) < 0.035 for value in (11, 12, 13, 14))
    listed = drawn(Distribution(values=[5, 5, 5, 900]))
    assert set(listed) == {5, 900} and abs((listed == 900).mean() - 0.25) < 0.035


def test_bounds_hold() -> None:
    cut = Distribution(lognormal=Lognormal(100, 2), min=20, max=300)
    assert lengths.bounds(cut) == (20, 300)
    values = drawn(cut)
    assert values.min() == 20 and values.max() == 300 and len(set(values)) > 100


LAWS: Any = st.one_of(
    st.integers(1, 500),
    st.builds(lambda a, d: Distribution(uniform=(a, a + d)), st.integers(1, 500), st.integers(0, 500)),
    st.builds(lambda m, s, a: Distribution(normal=Normal(m, s), min=a), st.floats(1, 500), st.floats(0, 99), st.integers(1, 9)),
    st.builds(lambda m, s: Distribution(lognormal=Lognormal(m, s)), st.floats(1, 500), st.floats(0, 3)),
    st.builds(lambda v: Distribution(values=v), st.lists(st.integers(1, 9), min_size=1)),
)  # fmt: skip


@given(LAWS, st.integers())
def test_what_is_drawn_is_within_the_bounds_and_pure(length: Length, seed: int) -> None:
    assert lengths.problem(length) is None and lengths.shown(length)
    low, high = lengths.bounds(length)
    value = lengths.draw(length, random.Random(seed))
    assert low <= value <= high and value == lengths.draw(length, random.Random(seed))
    assert msgspec.convert(msgspec.to_builtins(length), Length) == length


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "needs exactly one of uniform, normal, lognormal and file, got none"),
        ({"uniform": [1, 2], "normal": {"mean": 1, "sd": 1}}, "got uniform, normal"),
        ({"uniform": [5, 2]}, "5..2 is no range of token counts"),
        ({"normal": {"mean": 100, "sd": -1}}, "sd -1 is no spread"),
        ({"normal": {"mean": 100, "sd": 1}, "min": 0}, "0..106 is no range"),
        ({"lognormal": {"median": 0, "sigma": 1}}, "is no lognormal"),
        ({"uniform": [1, 2], "max": 3}, "min and max don't go with uniform"),
        ({"values": [0]}, "0..0 is no range"),
        ({"normal": {"mean": 9000, "sd": 1}}, "9006 is above 8093"),
    ],
)
def test_what_is_no_distribution_is_refused(given: Any, text: str) -> None:
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
            "load": {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1, "output_tokens": given}]}}  # fmt: skip
    with pytest.raises(ScenarioError) as caught:
        config.build(tree, "t.yaml")
    assert text in str(caught.value) and "load.users[0].output_tokens" in str(caught.value)


def loaded(tmp_path: Path, text: str) -> config.Scenario:
    (tmp_path / "lengths.txt").write_text(text)
    users = [{"class": "ChatUser", "count": 1, "output_tokens": {"file": "lengths.txt"}}]
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "load": {"duration_s": 1, "users": users}}
    (tmp_path / "s.yaml").write_text(json.dumps(tree))
    return config.load_scenario(tmp_path / "s.yaml")


@pytest.mark.parametrize("text", ["12\n7  # short\n\n12\n", "[12, 7, 12]"])
def test_a_file_becomes_part_of_the_scenario(tmp_path: Path, text: str) -> None:
    one = loaded(tmp_path, text)
    assert one.load.users[0].output_tokens == Distribution(values=[12, 7, 12])
    assert config.build(config.to_plain(one) | {"load": {**config.to_plain(one)["load"]}}, "again") == one


@pytest.mark.parametrize("text", ["", "12\nx\n", "[1, 2", "[]", "0\n", "1.5\n", "[true]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScenarioError, match=r"load.users\[0\].output_tokens.file"):
        loaded(tmp_path, text)


def test_a_uniform_draws_as_it_always_did() -> None:
    r = random.Random(5)
    assert lengths.draw(Distribution(uniform=(50, 200)), random.Random(5)) == r.randint(50, 200)
