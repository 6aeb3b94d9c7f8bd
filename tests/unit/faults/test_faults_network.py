"""Network faults on real hosts: each is felt by packets, counted, undone; and each control is caught."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from faults import nft, tc, undo, undo_network, wire
from faults.network import Loss, Partition, Reset
from faults.ports import Fault, Host, Ports, Probe, Target, Undo
from faults.shaping import Bandwidth, Delay
from harness.core import clock, netns, proc
from harness.core.errors import FaultError
from tests.fixtures import hosts_lab
from tests.fixtures.faults_lab import Lab

pytestmark = [pytest.mark.netns, pytest.mark.slow]

T = Target("worker", 1)
HERE = THERE = Host("filled in by the test", "", 0, "", ())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with hosts_lab.system(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def p(lab: Lab) -> Ports:
    return lab.ports(6)


@contextmanager
def injected(fault: Fault, p: Ports, change: Mapping[str, str] | None = None) -> Iterator[Undo]:
    """Prepared and injected, undone in the end. change: words of the table that are replaced: a control."""
    made = fault.prepare(p, T)
    text = str(made.ops[0]["text"])
    for old, new in (change or {}).items():
        assert old in text
        text = text.replace(old, new)
    there = dataclasses.replace(made, ops=({**made.ops[0], "text": text}, *made.ops[1:]))
    try:
        fault.inject(p, T, there)
        yield there
    finally:
        undo.apply(made.ops)
        assert undo.verify(made.ops) == []


def address(lab: Lab, name: str) -> str:
    return lab.state.process(name).address


WORKING: list[tuple[Fault, list[str]]] = [
    (Partition(5, "frontend"), ["worker-1 -> frontend-1: 0 of 5", "frontend-1 -> worker-1: 0 of 5"]),
    (Partition(5, "frontend", "to_peers"), ["worker-1 -> frontend-1: 0 of 5", "frontend-1 -> worker-1: 5 of 5"]),
    (Partition(5, ("frontend-1",), "from_peers"), ["worker-1 -> frontend-1: 5 of 5", "frontend-1 -> worker-1: 0 of 5"]),
    (Partition(5, "all"), ["worker-1 -> worker-2: 0 of 5", "frontend-1 -> worker-1: 0 of 5"]),
    (Loss(5, "frontend", 0.3), ["lost of 400 datagrams", "worker-1 -> frontend-1", "frontend-1 -> worker-1"]),
    (Loss(5, "worker", 0.01, "to_peers"), ["lost of 1375 datagrams: worker-1 -> worker-2"]),
    (Loss(5, "frontend", 1, "from_peers"), ["frontend-1 -> worker-1 100.0%"]),
    (Reset("frontend", 5), ["worker-1 -> frontend-1 reset, frontend-1 -> worker-1 reset; datagrams pass"]),
    (Reset("frontend", 5, direction="to_peers"), ["worker-1 -> frontend-1 reset, frontend-1 -> worker-1 silent"]),
    (Reset("frontend", 5, direction="from_peers"), ["worker-1 -> frontend-1 silent, frontend-1 -> worker-1 reset"]),
    (Bandwidth(5, "frontend", 1000), ["kbit/s of TCP arrive, 1000 asked for"]),
    (Bandwidth(5, "all", 20_000), ["kbit/s of TCP arrive, 20000 asked for"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "said"), WORKING, ids=lambda one: str(one) if not isinstance(one, list) else ""
)
def test_it_is_felt_counted_and_undone(p: Ports, lab: Lab, fault: Any, said: list[str]) -> None:
    with injected(fault, p) as made:
        seen = fault.verify(p, T, made)
        assert all(part in seen.proof for part in said), seen.proof
        assert sum(seen.facts["packets_matched"].values()) > 0
        json.dumps(dict(seen.facts))
        assert fault.recover(p, T, made) is None
        back = fault.verify_recovered(p, T, made)
        assert "packets pass both ways" in back.proof and "took a request" in back.proof
        assert seen.at_ns < back.at_ns < clock.now_ns()


CONTROLS: list[tuple[Fault, dict[str, str], str]] = [
    (Partition(5, "frontend"), {"FRONTEND": "192.0.2.9"}, "was to be cut, yet 5 of 5 datagrams arrive"),
    (Partition(5, "frontend"), {"counter drop": "tcp dport 9 counter drop"}, "yet 5 of 5 datagrams arrive"),
    (Partition(5, "frontend"), {"hook input": "hook forward"}, "frontend-1 -> worker-1 was to be cut"),
    (Partition(5, "frontend", "to_peers"), {"output": "input", "daddr": "saddr"}, "worker-1 -> frontend-1 was to be cut"),
    (Partition(5, "worker"), {"worker-2": "frontend-1"}, "worker-2 was to be cut, yet 5 of 5"),
    (Loss(5, "frontend", 0.3), {"30000": "5000"}, "was to lose 30.0% of the packets"),
    (Loss(5, "frontend", 0.3, "to_peers"), {"output": "input", "daddr": "saddr"}, "yet 0 of 400 are lost"),
    (Loss(5, "frontend", 0.3), {"FRONTEND": "192.0.2.9"}, "yet 0 of 400 are lost"),
    (Reset("frontend", 5), {"counter reject with tcp reset": "counter drop"}, "was to be reset, yet it was silent"),
    (Reset("frontend", 5), {"reject with tcp reset": "tcp dport 9 reject with tcp reset"}, "yet it was accepted"),
    (Reset("frontend", 5, direction="to_peers"), {"output": "input", "daddr": "saddr"}, "was to be reset, yet it was silent"),
    (Bandwidth(5, "frontend", 1000), {"FRONTEND": "192.0.2.9"}, "was to send 1000 kbit/s to its peers, yet"),
    (Bandwidth(5, "frontend", 1000), {":10": ":11"}, "was to send 1000 kbit/s to its peers, yet"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "change", "said"), CONTROLS)
def test_a_mis_aimed_rule_proves_nothing(
    p: Ports, lab: Lab, fault: Any, change: dict[str, str], said: str
) -> None:
    names = {"FRONTEND": address(lab, "frontend-1"), "worker-2": address(lab, "worker-2"), "frontend-1": address(lab, "frontend-1")}  # fmt: skip
    aimed = {names.get(old, old): names.get(new, new) for old, new in change.items()}
    with injected(fault, p, aimed) as made, pytest.raises(FaultError) as error:
        fault.verify(p, T, made)
    assert str(error.value).startswith("worker-1: ") and said in str(error.value)


def test_a_rule_on_another_host_proves_nothing(p: Ports, lab: Lab) -> None:
    for fault in (Partition(5, "frontend"), Loss(5, "frontend", 0.5), Reset("frontend", 5), Bandwidth(5, "frontend", 1000)):  # fmt: skip
        made = fault.prepare(p, T)
        aside = fault.prepare(p, Target("worker", 2))
        try:
            fault.inject(p, Target("worker", 2), aside)
            with pytest.raises(FaultError, match="worker-1"):
                fault.verify(p, T, made)
        finally:
            undo.apply(aside.ops)


def test_squalls_own_way_must_stay_open(p: Ports, lab: Lab) -> None:
    """A rule that cuts more than it should (here: everybody) is no proof either."""
    client = wire.wire_of(Partition(5, "frontend").prepare(p, T)).client.addresses[0]
    frontend = address(lab, "frontend-1")
    with (
        injected(
            Partition(5, "frontend"), p, {f"{frontend} timeout": f"{client} timeout 9s, {frontend} timeout"}
        ) as made,
        pytest.raises(FaultError, match="squall's own way to it is cut too"),
    ):
        Partition(5, "frontend").verify(p, T, made)


def test_what_was_cut_before_is_not_injected(p: Ports, lab: Lab) -> None:
    with injected(Partition(5, "frontend", "to_peers"), p):
        for fault in (Partition(5, "all"), Loss(5, "frontend", 0.5), Reset("frontend", 5)):
            with pytest.raises(FaultError, match="worker-1 -> frontend-1 was cut before the fault: 0 of 5"):
                fault.prepare(p, T)
        Partition(5, "worker").prepare(p, T)


def test_two_faults_with_different_peers_on_one_host(p: Ports, lab: Lab) -> None:
    first, second = Partition(5, "worker"), Bandwidth(5, "frontend", 1000)
    with injected(first, p) as one, injected(second, p) as two:
        first.verify(p, T, one)
        second.verify(p, T, two)
        assert str(one.ops[0]["table"]) in str(two.saved["note"]), "the other's table is named"
        second.recover(p, T, two)
        assert undo.verify(two.ops) == [] != undo.verify(one.ops)
        first.verify(p, T, one)


def test_rules_of_others_are_named_and_stay(p: Ports, lab: Lab) -> None:
    there = hosts_lab.namespace(lab, "worker-1")
    undo_network.run(there, ["nft", "add", "table", "inet", "theirs"])
    try:
        with injected(Partition(5, "frontend"), p) as made:
            assert "inet theirs" in made.saved["note"]
            Partition(5, "frontend").verify(p, T, made)
        assert nft.tables(undo_network.run(there, nft.show_all()).out) == ["inet theirs"]
    finally:
        undo_network.run(there, ["nft", "delete", "table", "inet", "theirs"])


def test_a_queue_of_others_is_not_replaced(p: Ports, lab: Lab) -> None:
    there = hosts_lab.namespace(lab, "worker-1")
    undo_network.run(there, tc.limit_all("eth0", "7:", 900_000)[0])
    try:
        with pytest.raises(FaultError, match="eth0 has a queue of somebody else, tbf 7:, left alone"):
            Bandwidth(5, "frontend", 1000).prepare(p, T)
        assert tc.root_of(undo_network.run(there, tc.show("eth0")).out) == tc.Root("tbf", "7:")
    finally:
        undo_network.run(there, tc.delete("eth0"))


def test_a_table_that_somebody_changed_is_said(p: Ports, lab: Lab) -> None:
    fault = Partition(5, "frontend")
    with injected(fault, p) as made:
        undo_network.run(
            hosts_lab.namespace(lab, "worker-1"),
            ["nft", "flush", "chain", "inet", str(made.ops[0]["table"]), nft.TO],
        )
        told = fault.recover(p, T, made)
        assert told is not None and "rules differ" in told["drifted"][0]
        fault.verify_recovered(p, T, made)
        assert fault.recover(p, T, made) is None


def test_without_htb_everything_is_slowed_and_said(
    p: Ports, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(p.network), "queues", lambda _: frozenset({"tbf"}))
    fault = Bandwidth(5, "frontend", 2000)
    with injected(fault, p) as made:
        seen = fault.verify(p, T, made)
        assert seen.facts["queue"] == "tbf" and "squall's probes too: no htb" in seen.proof
        fault.recover(p, T, made)
        fault.verify_recovered(p, T, made)
    monkeypatch.setattr(type(p.network), "queues", lambda _: frozenset())
    with pytest.raises(FaultError, match="no queue that limits a rate"):
        fault.prepare(p, T)


@contextmanager
def connection(lab: Lab) -> Iterator[Any]:
    """A live connection from worker-1 to frontend-1."""
    with netns.socket_in(hosts_lab.namespace(lab, "frontend-1")) as server:
        server.bind((address(lab, "frontend-1"), 0))
        server.listen()
        with netns.connect(hosts_lab.namespace(lab, "worker-1"), server.getsockname(), 2) as sock:
            yield sock


def test_kill_destroys_live_connections_and_lets_new_ones_in(p: Ports, lab: Lab) -> None:
    fault = Reset("frontend", how="kill")
    with connection(lab) as sock:
        made = fault.prepare(p, T)
        assert made.ops == () and made.saved["connections"]
        with pytest.raises(FaultError, match="worker-1: no connection was killed"):
            fault.verify(p, T, made)
        fault.inject(p, T, made)
        seen = fault.verify(p, T, made)
        assert "live connections are gone" in seen.proof and seen.facts["connections"] >= 1
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)
        fault.recover(p, T, made)
        fault.verify_recovered(p, T, made)


def test_a_kill_that_hits_another_host_proves_nothing(
    p: Ports, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faults import network

    fault = Reset("frontend", how="kill")
    with connection(lab) as sock:
        made = fault.prepare(p, T)
        monkeypatch.setattr(network, "_any_of", lambda _: ["dst", "192.0.2.9"])
        fault.inject(p, T, made)
        with pytest.raises(FaultError, match="was to be reset, yet it was accepted"):
            fault.verify(p, T, made)
        made.saved["seen"][0][1] = "reset"  # as if only the probe's own connection had been hit
        with pytest.raises(FaultError, match="connections still live after the kill"):
            fault.verify(p, T, made)
        sock.send(b"still there")


def test_nothing_to_kill_is_refused(p: Ports, lab: Lab) -> None:
    with pytest.raises(FaultError, match="no live connection with worker-2 to kill"):
        Reset("worker-2", how="kill").prepare(p, T)


def test_a_target_that_is_gone_is_refused(p: Ports, lab: Lab) -> None:
    fault = Partition(5, "frontend")
    made = fault.prepare(p, T)
    other = dataclasses.replace(
        made, identity=proc.Identity(made.identity.pid, made.identity.start_ticks - 1)
    )
    with pytest.raises(FaultError, match="was gone at injection"):
        fault.inject(p, T, other)
    assert undo.verify(made.ops) == []


def test_a_kernel_without_netem_refuses_a_delay(p: Ports, lab: Lab) -> None:
    if "netem" in p.offers:
        pytest.skip("this kernel has netem")
    with pytest.raises(FaultError, match="no netem, which delays packets; see `squall doctor`"):
        Delay(5, "frontend", 100).prepare(p, T)


@pytest.mark.netem
def test_a_delay_is_felt(p: Ports, lab: Lab) -> None:
    fault = Delay(5, "frontend", 50)
    with injected(fault, p) as made:
        assert "round trips are longer" in fault.verify(p, T, made).proof
        fault.recover(p, T, made)
        fault.verify_recovered(p, T, made)


EXPIRING: list[tuple[Fault, Probe]] = [
    (Partition(5, "frontend"), Probe("connect", HERE, THERE)),
    (Loss(5, "frontend", 1, "from_peers"), Probe("connect", HERE, THERE)),
    (Reset("frontend", 5), Probe("connect", HERE, THERE)),
    (Bandwidth(5, "frontend", 64), Probe("rate", HERE, THERE, 400_000, 1.0)),
]


@pytest.mark.parametrize(("fault", "probe"), EXPIRING)
def test_the_kernel_ends_it_when_nobody_is_left(p: Ports, lab: Lab, fault: Fault, probe: Probe) -> None:
    assert p.network is not None
    with injected(fault, p, {"timeout 32000ms": "timeout 4s"}) as made:
        who = wire.wire_of(made)
        sent = dataclasses.replace(probe, sender=who.target, receiver=who.peers[0])

        def passes() -> bool:
            (echo,) = p.network.probe([sent])  # type: ignore[union-attr]
            return echo.answer == "accepted" and (probe.kind == "connect" or echo.arrived >= probe.count)

        assert not passes()
        assert clock.wait_until(passes, 30), "its rules expire"
        assert undo.verify(made.ops) != [], "the table is still there, it only matches nothing any more"
