"""Several processes as one: totals add up, figures take the worst lag and the sum of the work."""

from __future__ import annotations

import msgspec
import pytest

from harness.traffic import figures
from harness.traffic.totals import Totals, together


def test_totals_add_up() -> None:
    one = Totals(5, 1, 1, 1, 1, 100, 1, {50: 2, 70: 0})
    other = Totals(7, 2, 1, 2, 1, 300, 1, {50: 3})
    assert together([one, other]) == Totals(12, 3, 2, 3, 2, 400, 2, {50: 5, 70: 0})
    assert together([]) == Totals()
    assert together([one]) == one


def test_every_total_is_summed() -> None:
    numbers = [name for name in Totals.__struct_fields__ if name != "past"]
    ones = Totals(**dict.fromkeys(numbers, 1))
    assert {getattr(together([ones, ones, ones]), name) for name in numbers} == {3}


def test_totals_survive_a_message() -> None:
    one = Totals(5, 1, 1, 1, 1, 100, 1, {50: 2})
    assert msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(one)), Totals) == one


def test_the_worst_lag_and_the_sum_of_the_work() -> None:
    busy = {
        "hub_lag_p99_ms": 9.0,
        "send_lag_p99_ms": 1.0,
        "cpu_s": 4.0,
        "chunks": 300,
        "coalesced_ratio": 0.1,
    }
    quick = {
        "hub_lag_p99_ms": 2.0,
        "send_lag_p99_ms": 3.0,
        "cpu_s": 1.0,
        "chunks": 100,
        "coalesced_ratio": 0.5,
    }
    assert figures.merged([busy, quick]) == {
        "hub_lag_p99_ms": 9.0, "send_lag_p99_ms": 3.0, "cpu_s": 5.0, "chunks": 400,
        "coalesced_ratio": pytest.approx((30 + 50) / 400),
    }  # fmt: skip


def test_who_measured_nothing_says_nothing() -> None:
    idle = {"send_lag_p99_ms": None, "hub_lag_p99_ms": 1.0, "chunks": 0, "coalesced_ratio": None}
    busy = {"send_lag_p99_ms": 7.0, "hub_lag_p99_ms": 2.0, "chunks": 10, "coalesced_ratio": 0.2}
    assert figures.merged([idle, busy]) == {**busy, "coalesced_ratio": pytest.approx(0.2)}
    assert figures.merged([idle, idle])["send_lag_p99_ms"] is None, "unknown stays unknown"
    assert figures.merged([]) == {}
