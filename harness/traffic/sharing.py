"""Beginnings that prompts share: a prefix drawn from a few, or a trace's blocks by their ids.

Equal ids are equal words, so what a system can cache of a real load it can cache of ours. Pure.
"""

from __future__ import annotations

from functools import lru_cache

from harness.core import ids, words
from harness.core.config import UserClass
from harness.core.trace import BLOCK_TOKENS, Row


def beginning(
    seed: int, spec: UserClass, user: int, k: int, row: Row | None, room: int, block: int
) -> tuple[str, ...]:
    """The first words of prompt k of `user`, at most `room`. `block`: words for each id of a trace."""
    if row is not None:
        found: list[str] = []
        for number in row.hash_ids:
            if len(found) >= room:
                break
            found += _words(seed, "block", number, block)
        return tuple(found[:room])
    if spec.prefix is None:
        return ()
    group = ids.rng(seed, "prefix of", spec.user_class, user, k).randrange(spec.prefix.groups)
    return _words(seed, "prefix", group, spec.prefix.tokens)[:room]


def block_words(length_ratio: float) -> int:
    """Words of a block when a trace's lengths are multiplied."""
    return max(1, round(BLOCK_TOKENS * length_ratio))


@lru_cache(maxsize=8192)
def _words(seed: int, kind: str, number: int, count: int) -> tuple[str, ...]:
    return tuple(ids.rng(seed, kind, number).choices(words.WORDS, k=count))
