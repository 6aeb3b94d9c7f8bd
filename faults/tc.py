"""Queues of a host's device, as `tc` makes them: command lines, and what its answers mean.

Runs nothing. A root queue of ours is known by its handle. Only packets that a fault's nft table
marks go through the slow class, so when the marks expire nothing is slowed any more. Standard library
only: the guardian uses it.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

_SLOW = "10"  # minor number of the class for marked packets
_WIDE_KBIT = 100_000_000  # a class that doesn't slow: 100 Gbit/s
_QUANTUM = 60_000  # bytes; silences htb's advice, has no meaning with one class


class Root(NamedTuple):
    """The root queue of a device; handle `0:` is the kernel's own."""

    kind: str
    handle: str


def handle(*parts: object) -> str:
    """A root handle of a fault's own."""
    return f"{0x1000 + int(hashlib.sha256(repr(parts).encode()).hexdigest()[:4], 16) % 0x6000:x}:"


def classid(root: str) -> str:
    """The class that nft sends packets to."""
    return root + _SLOW


def limit(device: str, root: str, kbit_per_s: float) -> list[list[str]]:
    """argvs: htb, whose one class takes the marked packets at this rate; others go past it."""
    return [*_htb(device, root, kbit_per_s)]


def limit_all(device: str, root: str, kbit_per_s: float) -> list[list[str]]:
    """argvs: tbf on everything that leaves the device."""
    burst = max(2000, round(kbit_per_s * 1000 / 8 / 100))  # 10 ms
    return [["tc", "qdisc", "add", "dev", device, "root", "handle", root, "tbf",
             "rate", _rate(kbit_per_s), "burst", str(burst), "latency", "200ms"]]  # fmt: skip


def delay(device: str, root: str, ms: float, jitter_ms: float) -> list[list[str]]:
    """argvs: an htb class that is wide enough, with netem behind it."""
    jitter = [f"{jitter_ms:g}ms"] if jitter_ms else []
    netem = ["tc", "qdisc", "add", "dev", device, "parent", classid(root), "netem", "delay", f"{ms:g}ms"]
    return [*_htb(device, root, _WIDE_KBIT), [*netem, *jitter]]


def show(device: str) -> list[str]:
    """argv for `root_of` and `delay_of`."""
    return ["tc", "-json", "qdisc", "show", "dev", device]


def delete(device: str) -> list[str]:
    """argv that removes the root queue, and what is under it."""
    return ["tc", "qdisc", "del", "dev", device, "root"]


def tries(kind: str) -> list[list[str]]:
    """argvs that work, on a loopback device, where the kernel has this kind of queue."""
    more = {"tbf": ["rate", "1mbit", "burst", "2000", "latency", "50ms"], "netem": ["delay", "1ms"]}
    return [["tc", "qdisc", "add", "dev", "lo", "root", kind, *more.get(kind, [])]]


def root_of(listing: str) -> Root | None:
    """The root queue. Raises ValueError for what is no listing."""
    for one in json.loads(listing or "[]"):
        if one.get("root"):
            return Root(str(one["kind"]), str(one["handle"]))
    return None


def delay_of(listing: str) -> float | None:
    """Milliseconds that a netem queue of the device adds, None when there is none."""
    for one in json.loads(listing or "[]"):
        if one.get("kind") == "netem":
            return 1000 * float(one["options"]["delay"]["delay"])
    return None


def _rate(kbit_per_s: float) -> str:
    return f"{round(kbit_per_s * 1000)}bit"


def _htb(device: str, root: str, kbit_per_s: float) -> list[list[str]]:
    add = ["tc", "qdisc", "add", "dev", device, "root", "handle", root, "htb", "default", "0"]
    one = ["tc", "class", "add", "dev", device, "parent", root, "classid", classid(root), "htb"]
    return [add, [*one, "rate", _rate(kbit_per_s), "quantum", str(_QUANTUM)]]
