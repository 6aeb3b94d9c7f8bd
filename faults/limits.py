"""process.slow and process.memory: a ceiling for a process tree, by a cgroup of the fault's own.

Owns which limit is set, how it is seen to bite, and that everybody goes back to where they were. Knows
no platform, no schedule, no journal. Standard library only.
"""

# ruff: noqa: ARG002 (the five verbs have one signature, see ports.Fault)

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from faults import cgroupfs, tree
from faults import undo as undo_ops
from faults.ports import Evidence, Ports, Target, Undo, tree_plain
from faults.serving import await_serving
from faults.tree import EFFECT_S, LOOK_S, check_seconds
from harness.core import clock, proc
from harness.core.errors import FaultError

_PERIOD_US = 100_000  # of the quota; shorter stalls feel like slowness, not like pauses
_SHARE_S = 1.0  # so long the share is measured
_SHARE_ERROR = 0.05  # of a core: ticks are 10 ms, and a period may be cut at both ends
_TICKS_PER_S = 100  # of /proc/<pid>/stat
_MIB = 1 << 20


@dataclass(frozen=True)
class Slow:
    """The process tree gets cpu_ratio of one core for hold_s.

    It counts from when the quota first bites, which must be within hold_s (at least 3 s): a target that
    wants no more than its quota isn't slowed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes", "cgroups"})
    hold_s: float
    cpu_ratio: float = 0.2

    def __post_init__(self) -> None:
        check_seconds(hold_s=self.hold_s)
        if not (math.isfinite(self.cpu_ratio) and self.cpu_ratio >= 0.01):
            raise ValueError(f"cpu_ratio must be at least 0.01 of one core, got {self.cpu_ratio}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        quota = str(round(self.cpu_ratio * _PERIOD_US))
        limits = (
            {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": quota},
            {"cpu.max": f"{quota} {_PERIOD_US}"},
        )
        return _prepare(p, t, "cpu", limits, max(self.hold_s, EFFECT_S) + _SHARE_S + EFFECT_S)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        _confine(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """cpu.stat: nr_throttled grows; /proc: the tree is in the cgroup, its ticks stay below the quota."""
        at_ns = _await_bite(p, t, undo, max(self.hold_s, EFFECT_S), lambda: _throttled(undo) > 0)
        if at_ns is None:
            raise FaultError(
                f"{t.name}: never reached {self.cpu_ratio:g} of a core: nr_throttled is 0 after "
                f"{max(self.hold_s, EFFECT_S):g} s; give it load, or lower cpu_ratio"
            )
        before, began_ns, bites = _cpu_s(p, undo), clock.now_ns(), _throttled(undo)
        if p.rest(min(_SHARE_S, max(self.hold_s, 4 * _PERIOD_US / 1e6))):
            raise FaultError(f"{t.name}: the run was stopped while its share of a core was measured")
        elapsed_s = (clock.now_ns() - began_ns) / clock.NS
        share = (_cpu_s(p, undo) - before) / elapsed_s
        _check_inside(p, t, undo)
        if share > self.cpu_ratio * 1.1 + _SHARE_ERROR:
            raise FaultError(f"{t.name}: used {share:.2f} of a core where {self.cpu_ratio:g} was its quota")
        throttled = _throttled(undo)
        proof = f"throttled in {throttled} periods of {_PERIOD_US // 1000} ms, used {share:.2f} of a core"
        facts = {"nr_throttled": throttled, "grew": throttled > bites, "cpu_share": round(share, 3)}
        return Evidence(proof, at_ns, facts)

    def recover(self, p: Ports, t: Target, undo: Undo) -> Mapping[str, Any]:
        """Everybody goes back to the cgroup they came from; the fault's own is removed."""
        return _release(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The cgroup is gone; runs, healthy, listed by the frontends, took a request."""
        return _back(p, t, undo)


@dataclass(frozen=True)
class Memory:
    """The process tree may take headroom_mib more memory than it has at the injection, for hold_s.

    What a process has stays charged to where it was (cgroup v2 never moves charges, nor does v1 by
    default): the limit is on new pages, its page cache included. Effective when the limit is first hit,
    which must be within hold_s (at least 3 s). If the kernel's OOM killer ends the target, that is the
    effect: it stays dead until the undo, which starts it again.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"processes", "cgroups"})
    hold_s: float
    headroom_mib: float = 16

    def __post_init__(self) -> None:
        check_seconds(hold_s=self.hold_s)
        if not (math.isfinite(self.headroom_mib) and self.headroom_mib >= 1):
            raise ValueError(f"headroom_mib must be 1 or more MiB, got {self.headroom_mib}")

    def prepare(self, p: Ports, t: Target) -> Undo:
        limit = str(round(self.headroom_mib) * _MIB)
        limits = {"memory.limit_in_bytes": limit}, {"memory.max": limit}
        return _prepare(p, t, "memory", limits, max(self.hold_s, EFFECT_S) + EFFECT_S)

    def inject(self, p: Ports, t: Target, undo: Undo) -> None:
        _confine(p, t, undo)

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The kernel's count of hits of the limit grows (memory.failcnt, memory.events); or its OOM kills do."""
        at_ns = _await_bite(p, t, undo, max(self.hold_s, EFFECT_S), lambda: sum(_hits(undo)) > 0)
        hits, kills = _hits(undo)
        if at_ns is None:
            used = _used_bytes(undo)
            raise FaultError(
                f"{t.name}: never reached its limit in {max(self.hold_s, EFFECT_S):g} s: took "
                f"{'an unknown part' if used is None else f'{used / _MIB:.1f} MiB'} of {self.headroom_mib:g} "
                f"MiB; lower headroom_mib"
            )
        # The first hit makes the kernel reclaim; the kill, if it comes, comes somewhat later.
        if not kills and clock.wait_until(lambda: _hits(undo)[1] > 0, min(self.hold_s, EFFECT_S), LOOK_S):
            hits, kills = _hits(undo)
        ended = False
        if kills:  # the victim is going; it may be a child of the target
            clock.wait_until(lambda: p.processes.stat(undo.identity) is None, EFFECT_S / 3, LOOK_S)
            ended = p.processes.stat(undo.identity) is None
        if not ended:
            _check_inside(p, t, undo)
        proof = f"hit its limit of {self.headroom_mib:g} MiB of new memory {hits} times"
        proof += f"; the kernel's OOM killer ended {'it' if ended else 'a process of it'}" if kills else ""
        facts = {"limit_hits": hits, "oom_kills": kills, "ended": ended}
        return Evidence(proof, at_ns, facts)

    def recover(self, p: Ports, t: Target, undo: Undo) -> Mapping[str, Any]:
        """Everybody goes back to the cgroup they came from; the fault's own is removed."""
        return _release(p, undo)

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """The cgroup is gone; runs, healthy, listed by the frontends, took a request."""
        return _back(p, t, undo)


