"""Removing a table and a queue on a real host: idempotent, exact, and honest about what was changed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import nft, tc, undo, undo_network
from faults.nft import Rules
from harness.core import clock, ids, netns, proc

pytestmark = pytest.mark.netns

TABLE = "squall_0123456789ab"
FOREIGN = "table inet squall_other {\n\tchain keep {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}"


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace with one device, `eth0`, with no queue."""
    name = f"{netns.prefix(ids.token())}a"
    netns.add(name)
    try:
        netns.ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        netns.ip("-n", name, "link", "set", "eth0", "up")
        yield name
    finally:
        netns.remove(name)


def said(host: str, *argv: str) -> str:
    done = undo_network.run(host, argv)
    assert done.code == 0, done.err
    return done.out


def table_op(host: str, timeout_s: float = 60, **more: Any) -> dict[str, Any]:
    text = nft.text(
        TABLE, Rules((nft.TO, nft.FROM), nft.DROP, ("10.1.0.2", "10.1.0.3", "fe80::3"), timeout_s)
    )
    whole_until_ns = clock.now_ns() + int(timeout_s * clock.NS)
    where = {"host": "worker-1", "netns": host, "inode": undo_network.inode(host)}
    return {
        "op": "nft_table",
        **where,
        "table": TABLE,
        "text": text,
        "whole_until_ns": whole_until_ns,
        **more,
    }


def load(op: dict[str, Any]) -> None:
    said(op["netns"], *nft.add(op["text"]))


def test_a_table_goes_and_no_other(host: str) -> None:
    op = table_op(host)
    said(host, *nft.add(FOREIGN))
    before = said(host, "nft", "list", "ruleset")
    load(op)
    assert undo.verify([op]) == [f"worker-1: table {TABLE} is still there"]
    (did,) = undo.apply([op])
    assert (did["did"], did["drifted"]) == (f"table {TABLE} removed", None)
    assert undo.verify([op]) == [] == undo.commands([op])
    assert said(host, "nft", "list", "ruleset") == before
    assert undo.apply([op])[0]["did"] == f"table {TABLE} already gone"
    assert said(host, "nft", "list", "ruleset") == before


def test_the_command_finishes_by_hand(host: str, tmp_path: Path) -> None:
    op = table_op(host)
    load(op)
    (line,) = undo.commands([op])
    assert line == f"nsenter --net=/run/netns/{host} -- nft delete table inet {TABLE}"
    assert proc.run(shlex.split(line), env={"PATH": proc.SYSTEM_PATH}).code == 0
    assert undo.verify([op]) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("add", "rule", "inet", TABLE, nft.TO, "accept"), "rules differ: accept"),
        (
            ("delete", "element", "inet", TABLE, "peers4", "{ 10.1.0.2 }"),
            "taken out before their time: 10.1.0.2",
        ),
        (("add", "element", "inet", TABLE, "peers4", "{ 10.9.9.9 timeout 9s }"), "added: 10.9.9.9"),
    ],
)
def test_a_table_that_somebody_changed_is_named_and_goes(
    host: str, change: tuple[str, ...], told: str
) -> None:
    op = table_op(host)
    load(op)
    said(host, "nft", *change)
    (did,) = undo.apply([op])
    assert told in did["drifted"] and "drifted" in did["did"]
    assert undo.verify([op]) == []


def test_every_form_of_rule_is_listed_as_it_was_written(host: str) -> None:
    for action in (nft.DROP, nft.lose(0.2), nft.lose(1), nft.RESET, nft.mark("5a1:10")):
        op = table_op(host)
        op["text"] = nft.text(TABLE, Rules((nft.TO, nft.FROM), action, ("10.1.0.2",), 60))
        load(op)
        (did,) = undo.apply([op])
        assert did["drifted"] is None, action


def test_the_kernel_ends_it_when_everybody_is_dead(host: str) -> None:
    said(host, "ip", "addr", "add", "10.1.0.1/24", "dev", "eth0")
    op = table_op(host, timeout_s=1)
    load(op)
    elements = lambda: "10.1.0.2" in said(host, "nft", "list", "set", "inet", TABLE, "peers4")  # noqa: E731
    assert elements()
    assert clock.wait_until(lambda: not elements(), 20), "the set's elements expire"
    (did,) = undo.apply([op])
    assert did["did"] == f"table {TABLE} removed" and did["drifted"] is None, "an end in time is no drift"


def test_another_host_of_the_same_name_is_never_touched(host: str) -> None:
    op = table_op(host, inode=1)
    load(op)
    root = queue_op(host, inode=1)
    said(host, *tc.limit("eth0", root["handle"], 1000)[0])
    assert undo.verify([op, root]) == []
    assert all("already gone" in one["did"] for one in undo.apply([op, root]))
    assert TABLE in said(host, "nft", "list", "tables") and "htb" in said(host, *tc.show("eth0"))


def test_a_host_that_is_gone_needs_no_undo() -> None:
    ops = [
        {**table_op("sq-nowhere"), "inode": 7},
        {**queue_op("sq-nowhere"), "inode": 7},
    ]
    assert undo.verify(ops) == [] and all("already gone" in one["did"] for one in undo.apply(ops))


def queue_op(host: str, **more: Any) -> dict[str, Any]:
    where = {"host": "worker-1", "netns": host, "inode": undo_network.inode(host)}
    return {"op": "tc_root", **where, "device": "eth0", "kind": "htb", "handle": "5a1:", **more}


def test_a_queue_goes_and_no_other(host: str) -> None:
    op = queue_op(host)
    before = said(host, *tc.show("eth0"))
    for argv in tc.limit("eth0", "5a1:", 1000):
        said(host, *argv)
    assert undo.verify([op]) == ["worker-1: queue 5a1: of eth0 is still there"]
    assert undo.commands([op]) == [f"nsenter --net=/run/netns/{host} -- tc qdisc del dev eth0 root"]
    assert undo.apply([op])[0]["did"] == "queue 5a1: of eth0 removed"
    assert said(host, *tc.show("eth0")) == before and undo.verify([op]) == []
    assert undo.apply([op])[0]["did"] == "queue 5a1: of eth0 already gone"


def test_a_queue_of_somebody_else_is_left_alone(host: str) -> None:
    for argv in tc.limit_all("eth0", "7:", 1000):
        said(host, *argv)
    (did,) = undo.apply([queue_op(host)])
    assert did["drifted"] == "eth0 has the queue tbf 7: now" and undo.verify([queue_op(host)]) == []
    assert tc.root_of(said(host, *tc.show("eth0"))) == tc.Root("tbf", "7:")


def test_what_can_not_be_looked_at_is_not_undone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, queue = table_op(host), queue_op(host)
    load(op)
    with monkeypatch.context() as patch:
        patch.setattr(proc, "SYSTEM_PATH", "/nowhere")
        assert [one["did"] for one in undo.apply([op, queue])] == ["failed", "failed"]
        assert len(undo.verify([op, queue])) == 2 == len(undo.commands([op, queue]))
    assert undo.apply([op])[0]["did"] == f"table {TABLE} removed"


def test_a_missing_nft_is_no_proof_that_the_table_is_gone(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = table_op(host)
    load(op)
    (tmp_path / "nsenter").symlink_to(str(shutil.which("nsenter", path=proc.SYSTEM_PATH)))
    with monkeypatch.context() as patch:
        patch.setattr(proc, "SYSTEM_PATH", str(tmp_path))
        assert undo.apply([op])[0]["did"] == "failed" and "nft" in undo.verify([op])[0]
    assert undo.apply([op])[0]["did"] == f"table {TABLE} removed"
