"""Exact command lines for `tc`, and its answers as it printed them; no kernel."""

from __future__ import annotations

import pytest

from faults import tc

HTB = (
    '[{"kind":"htb","handle":"5a1:","root":true,"refcnt":3,"options":{"r2q":10,"default":"0"}},'
    '{"kind":"netem","handle":"8001:","parent":"5a1:10",'
    '"options":{"limit":1000,"delay":{"delay":0.1,"jitter":0.01,"correlation":0},"ecn":false}}]'
)
NOQUEUE = '[{"kind":"noqueue","handle":"0:","root":true,"refcnt":2,"options":{}}]'


def lines(argvs: list[list[str]]) -> list[str]:
    return [" ".join(argv) for argv in argvs]


def test_a_limit_for_marked_packets_only() -> None:
    assert lines(tc.limit("eth0", "5a1:", 2000)) == [
        "tc qdisc add dev eth0 root handle 5a1: htb default 0",
        "tc class add dev eth0 parent 5a1: classid 5a1:10 htb rate 2000000bit quantum 60000",
    ]
    assert tc.classid("5a1:") == "5a1:10"


def test_a_limit_for_the_whole_device() -> None:
    assert lines(tc.limit_all("eth0", "5a1:", 2000)) == [
        "tc qdisc add dev eth0 root handle 5a1: tbf rate 2000000bit burst 2500 latency 200ms"
    ]


@pytest.mark.parametrize(("jitter_ms", "end"), [(0, "delay 100ms"), (12.5, "delay 100ms 12.5ms")])
def test_a_delay_for_marked_packets_only(jitter_ms: float, end: str) -> None:
    assert lines(tc.delay("eth0", "5a1:", 100, jitter_ms)) == [
        "tc qdisc add dev eth0 root handle 5a1: htb default 0",
        "tc class add dev eth0 parent 5a1: classid 5a1:10 htb rate 100000000000bit quantum 60000",
        f"tc qdisc add dev eth0 parent 5a1:10 netem {end}",
    ]


def test_what_the_device_has() -> None:
    assert tc.root_of(HTB) == tc.Root("htb", "5a1:")
    assert tc.root_of(NOQUEUE) == tc.Root("noqueue", "0:")
    assert tc.root_of("") is None and tc.root_of("[]") is None
    assert tc.delay_of(HTB) == 100 and tc.delay_of(NOQUEUE) is None
    with pytest.raises(ValueError):
        tc.root_of("Cannot find device")


def test_a_handle_of_its_own() -> None:
    handles = {tc.handle(n) for n in range(100)}
    assert len(handles) > 90 and all(0x1000 <= int(one.rstrip(":"), 16) < 0x7000 for one in handles)
    assert tc.handle("a") == tc.handle("a")
