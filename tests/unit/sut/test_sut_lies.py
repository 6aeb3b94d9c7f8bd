"""Counting misbehaviour: exactly every N-th, at most one a token, and a book of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sut.witness.lies import REQUEST_KINDS, TOKEN_KINDS, Lies


def spoils(lies: Lies, i: int, total: int) -> str | None:
    """The kind that spoils token i."""
    rule = lies.for_token(i, total)
    return rule and rule.kind


def waits_for(lies: Lies, first: int, total: int) -> dict[str, int]:
    """By kind, the token that it waits for."""
    return {rule.kind: at for rule, at in lies.for_request(first, total).items()}


@given(st.integers(1, 50), st.integers(1, 500))
def test_one_in_n_is_exactly_every_nth_token(n: int, tokens: int) -> None:
    lies = Lies([{"kind": "repeat", "one_in": n}])
    told = [i for i in range(tokens) if spoils(lies, i, tokens)]
    assert told == list(range(n - 1, tokens, n))


def test_a_turn_that_does_not_fit_waits_for_the_next_token() -> None:
    lies = Lies([{"kind": "swap", "one_in": 5}])
    assert [spoils(lies, i, 5) for i in range(5)] == [None] * 5  # due at the last token: nothing to swap with
    assert spoils(lies, 0, 5) == "swap"
    assert [spoils(lies, i, 9) for i in (1, 2, 3)] == [None] * 3
    assert spoils(lies, 4, 9) == "swap"  # the tenth token: the count didn't shift


def test_at_token_is_that_token_of_every_request() -> None:
    lies = Lies([{"kind": "drop", "at_token": 3}])
    for _ in range(2):
        assert [i for i in range(6) if spoils(lies, i, 6)] == [3]
    assert [i for i in range(4) if spoils(lies, i, 4)] == []  # a missing last token would be no loss


def test_at_most_one_kind_touches_a_token() -> None:
    lies = Lies([{"kind": "drop", "one_in": 2}, {"kind": "corrupt", "one_in": 2}])
    assert [spoils(lies, i, 10) for i in range(6)] == [None, "drop", "corrupt", "drop", "corrupt", "drop"]


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
    assert waits_for(Lies([{"kind": "end_early", "one_in": 1}]), 0, 10) == {"end_early": 5}


@pytest.mark.parametrize(
    ("rule", "token"),
    [({"kind": "hang", "at_token": 4}, 5), ({"kind": "raise", "at_token": 4}, 4),
     ({"kind": "first_then_silence", "at_token": 0}, 8), ({"kind": "naive_usage", "one_in": 1}, 7),
     ({"kind": "slow", "one_in": 1}, 7), ({"kind": "slow", "at_token": 9}, 9)],
)  # fmt: skip
def test_what_a_request_kind_waits_for(rule: dict[str, object], token: int) -> None:
    assert waits_for(Lies([rule]), first=7, total=20) == {rule["kind"]: token}


def test_the_book() -> None:
    lies = Lies([{"kind": "drop", "one_in": 2}])
    for request_id in ("a", "b", "a"):
        lies.note(lies.rules[0], request_id)
    assert lies.status() == {
        "misbehave": [{"kind": "drop", "one_in": 2}],
        "lies": {"drop": {"count": 3, "request_ids": ["a", "b"]}},
        "tagged": {},
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
    heard: list[tuple[str, str, str | None]] = []
    lies = Lies([{"kind": "repeat", "one_in": 2}], lambda *said: heard.append(said))
    lies.add("x", {"kind": "drop", "one_in": 1})
    lies.note(lies.rules[0], "a")
    lies.note(lies.rules[1], "b")
    assert heard == [("repeat", "a", None), ("drop", "b", "x")]


def test_canaries_meet_only_what_is_meant_for_them() -> None:
    lies = Lies([{"kind": "hang", "at_token": 3}])
    assert lies.for_canary() == {}
    rule = lies.add("x", {"kind": "hang", "at_token": 3, "canaries": True})
    assert lies.for_canary() == {rule: 0}
    assert waits_for(lies, 7, 20) == {"hang": 4}
    lies.add("y", {"kind": "hang", "one_in": 1, "canaries": True})
    assert waits_for(lies, 7, 20) == {"hang": 7}, "from its next token"
    assert rule is not None and rule.plain() == {"kind": "hang", "at_token": 3, "canaries": True}


def test_a_tagged_rule_comes_and_goes_and_the_others_count_on() -> None:
    lies = Lies([{"kind": "drop", "one_in": 4}])
    assert [spoils(lies, i, 99) for i in range(3)] == [None] * 3
    rule = lies.add("x", {"kind": "corrupt", "one_in": 1})
    assert rule is not None and lies.add("x", {"kind": "corrupt", "one_in": 1}) is None, "once only"
    assert spoils(lies, 3, 99) == "drop", "the scenario's own rule was due"
    assert spoils(lies, 4, 99) == "corrupt"
    lies.note(rule, "a")
    assert lies.remove("x") is rule and lies.remove("x") is None and lies.remove("y") is None
    assert [spoils(lies, i, 99) for i in range(5, 8)] == [None, None, "drop"]
    assert lies.status()["misbehave"] == [{"kind": "drop", "one_in": 4}]
    kept = lies.status()["tagged"]["x"]
    assert (kept["kind"], kept["count"], kept["in_force"]) == ("corrupt", 1, False)
    assert kept["first_ns"] == rule.first_ns
    with pytest.raises(ValueError, match="x was taken back"):
        lies.add("x", {"kind": "corrupt", "one_in": 1})
    with pytest.raises(ValueError, match="unknown kind"):
        lies.add("z", {"kind": "sulk", "one_in": 1})
