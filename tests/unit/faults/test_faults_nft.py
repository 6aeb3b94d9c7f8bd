"""What we say to nft and what we understand: pure text, no kernel."""

from __future__ import annotations

import json

import pytest

from faults import nft
from faults.nft import FROM, TO, Rules

RULES = Rules((TO, FROM), nft.DROP, ("10.1.0.2", "10.1.0.3", "fe80::2"), 41.5)
TEXT = """\
table inet squall_x {
	set peers4 {
		type ipv4_addr
		flags timeout
		elements = { 10.1.0.2 timeout 41500ms, 10.1.0.3 timeout 41500ms }
	}

	set peers6 {
		type ipv6_addr
		flags timeout
		elements = { fe80::2 timeout 41500ms }
	}

	chain to_peers {
		type filter hook output priority raw; policy accept;
		ip daddr @peers4 counter drop
		ip6 daddr @peers6 counter drop
	}

	chain from_peers {
		type filter hook input priority raw; policy accept;
		ip saddr @peers4 counter drop
		ip6 saddr @peers6 counter drop
	}
}"""


def test_a_table_names_the_peers_with_an_end_and_drops_in_both_chains() -> None:
    assert nft.text("squall_x", RULES) == TEXT
    one_way = nft.text("squall_x", Rules((FROM,), nft.DROP, ("10.1.0.2",), 1))
    assert "from_peers" in one_way and "to_peers" not in one_way


@pytest.mark.parametrize(
    ("ratio", "rule"),
    [
        (0.2, "numgen random mod 100000 < 20000 counter drop"),
        (0.001, "numgen random mod 100000 < 100 counter drop"),
        (1.0, "counter drop"),  # nft refuses a number that is always below
    ],
)
def test_a_share_of_the_packets(ratio: float, rule: str) -> None:
    assert nft.lose(ratio) == rule


def test_a_reset_is_never_answered_by_a_reset() -> None:
    assert nft.RESET.startswith("tcp flags & rst != rst ")


LISTED = TEXT.replace("timeout 41500ms", "timeout 41s500ms expires 40s")


@pytest.mark.parametrize(
    ("listing", "expired", "said"),
    [
        (LISTED, False, None),
        (LISTED.replace("elements = { fe80::2 timeout 41s500ms expires 40s }", ""), True, None),
        (LISTED.replace("elements = { fe80::2 timeout 41s500ms expires 40s }", ""), False, "taken out"),
        (LISTED.replace("{ fe80::2", "{ fe80::3 timeout 1s, fe80::2"), False, "added: fe80::3"),
        (LISTED.replace("ip daddr @peers4 counter drop", "ip daddr @peers4 counter accept"), False, "rules differ"),
        (LISTED.replace("\t\tip6 saddr @peers6 counter drop\n", ""), True, "ip6 saddr @peers6"),
    ],
)  # fmt: skip
def test_drift(listing: str, expired: bool, said: str | None) -> None:
    found = nft.drift(TEXT, listing, expired)
    assert (said in (found or "")) if said else found is None


def test_counters_are_summed_by_chain() -> None:
    def rule(chain: str, packets: int) -> dict[str, object]:
        return {
            "rule": {"chain": chain, "expr": [{"match": {}}, {"counter": {"packets": packets, "bytes": 9}}]}
        }

    listing = {
        "nftables": [{"metainfo": {}}, rule(TO, 3), rule(TO, 4), rule(FROM, 0), {"chain": {"name": TO}}]
    }
    assert nft.counters(json.dumps(listing)) == {TO: 7, FROM: 0}
    with pytest.raises(ValueError):
        nft.counters("no JSON")


def test_tables_that_are_there() -> None:
    assert nft.tables("table ip filter\ntable inet squall_other\n") == ["ip filter", "inet squall_other"]
    assert nft.tables("") == []
