"""Whom a network fault puts its target apart from: the words of `peers`, before anybody is looked up.

Pure. A word is a role, a name (`worker-2`), a group of roles or `all`. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ALL = "all"  # every other host of the system
GROUPS = {"control_plane": ("etcd", "nats")}  # names of several roles
CLIENT = "client"  # the load generator's side

Peers = str | tuple[str, ...]


def named(peers: Peers | Sequence[str]) -> tuple[str, ...]:
    """As a list. Raises ValueError for none, or for the client's host."""
    names = (peers,) if isinstance(peers, str) else tuple(peers)
    if not names:
        raise ValueError("peers must name a role or a target, got none")
    if CLIENT in names:
        raise ValueError("peers may not name `client`: squall's own paths are never cut")
    return names


def roles(word: str) -> tuple[str, ...]:
    """Roles that a word stands for; of a name its role."""
    role, dash, index = word.rpartition("-")
    return GROUPS.get(word, (role if dash and index.isdigit() else word,))


def is_name(word: str) -> bool:
    """True for one target's name."""
    return word not in GROUPS and roles(word) != (word,)


def meet(first: Peers | Sequence[str], second: Peers | Sequence[str]) -> bool:
    """True when two lists may name the same host."""
    return any(_same(one, other) for one in named(first) for other in named(second))


def problem(
    peers: Peers | Sequence[str], targets: Sequence[str], counts: Mapping[str, int]
) -> tuple[str, str] | None:
    """What is wrong with peers of these targets in a system with so many of each role, and what to do."""
    there = ", ".join(f"{role} ({count})" for role, count in sorted(counts.items()) if count) or "nobody"
    for word in named(peers):
        if word in targets:
            return f"{word} is the target itself", "name others"
        if is_name(word):
            (role,) = roles(word)
            if not 1 <= int(word.rpartition("-")[2]) <= counts.get(role, 0):
                return f"{word!r} is not there; this system has {there}", "name one that is"
        elif word != ALL and not any(counts.get(role) for role in roles(word)):
            return f"no target has the role {word!r}; this system has {there}", f"or write `{ALL}`"
    for target in targets:
        if not any(_others(word, target, counts) for word in named(peers)):
            return f"{', '.join(named(peers))} is nobody but {target} itself", "name others"
    return None


def _same(one: str, other: str) -> bool:
    if ALL in (one, other) or one == other:
        return True
    if is_name(one) and is_name(other):
        return False
    return bool({*roles(one)} & {*roles(other)})


def _others(word: str, target: str, counts: Mapping[str, int]) -> int:
    """How many hosts a word means besides the target's own."""
    if is_name(word):
        return int(word != target)
    total = sum(counts.values()) if word == ALL else sum(counts.get(role, 0) for role in roles(word))
    return total - int(word == ALL or roles(target)[0] in roles(word))
