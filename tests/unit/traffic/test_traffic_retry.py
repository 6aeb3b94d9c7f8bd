"""Retry policies: what is asked again, how long after, and for how long."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import clock
from harness.core.config import Retry
from harness.traffic import retry
from harness.traffic.exchange import Exchange
from harness.traffic.retry import Budget

CODES = frozenset({503, 529})


def answered(status: int | None, *fields: str, end: Any = "complete") -> Exchange:
    one = Exchange(b"")
    if status is not None:
        lines = [f"HTTP/1.1 {status} X", *fields, "Content-Length: 0", "", ""]
        one.response.feed("\r\n".join(lines).encode())
    one.end = end
    return one


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (answered(529), True), (answered(503), True), (answered(429), True), (answered(500), True),
        (answered(200), False), (answered(400), False), (answered(404), False),
        (answered(200, end="closed"), False),  # a stream that had begun
        (answered(None, end="refused"), True), (answered(None, end="reset"), True), (answered(None, end="timeout"), True),
        (answered(None, end="cancelled"), False), (answered(None, end="drain"), False),
    ],
)  # fmt: skip
def test_what_is_asked_again(one: Exchange, wanted: bool) -> None:
    assert retry.wanted(one, CODES) is wanted


def wait(policy: Retry, one: Exchange, attempt: int, k: int = 0) -> float:
    return retry.wait_s(policy, one, attempt, 1, 5, k)


def test_backoff_doubles_up_to_its_cap() -> None:
    policy = Retry(base_s=0.5, cap_s=3, jitter="none")
    assert [wait(policy, answered(503), n) for n in range(5)] == [0.5, 1, 2, 3, 3]


def test_full_jitter_is_uniform_below_it_and_pure() -> None:
    policy = Retry(base_s=1, cap_s=4)
    found = sorted(wait(policy, answered(503), 1, k) for k in range(2000))
    assert found[0] >= 0 and found[-1] <= 2
    distance = max(abs(value / 2 - n / 2000) for n, value in enumerate(found))
    assert distance < 1.95 / math.sqrt(2000)
    assert max(abs(value / 4 - n / 2000) for n, value in enumerate(found)) > 0.4  # another law is told apart
    assert wait(policy, answered(503), 1) == wait(policy, answered(503), 1) != wait(policy, answered(503), 2)


def test_retry_after_goes_first() -> None:
    policy = Retry(base_s=1, jitter="none")
    assert wait(policy, answered(503, "Retry-After: 7"), 0) == 7
    assert wait(Retry(base_s=1, jitter="none", retry_after=False), answered(503, "Retry-After: 7"), 0) == 1
    assert wait(policy, answered(503, "Retry-After: soon"), 0) == 1
    later = clock.utc_date(clock.wall_ns()).replace(year=2199).strftime("%a, %d %b %Y 00:00:00 GMT")
    assert wait(policy, answered(503, f"Retry-After: {later}"), 0) > 1e6
    assert retry.retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(value: str) -> None:
    found = retry.retry_after_s(value)
    assert found is None or found >= 0


def test_a_budget_allows_its_share() -> None:
    budget = Budget(0.1, 2)
    sent = 0
    for _ in range(1000):
        budget.earn()
        sent += budget.take()
    assert sent == pytest.approx(102, abs=1)


def test_its_defaults_are_a_policy() -> None:
    assert msgspec.convert({}, Retry).max_attempts == 3
