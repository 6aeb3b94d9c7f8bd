"""Misbehaviour on demand: which token or request is spoiled, decided by counting, and the books of it.

`one_in: N` spoils exactly every N-th token (or request) of this process that can be spoiled; one that
can't passes its turn to the next. `at_token: k` spoils token k of every request. A rule may carry a
tag, by which a fault adds it and takes it back while the others stay and count on. Pure, standard
library only; what a kind does to a stream is the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

TOKEN_KINDS = frozenset({"drop", "repeat", "swap", "corrupt", "cross"})
REQUEST_KINDS = frozenset(
    {"end_early", "hang", "first_then_silence", "slow", "naive_usage", "raise", "die", "report_death"}
)
MAX_IDS = 10_000  # request ids kept per kind


class Rule:
    """One entry of `misbehave` with its counters: what it has seen, and how often it was obeyed."""

    def __init__(self, kind: str, one_in: int | None, at_token: int | None, tag: str | None = None) -> None:
        self.kind, self.one_in, self.at_token, self.tag = kind, one_in, at_token, tag
        self.canaries = False  # canaries meet it too, before their first token; they are not counted
        self.seen = 0
        self.count = 0
        self.first_ns: int | None = None  # CLOCK_MONOTONIC of the first time

    def turn(self) -> bool:
        """Count one; True at every N-th. The turn stays due until `taken`."""
        self.seen += 1
        return self.one_in is not None and self.seen >= self.one_in

    def taken(self) -> None:
        """The due turn was used: count on from here."""
        self.seen -= self.one_in or 0

    def plain(self) -> dict[str, Any]:
        """As it stands in a scenario."""
        both = {"kind": self.kind, "one_in": self.one_in, "at_token": self.at_token,
                "canaries": self.canaries or None}  # fmt: skip
        return {key: value for key, value in both.items() if value is not None}


class Lies:
    """The rules in force and what they did so far."""

    def __init__(
        self,
        rules: Iterable[Mapping[str, Any]] = (),
        tell: Callable[[str, str, str | None], None] | None = None,
    ) -> None:
        self.tell = tell  # hears (kind, request id, tag) of each one that happened
        self.rules: list[Rule] = []
        self.tagged: dict[str, Rule] = {}  # every one that was ever added
        self.counts: dict[str, int] = {}
        self.request_ids: dict[str, dict[str, None]] = {}
        self.replace(rules)

    def replace(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Put other rules in force, counters at 0. Raises ValueError naming the bad one."""
        self.rules = [_rule(entry) for entry in rules]

    def add(self, tag: str, entry: Mapping[str, Any]) -> Rule | None:
        """One more rule, to be taken back by its tag; None when it is there already.

        Raises ValueError for a bad rule, and for a tag that was taken back.
        """
        before = self.tagged.get(tag)
        if before is not None and before not in self.rules:
            raise ValueError(f"add: {tag} was taken back")
        if before is not None:
            return None
        rule = self.tagged[tag] = _rule(entry, tag)
        self.rules.append(rule)
        return rule

    def remove(self, tag: str) -> Rule | None:
        """Take a rule back; None when it isn't in force. Its counters can still be read."""
        rule = self.tagged.get(tag)
        if rule is None or rule not in self.rules:
            return None
        self.rules.remove(rule)
        return rule

    def note(self, rule: Rule, request_id: str) -> None:
        """Write down that a rule was really obeyed on a request."""
        kind = rule.kind
        rule.count += 1
        if rule.first_ns is None:
            rule.first_ns = time.monotonic_ns()
        if self.tell is not None:
            self.tell(kind, request_id, rule.tag)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        ids = self.request_ids.setdefault(kind, {})
        if len(ids) < MAX_IDS:
            ids[request_id] = None

    def for_request(self, first: int, total: int, among: Sequence[Rule] | None = None) -> dict[Rule, int]:
        """Request rules that will touch this request, with the index of the token they wait for."""
        found: dict[Rule, int] = {}
        for rule in self.rules if among is None else among:
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
            if rule.kind == "naive_usage" or (
                rule.one_in is not None and (rule.kind == "slow" or rule.canaries)
            ):
                at = first  # from the start
            found[rule] = at
        return found

    def for_canary(self) -> dict[Rule, int]:
        """What a canary meets: before its first token, or nothing."""
        return {rule: 0 for rule in self.rules if rule.canaries}

    def for_token(self, i: int, total: int) -> Rule | None:
        """The rule that spoils token i of a request, None mostly. At most one a token."""
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
        return chosen

    def skip_token(self) -> None:
        """Count a token that went out unasked: the second one of a swap."""
        for rule in self.rules:
            if rule.kind in TOKEN_KINDS and rule.at_token is None:
                rule.seen += 1

    def status(self) -> dict[str, Any]:
        """Rules in force, per kind how often and to whom, and what became of each tagged rule."""
        touched = {
            kind: {"count": count, "request_ids": list(self.request_ids[kind])}
            for kind, count in self.counts.items()
        }
        tagged = {
            tag: {
                "kind": rule.kind,
                "count": rule.count,
                "first_ns": rule.first_ns,
                "in_force": rule in self.rules,
            }
            for tag, rule in self.tagged.items()
        }
        return {"misbehave": [rule.plain() for rule in self.rules], "lies": touched, "tagged": tagged}


def _rule(entry: Mapping[str, Any], tag: str | None = None) -> Rule:
    kind, one_in, at_token = entry.get("kind"), entry.get("one_in"), entry.get("at_token")
    if kind not in TOKEN_KINDS | REQUEST_KINDS:
        raise ValueError(f"misbehave: unknown kind {kind!r}")
    given = [value for value in (one_in, at_token) if value is not None]
    if len(given) != 1 or type(given[0]) is not int or given[0] < (1 if one_in is not None else 0):
        raise ValueError(f"misbehave: {kind} needs one of one_in (1 or more) and at_token (0 or more)")
    rule = Rule(kind, one_in, at_token, tag)
    rule.canaries = entry.get("canaries") is True
    return rule
