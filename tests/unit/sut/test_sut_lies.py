"""Counting misbehaviour: exactly every N-th, at most one a token, and a book of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sut.witness.lies import REQUEST_KINDS, TOKEN_KINDS, Lies


@given(st.integers(1, 50), st.integers(1, 500))
def test_one_in_n_is_exactly_every_nth_token(n: int, tokens: int) -> None:
    lies = Lies([{"kind": "repeat", "one_in": n}])
    told = [i for i in range(tokens) if lies.for_token(i, tokens)]
    assert told == list(range(n - 1, tokens, n))


def test_a_turn_that_does_not_fit_waits_for_the_next_token() -> None:
    lies = Lies([{"kind": "swap", "one_in": 5}])
    assert [lies.for_token(i, 5) for i in range(5)] == [
        None
    ] * 5  # due at the last token: nothing to swap with
    assert lies.for_token(0, 5) == "swap"
    assert [lies.for_token(i, 9) for i in (1, 2, 3)] == [None] * 3
    assert lies.for_token(4, 9) == "swap"  # the tenth token: the count didn't shift


def test_at_token_is_that_token_of_every_request() -> None:
    lies = Lies([{"kind": "drop", "at_token": 3}])
    for _ in range(2):
        assert [i for i in range(6) if lies.for_token(i, 6)] == [3]
    assert [i for i in range(4) if lies.for_token(i, 4)] == []  # a missing last token would be no loss


def test_at_most_one_kind_touches_a_token() -> None:
    lies = Lies([{"kind": "drop", "one_in": 2}, {"kind": "corrupt", "one_in": 2}])
    assert [lies.for_token(i, 10) for i in range(6)] == [None, "drop", "corrupt", "drop", "corrupt", "drop"]


def test_requests_are_counted_too() -> None:
    lies = Lies([{"kind": "end_early", "one_in": 3}])
    assert [bool(lies.for_request(0, 10)) for _ in range(7)] == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert Lies([{"kind": "end_early", "one_in": 1}]).for_request(0, 10) == {"end_early": 5}


@pytest.mark.parametrize(
    ("rule", "waits_for"),
    [({"kind": "hang", "at_token": 4}, 5), ({"kind": "raise", "at_token": 4}, 4),
     ({"kind": "first_then_silence", "at_token": 0}, 8), ({"kind": "naive_usage", "one_in": 1}, 7),
     ({"kind": "slow", "one_in": 1}, 7), ({"kind": "slow", "at_token": 9}, 9)],
)  # fmt: skip
def test_what_a_request_kind_waits_for(rule: dict[str, object], waits_for: int) -> None:
    assert Lies([rule]).for_request(first=7, total=20) == {rule["kind"]: waits_for}


def test_the_book() -> None:
    lies = Lies([{"kind": "drop", "one_in": 2}])
    for request_id in ("a", "b", "a"):
        lies.note("drop", request_id)
    assert lies.status() == {
        "misbehave": [{"kind": "drop", "one_in": 2}],
        "lies": {"drop": {"count": 3, "request_ids": ["a", "b"]}},
    }


@pytest.mark.parametrize(
    "rule",
    [{"kind": "sulk", "one_in": 1}, {"kind": "drop"}, {"kind": "drop", "one_in": 0},
     {"kind": "drop", "one_in": 1, "at_token": 1}, {"kind": "drop", "one_in": True},
     {"kind": "drop", "at_token": -1}, {"kind": "drop", "one_in": "2"}],
)  # fmt: skip
def test_bad_rules_are_refused_and_the_old_ones_stay(rule: dict[str, object]) -> None:
    lies = Lies([{"kind": "drop", "one_in": 2}])
    with pytest.raises(ValueError, match="misbehave"):
        lies.replace([rule])
    assert lies.status()["misbehave"] == [{"kind": "drop", "one_in": 2}]


def test_the_kinds_are_those_of_the_scenario() -> None:
    from typing import get_args, get_type_hints

    from harness.core.config import Misbehave

    assert set(get_args(get_type_hints(Misbehave)["kind"])) == TOKEN_KINDS | REQUEST_KINDS


def test_each_lie_is_told() -> None:
    heard: list[tuple[str, str]] = []
    lies = Lies([{"kind": "repeat", "one_in": 2}], lambda kind, request_id: heard.append((kind, request_id)))
    lies.note("repeat", "a")
    lies.note("repeat", "b")
    assert heard == [("repeat", "a"), ("repeat", "b")]
