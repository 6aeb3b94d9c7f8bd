"""Probe packets between hosts, as a program: `python -S -P netprobe.py JOBS`.

A process of its own, so that a burst of packets doesn't stop the load generator's loop, and no thread
of that process ever changes its namespace. JOBS is a JSON list of faults.ports.Probe, hosts as
{netns, address}; printed is the list of what became of them. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.core import clock, netns, proc

_QUIET_S = 0.5  # a datagram that isn't there by then was lost: between namespaces it takes microseconds
_CONNECT_S = 0.8
_BATCH = 32  # datagrams that fit into a socket's buffer
_CHUNK = 16_384

Job = Mapping[str, Any]
Pair = tuple[socket.socket, socket.socket]


def main() -> None:
    """Sockets first (only this thread changes its namespace), then all jobs at once."""
    jobs = json.loads(sys.argv[1])
    pairs = [_sockets(job) for job in jobs]
    with ThreadPoolExecutor(len(jobs) or 1) as pool:
        found = list(pool.map(lambda both: _RUN[both[0]["kind"]](*both), zip(jobs, pairs, strict=True)))
    sys.stdout.write(json.dumps(found))


def _sockets(job: Job) -> Pair:
    """A socket of the sender's host and a bound one of the receiver's."""
    kind = socket.SOCK_DGRAM if job["kind"] in {"datagrams", "echo"} else socket.SOCK_STREAM
    made = []
    for end in ("sender", "receiver"):
        address = str(job[end]["address"])
        one = netns.socket_in(job[end]["netns"], socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        one.bind((address, 0))
        made.append(one)
    if kind == socket.SOCK_STREAM:
        made[1].listen()
    return made[0], made[1]


def _said(sent_ns: int, **more: Any) -> dict[str, Any]:
    empty = {
        "sent": 1,
        "arrived": 0,
        "arrived_ns": None,
        "answer": "silent",
        "kbit_per_s": 0.0,
        "rtt_ms": None,
    }
    return {**empty, "sent_ns": sent_ns, **more}


def _datagrams(job: Job, pair: Pair) -> dict[str, Any]:
    sender, receiver = pair
    receiver.setblocking(False)
    source, count, mark = sender.getsockname(), int(job["count"]), os.urandom(8)
    arrived: dict[bytes, int] = {}
    sent_ns = clock.now_ns()

    def drain() -> None:
        while True:
            try:
                data, peer = receiver.recvfrom(64)
            except BlockingIOError:
                return
            if data.startswith(mark) and peer[:2] == source[:2]:
                arrived.setdefault(data, clock.now_ns())

    for n in range(count):
        _throw(sender, mark + n.to_bytes(4, "big"), receiver.getsockname())
        if n % _BATCH == _BATCH - 1:
            drain()
    while len(arrived) < count and select.select([receiver], [], [], _QUIET_S)[0]:
        drain()
    return _said(sent_ns, sent=count, arrived=len(arrived), arrived_ns=min(arrived.values(), default=None))


def _throw(sender: socket.socket, data: bytes, to: Any) -> None:
    """Send; a local rule that drops it says EPERM: that one was sent, too, and is lost."""
    try:
        sender.sendto(data, to)
    except PermissionError:
        pass


def _connect(_: Job, pair: Pair) -> dict[str, Any]:
    sent_ns = clock.now_ns()
    answer = _handshake(*pair)
    return _said(sent_ns, arrived=int(answer == "accepted"), arrived_ns=clock.now_ns(), answer=answer)


def _handshake(sender: socket.socket, receiver: socket.socket) -> str:
    sender.settimeout(_CONNECT_S)
    try:
        sender.connect(receiver.getsockname())
    except (ConnectionRefusedError, ConnectionResetError):
        return "reset"
    except OSError:  # timed out, or a local rule drops it
        return "silent"
    return "accepted"


def _rate(job: Job, pair: Pair) -> dict[str, Any]:
    """Steady rate: from the first bytes that came (which filled the queue's burst) to the last."""
    sender, receiver = pair
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _CHUNK)  # what is on its way is not a rate
    sent_ns = clock.now_ns()
    if _handshake(sender, receiver) != "accepted":
        return _said(sent_ns)
    taker, _ = receiver.accept()
    sender.setblocking(False)
    taker.setblocking(False)
    blob, seen = bytes(_CHUNK), [(sent_ns, 0)]
    end_ns = sent_ns + int(float(job["seconds"]) * clock.NS)
    while seen[-1][1] < int(job["count"]) and clock.now_ns() < end_ns:
        left_s = (end_ns - clock.now_ns()) / clock.NS
        readable, writable, _ = select.select([taker], [sender], [], max(0.0, left_s))
        if writable:
            sender.send(blob)
        if readable:
            seen.append((clock.now_ns(), seen[-1][1] + len(taker.recv(1 << 20))))
    if len(seen) < 2:
        return _said(sent_ns, answer="accepted")
    # The first piece came out of the burst, and while nothing comes any more the clock still runs.
    base, last = seen[1] if len(seen) > 2 else seen[0], seen[-1]
    until_ns = last[0] if last[1] >= int(job["count"]) else max(last[0], clock.now_ns())
    kbit_per_s = (last[1] - base[1]) * 8 / 1000 / max((until_ns - base[0]) / clock.NS, 1e-9)
    return _said(sent_ns, sent=last[1], arrived=last[1], arrived_ns=seen[1][0], answer="accepted", kbit_per_s=kbit_per_s)  # fmt: skip


def _echo(job: Job, pair: Pair) -> dict[str, Any]:
    sender, receiver = pair
    times, sent_ns, first_ns, count = [], clock.now_ns(), None, int(job["count"])
    for end in pair:
        end.settimeout(float(job["seconds"]))
    for n in range(count):
        begin_ns = clock.now_ns()
        try:
            sender.sendto(n.to_bytes(4, "big"), receiver.getsockname())
            data, peer = receiver.recvfrom(64)
            receiver.sendto(data, peer)
            sender.recvfrom(64)
        except OSError:
            continue
        first_ns = first_ns or clock.now_ns()
        times.append((clock.now_ns() - begin_ns) / clock.MS)
    rtt_ms = statistics.median(times) if times else None
    return _said(sent_ns, sent=count, arrived=len(times), arrived_ns=first_ns, rtt_ms=rtt_ms)


def _kill(job: Job, pair: Pair) -> dict[str, Any]:
    """A live connection, a command on the sender's host, and what the connection felt."""
    sent_ns = clock.now_ns()
    if _handshake(*pair) != "accepted":
        return _said(sent_ns)
    taker, _ = pair[1].accept()
    argv = netns.command(job["sender"]["netns"], [str(word) for word in job["argv"]])
    proc.run(argv, env={"PATH": proc.SYSTEM_PATH}, timeout_s=10)
    taker.settimeout(_CONNECT_S)
    try:
        answer = "accepted" if taker.recv(1) else "closed"
    except TimeoutError:
        answer = "accepted"
    except OSError:
        answer = "reset"
    return _said(sent_ns, arrived=1, arrived_ns=clock.now_ns(), answer=answer)


_RUN = {"datagrams": _datagrams, "connect": _connect, "rate": _rate, "echo": _echo, "kill": _kill}

if __name__ == "__main__":
    main()