def _prepare(
    p: Ports, t: Target, controller: str, limits: tuple[Mapping[str, str], Mapping[str, str]], effect_s: float
) -> Undo:
    """limits: files and values on cgroup v1 and on v2."""
    found = tree.find(p, t)
    where = (p.cgroups or {}).get(controller)
    if where is None:
        raise FaultError(f"{t.name}: no cgroup with {controller} may be written on this host")
    name = hashlib.sha256(f"{p.mark} {controller} {t.name} {found.identity}".encode()).hexdigest()[:12]
    op = cgroupfs.plan(where, found.tree, name, limits[where.version - 1])
    again = [found.respawn] if found.respawn else []  # if it dies of it; does nothing while it lives
    saved = {"tree": tree_plain(found.tree), "controller": controller, "version": where.version}
    return Undo((op, *again), found.identity, saved, effect_s)


def _confine(p: Ports, t: Target, undo: Undo) -> None:
    """Put the tree in, with those born meanwhile."""
    op = undo.ops[0]
    if p.processes.stat(undo.identity) is None:
        raise FaultError(f"{t.name} (pid {undo.identity.pid}) was gone at injection")
    cgroupfs.make(op)
    for _ in range(5):
        outside = [one for one in proc.tree(undo.identity) if one.pid not in cgroupfs.members(op)]
        for one in outside:
            if not cgroupfs.move(op, one) and one == undo.identity:
                raise FaultError(f"{t.name} (pid {one.pid}) was gone at injection")
        if not outside:
            return


