"""Two clocks held against each other: the bound holds whatever the way back and forth cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.collect import alignment
from harness.collect.alignment import SAME, Offset, Round
from harness.core.clock import MS, NS

times = st.integers(0, 10**9)


def round_of(asked_ns: int, there_ns: int, thought_ns: int, back_ns: int, offset_ns: int) -> Round:
    """What the four clocks show when the ways take so long and their clock is ours + offset."""
    heard_ns = asked_ns + there_ns + offset_ns
    said_ns = heard_ns + thought_ns
    return Round(asked_ns, heard_ns, said_ns, said_ns - offset_ns + back_ns)


@given(st.lists(st.tuples(times, times, times, times), min_size=1), st.integers(-(10**15), 10**15))
def test_the_true_offset_is_within_the_bound(ways: list[tuple[int, int, int, int]], true_ns: int) -> None:
    found = alignment.offset([round_of(*way, true_ns) for way in ways])
    assert abs(found.offset_ns - true_ns) <= found.error_ns


def test_the_shortest_round_says_it_best() -> None:
    slow, quick = round_of(0, 50 * MS, 0, MS, 7 * NS), round_of(100 * MS, 1000, 5 * MS, 3000, 7 * NS)
    found = alignment.offset([slow, quick, slow])
    assert found == Offset(7 * NS - 1000, 2000)
    assert alignment.offset([slow]).error_ns == 25_500_000


def test_a_round_out_of_order_says_nothing() -> None:
    broken = Round(100, 0, 500, 200)
    good = round_of(0, 10, 0, 10, 5)
    assert alignment.offset([broken, good]) == alignment.offset([good])
    with pytest.raises(ValueError, match="in order"):
        alignment.offset([broken])


def test_a_drift_widens_the_error_and_is_no_step() -> None:
    start, end = Offset(NS, 1000), Offset(NS + 60_000, 3000)
    assert alignment.error_ns(start, end) == 63_000
    assert alignment.step(start, end, 60 * NS) is None
    assert alignment.error_ns(SAME, SAME) == 0


@pytest.mark.parametrize("moved_ns", [20 * MS, -20 * MS])
def test_a_step_is_told(moved_ns: int) -> None:
    start, end = Offset(NS, 1000), Offset(NS + moved_ns, 1000)
    told = alignment.step(start, end, 60 * NS)
    assert told is not None
    assert f"{moved_ns / MS:.3f} ms" in told
    assert alignment.step(start, end, 3600 * NS) is None, "within an hour that is a drift"
