"""Recovered is not the same as undone: wait until a target does its work again, and say what was seen.

Standard library only. Reads through the ports; touches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from faults.ports import Evidence, Ports, Serving, Target
from harness.core import clock
from harness.core.errors import FaultError

_QUIET_S = 3.0  # no request anywhere for so long (or half the time limit): the traffic doesn't flow
_LOOK_S = 0.1


@dataclass
class _Watch:
    """What was seen so far. All *_ns are CLOCK_MONOTONIC."""

    running_ns: int | None = None
    ready_ns: int | None = None  # healthy and listed, without a break since
    base: float | None = None  # the target's requests at ready_ns
    traffic: float | None = None
    traffic_ns: int = 0  # when `traffic` last changed
    missing: str = "nothing seen yet"


def await_serving(p: Ports, t: Target, gone_when: str) -> Evidence:
    """Runs, healthy, listed, and took a request; each as far as the platform can know it.

    Without traffic in the system (or without counters) no request can prove anything: then the proof
    says so. gone_when: `running` or `ready`, the moment that counts as the end of the fault.
    Raises FaultError after p.recover_timeout_s, naming what was missing.
    """
    seen = _Watch()
    end = clock.now_ns() + int(p.recover_timeout_s * clock.NS)
    while True:
        proof = _look(p, t, seen, min(_QUIET_S, p.recover_timeout_s / 2))
        if proof is not None:
            running, ready = seen.running_ns or 0, seen.ready_ns or 0
            facts = {"running_ns": running, "ready_ns": ready, "took_request": seen.missing == ""}
            return Evidence(proof, running if gone_when == "running" else ready, facts)
        if clock.now_ns() >= end:
            raise FaultError(f"{t.name}: not serving {p.recover_timeout_s:g} s after undo: {seen.missing}")
        clock.sleep_s(_LOOK_S)


def _look(p: Ports, t: Target, seen: _Watch, quiet_s: float) -> str | None:
    """One look; the proof once it is complete."""
    stat = p.processes.stat(p.processes.find(t).identity)
    if stat is None or stat.state in "Tt":
        seen.running_ns = seen.ready_ns = None
        seen.missing = "the process is gone" if stat is None else "the process is stopped"
        return None
    now = clock.now_ns()
    seen.running_ns = seen.running_ns or now
    signs = p.processes.serving(t)
    if signs.healthy is False or signs.listed is False:
        seen.ready_ns = None
        seen.missing = "its health is red" if signs.healthy is False else "the frontend doesn't list it"
        return None
    if seen.ready_ns is None:
        seen.ready_ns, seen.base, seen.traffic, seen.traffic_ns = now, signs.requests, signs.traffic, now
    if signs.traffic != seen.traffic:
        seen.traffic, seen.traffic_ns = signs.traffic, now
    if seen.base is None:
        seen.base = signs.requests
    return _proof(signs, seen, now, quiet_s)


def _proof(signs: Serving, seen: _Watch, now: int, quiet_s: float) -> str | None:
    known = ["runs"]
    known += ["healthy"] if signs.healthy else []
    known += ["listed by the frontend"] if signs.listed else []
    if signs.requests is not None and seen.base is not None and signs.requests != seen.base:
        seen.missing = ""
        return ", ".join([*known, "took a request"])
    if not signs.countable:
        return ", ".join([*known, "not proven by a request: it has no counter of them"])
    seen.missing = "it got no request while others did"
    if now - seen.traffic_ns < quiet_s * clock.NS:
        return None
    why = "no counter of its requests" if signs.requests is None else f"no traffic for {quiet_s:g} s"
    return ", ".join([*known, f"not proven by a request: {why}"])