def _check_inside(p: Ports, t: Target, undo: Undo) -> None:
    """The kernel says, for each process of the tree, that it is in the fault's cgroup. Raises FaultError."""
    where = (p.cgroups or {})[undo.saved["controller"]]
    path = undo.ops[0]["path"]
    for one in proc.tree(undo.identity):
        if str(home := where.home(one.pid)) != path:
            raise FaultError(f"{t.name}: pid {one.pid} is in {home}, not in {path}")


def _await_bite(p: Ports, t: Target, undo: Undo, timeout_s: float, bitten: Callable[[], bool]) -> int | None:
    """CLOCK_MONOTONIC when the limit was first seen to bite, None when it wasn't. Raises FaultError."""
    if not bitten():
        _check_inside(p, t, undo)
    end = clock.now_ns() + int(timeout_s * clock.NS)
    while clock.now_ns() < end:
        if bitten():
            return clock.now_ns()
        if p.processes.stat(undo.identity) is None and not bitten():
            raise FaultError(f"{t.name} (pid {undo.identity.pid}) ended before its limit was reached")
        if p.rest(LOOK_S):
            raise FaultError(f"{t.name}: the run was stopped before its limit was reached")
    return None


def _throttled(undo: Undo) -> int:
    return cgroupfs.value(undo.ops[0], "cpu.stat", "nr_throttled") or 0


def _hits(undo: Undo) -> tuple[int, int]:
    """How often the limit was hit, and how many processes the kernel killed for it."""
    op = undo.ops[0]
    if undo.saved["version"] == 2:
        names = ("memory.events", "max"), ("memory.events", "oom_kill")
    else:
        names = ("memory.failcnt", ""), ("memory.oom_control", "oom_kill")
    hits, kills = (cgroupfs.value(op, *name) or 0 for name in names)
    return hits, kills


def _used_bytes(undo: Undo) -> int | None:
    file = "memory.current" if undo.saved["version"] == 2 else "memory.usage_in_bytes"
    return cgroupfs.value(undo.ops[0], file)


def _cpu_s(p: Ports, undo: Undo) -> float:
    """CPU seconds of the tree so far, by /proc and not by the cgroup."""
    return sum(tree.ticks(p, proc.tree(undo.identity)).values()) / _TICKS_PER_S


def _release(p: Ports, undo: Undo) -> dict[str, Any]:
    """Empty and remove the cgroup; start the target again if it is dead."""
    done = undo_ops.apply(undo.ops[:1])[0]
    if done["did"] == "failed":
        raise FaultError(str(done["error"]))
    told: dict[str, Any] = {"drifted": done["drifted"]} if "drifted" in done else {}
    if p.processes.stat(undo.identity) is None:
        for op in undo.ops[1:]:
            who = p.processes.respawn(op)
            told |= {"pid": who.pid, "start_ticks": who.start_ticks}
    return told


def _back(p: Ports, t: Target, undo: Undo) -> Evidence:
    """The cgroup is gone, and the target serves."""
    if left := undo_ops.verify(undo.ops[:1]):
        raise FaultError(f"{t.name}: {left[0]}")
    if len(undo.ops) == 1 and p.processes.stat(undo.identity) is None:
        note = "it ended while limited; a process of an outside system: squall can't start it again"
        return Evidence(f"its cgroup is gone; {note}", clock.now_ns(), {"recovered_by": "nobody"})
    return await_serving(p, t, gone_when="running")
