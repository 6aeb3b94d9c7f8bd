"""Misbehaviour on demand: which token or request is spoiled, decided by counting, and the books of it.

`one_in: N` spoils exactly every N-th token (or request) of this process that can be spoiled; one that
can't passes its turn to the next. `at_token: k` spoils token k of every request. Pure, standard
library only; what a kind does to a stream is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

TOKEN_KINDS = frozenset({"drop", "repeat", "swap", "corrupt", "cross"})
REQUEST_KINDS = frozenset({"end_early", "hang", "first_then_silence", "slow", "naive_usage", "raise", "die"})
MAX_IDS = 10_000  # request ids kept per kind


class Rule:
    """One entry of `misbehave` with its counter."""

    def __init__(self, kind: str, one_in: int | None, at_token: int | None) -> None:
        self.kind, self.one_in, self.at_token = kind, one_in, at_token
        self.seen = 0

    def turn(self) -> bool:
        """Count one; True at every N-th. The turn stays due until `taken`."""
        self.seen += 1
        return self.one_in is not None and self.seen >= self.one_in

    def taken(self) -> None:
        """The due turn was used: count on from here."""
        self.seen -= self.one_in or 0

    def plain(self) -> dict[str, Any]:
        """As it stands in a scenario."""
        both = {"kind": self.kind, "one_in": self.one_in, "at_token": self.at_token}
        return {key: value for key, value in both.items() if value is not None}


class Lies:
    """The rules in force and what they did so far."""

    def __init__(
        self, rules: Iterable[Mapping[str, Any]] = (), tell: Callable[[str, str], None] | None = None
    ) -> None:
        self.tell = tell  # hears (kind, request id) of each one that happened
        self.rules: list[Rule] = []
        self.counts: dict[str, int] = {}
        self.request_ids: dict[str, dict[str, None]] = {}
        self.replace(rules)

    def replace(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Put other rules in force, counters at 0. Raises ValueError naming the bad one."""
        self.rules = [_rule(entry) for entry in rules]

    def note(self, kind: str, request_id: str) -> None:
        """Write down that `kind` really happened to a request."""
        if self.tell is not None:
            self.tell(kind, request_id)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        ids = self.request_ids.setdefault(kind, {})
        if len(ids) < MAX_IDS:
            ids[request_id] = None

    def for_request(self, first: int, total: int) -> dict[str, int]:
        """Request kinds that will touch this request, with the index of the token they wait for."""
        found: dict[str, int] = {}
        for rule in self.rules:
            if rule.kind not in REQUEST_KINDS:
                continue
            if rule.at_token is not None:
                at = rule.at_token + (rule.kind == "hang")  # after token k, the others in its place
            elif rule.turn():
                rule.taken()
                at = first + (total - first + 1) // 2
            else:
                continue
            if rule.kind == "first_then_silence":
                at = first + 1
            if rule.kind == "naive_usage" or (rule.kind == "slow" and rule.one_in is not None):
                at = first  # from the start
            found.setdefault(rule.kind, at)
        return found

    def for_token(self, i: int, total: int) -> str | None:
        """The kind that spoils token i of a request, None mostly. At most one kind a token."""
        chosen: Rule | None = None
        for rule in self.rules:
            if rule.kind not in TOKEN_KINDS:
                continue
            due = rule.turn() if rule.at_token is None else rule.at_token == i
            fits = i + 1 < total or rule.kind not in {"drop", "swap"}  # these two need a next token
            if due and fits and chosen is None:
                chosen = rule
        if chosen is None:
            return None
        if chosen.at_token is None:
            chosen.taken()
        return chosen.kind

    def skip_token(self) -> None:
        """Count a token that went out unasked: the second one of a swap."""
        for rule in self.rules:
            if rule.kind in TOKEN_KINDS and rule.at_token is None:
                rule.seen += 1

    def status(self) -> dict[str, Any]:
        """Rules in force, and per kind how often and to whom."""
        touched = {
            kind: {"count": count, "request_ids": list(self.request_ids[kind])}
            for kind, count in self.counts.items()
        }
        return {"misbehave": [rule.plain() for rule in self.rules], "lies": touched}


def _rule(entry: Mapping[str, Any]) -> Rule:
    kind, one_in, at_token = entry.get("kind"), entry.get("one_in"), entry.get("at_token")
    if kind not in TOKEN_KINDS | REQUEST_KINDS:
        raise ValueError(f"misbehave: unknown kind {kind!r}")
    given = [value for value in (one_in, at_token) if value is not None]
    if len(given) != 1 or type(given[0]) is not int or given[0] < (1 if one_in is not None else 0):
        raise ValueError(f"misbehave: {kind} needs one of one_in (1 or more) and at_token (0 or more)")
    return Rule(kind, one_in, at_token)
