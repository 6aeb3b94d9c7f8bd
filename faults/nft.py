"""One nftables table for each network fault: its text, its name, how it is read back.

Owns what we say to nft and how we understand its answers; runs nothing. Elements of the sets carry
a timeout, so a rule stops matching by itself when nobody is left to remove it. Standard library only:
the guardian uses it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = "squall_"
FAMILY = "inet"
TO, FROM = "to_peers", "from_peers"  # chains: packets from the target to its peers, and back
_PARTS = 100_000  # a loss ratio is a whole number of these
_ELEMENTS = re.compile(r"elements = \{(.*?)\}", re.DOTALL)
_HOOKS = {TO: ("output", "daddr"), FROM: ("input", "saddr")}


@dataclass(frozen=True)
class Rules:
    """What happens to packets between a host and its peers. action: an nft statement with a counter."""

    chains: tuple[str, ...]  # TO, FROM
    action: str
    addresses: tuple[str, ...]  # of the peers, v4 and v6
    timeout_s: float


DROP = "counter drop"
RESET = "tcp flags & rst != rst counter reject with tcp reset"  # a reset is never answered by a reset


def lose(ratio: float) -> str:
    """Drop this share of the packets, by chance."""
    share = round(ratio * _PARTS)
    return DROP if share >= _PARTS else f"numgen random mod {_PARTS} < {share} {DROP}"


def mark(classid: str) -> str:
    """Send packets through this class of the device's queue."""
    return f"counter meta priority set {classid}"


def name(*parts: object) -> str:
    """A table's name."""
    return PREFIX + hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def text(table: str, rules: Rules) -> str:
    """The whole table, in the form in which nft lists it."""
    lines = [f"table {FAMILY} {table} {{"]
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        mine = [one for one in rules.addresses if (":" in one) == (version == 6)]
        lines += [f"\tset peers{version} {{", f"\t\ttype {kind}", "\t\tflags timeout"]
        if mine:
            timeout = f"{max(1, round(rules.timeout_s * 1000))}ms"
            lines.append(f"\t\telements = {{ {', '.join(f'{one} timeout {timeout}' for one in mine)} }}")
        lines += ["\t}", ""]
    for chain in rules.chains:
        hook, field = _HOOKS[chain]
        lines += [f"\tchain {chain} {{", f"\t\ttype filter hook {hook} priority raw; policy accept;"]
        lines += [
            f"\t\t{family} {field} @peers{version} {rules.action}"
            for family, version in (("ip", 4), ("ip6", 6))
        ]
        lines += ["\t}", ""]
    return "\n".join([*lines[:-1], "}"])


def add(table_text: str) -> list[str]:
    """argv that makes the table, all of it or nothing."""
    return ["nft", table_text]


def show(table: str) -> list[str]:
    """argv that lists the table without its counters."""
    return ["nft", "--stateless", "list", "table", FAMILY, table]


def show_counters(table: str) -> list[str]:
    """argv for `counters`."""
    return ["nft", "--json", "list", "table", FAMILY, table]


def show_all() -> list[str]:
    """argv for `tables`."""
    return ["nft", "list", "tables"]


def delete(table: str) -> list[str]:
    """argv that removes exactly this table."""
    return ["nft", "delete", "table", FAMILY, table]


def counters(listing: str) -> dict[str, int]:
    """Packets that each chain's rules matched. Raises ValueError for what is no listing."""
    found: dict[str, int] = {}
    for item in json.loads(listing)["nftables"]:
        rule: Mapping[str, Any] = item.get("rule", {})
        for statement in rule.get("expr", []):
            if isinstance(statement.get("counter"), dict):
                chain = str(rule["chain"])
                found[chain] = found.get(chain, 0) + int(statement["counter"]["packets"])
    return found


def tables(listing: str) -> list[str]:
    """Tables that are there, as nft names them."""
    return [line.removeprefix("table ").strip() for line in listing.splitlines() if line.startswith("table ")]


def drift(ours: str, listing: str, may_have_expired: bool) -> str | None:
    """What somebody else changed in a table of ours, None when it is as we made it."""
    if _skeleton(ours) != _skeleton(listing):
        changed = sorted(set(_skeleton(listing)) ^ set(_skeleton(ours)))
        return f"rules differ: {'; '.join(changed)}" if changed else "rules are in another order"
    mine, there = _addresses(ours), _addresses(listing)
    if there - mine:
        return f"addresses were added: {', '.join(sorted(there - mine))}"
    if mine - there and not may_have_expired:
        return f"addresses were taken out before their time: {', '.join(sorted(mine - there))}"
    return None


def _skeleton(listing: str) -> list[str]:
    """Its lines without sets' elements."""
    bare = _ELEMENTS.sub("", listing)
    return [" ".join(line.split()) for line in bare.splitlines() if line.strip()]


def _addresses(listing: str) -> set[str]:
    parts: Iterable[str] = (part for found in _ELEMENTS.findall(listing) for part in found.split(","))
    words: Sequence[list[str]] = [part.split() for part in parts]
    return {word[0] for word in words if word}
