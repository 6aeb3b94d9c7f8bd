"""Primitive undo operations as plain data: what the journal keeps and the guardian executes.

Owns how an operation is applied, checked and written as a shell command. Knows no fault, no journal
and no scenario. Standard library only; every operation is idempotent and checks identities first.

{"op": "signal", "pid", "start_ticks", "signal": "CONT" | "KILL" | ...}
{"op": "spawn", "target", "argv", "env", "cwd", "log", "replaces": {"pid", "start_ticks"},
 "tree": [[pid, start_ticks], ...], "stop": bool, "sut_id"}
    Start `target` again unless `replaces` lives (with stop: kill it first) or another living process
    carries its marks. `tree` is what was left of the old one, killed before the new one starts.
{"op": "cgroup", ...}: in cgroupfs.
{"op": "nft_table" | "tc_root", ...}: see undo_network.py
{"op": "engine", ...}
    A witness engine tells the truth again: see faults/withdraw.py.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faults import cgroupfs, undo_network, withdraw
from harness.core import clock, proc
from harness.core.proc import Identity

Op = Mapping[str, Any]

_SETTLE_S = 2.0  # a signal takes effect when the kernel next schedules the process


def cont(who: Sequence[Identity]) -> list[dict[str, Any]]:
    """Operations that let stopped processes run on."""
    return [{"op": "signal", "pid": one.pid, "start_ticks": one.start_ticks, "signal": "CONT"} for one in who]


def apply(ops: Iterable[Op]) -> list[dict[str, Any]]:
    """Execute each operation once, in order; says what was done, never raises for one that failed."""
    done = []
    for op in ops:
        try:
            done.append(_APPLY[op["op"]](op))
        except (OSError, KeyError, ValueError, TypeError) as error:
            done.append({"op": op.get("op"), "did": "failed", "error": f"{type(error).__name__}: {error}"})
    return done


def verify(ops: Iterable[Op]) -> list[str]:
    """What is still not as it was, one line for each operation; empty = all undone."""
    problems = []
    for op in ops:
        try:
            problem = _VERIFY[op["op"]](op)
        except (KeyError, ValueError, TypeError):
            problem = f"no undo operation of this version: {dict(op)}"
        if problem is not None:
            problems.append(problem)
    return problems


def commands(ops: Iterable[Op]) -> list[str]:
    """Shell commands that finish by hand what `verify` still complains about."""
    lines = []
    for op in ops:
        if verify([op]):
            try:
                lines.append(_COMMAND[op["op"]](op))
            except (KeyError, ValueError, TypeError):
                lines.append(f"# undo by hand: {dict(op)}")
    return lines


def living(sut_id: str, target: str) -> Identity | None:
    """The process that was started as `target`: it carries its marks and leads a session of its own.

    Its children carry the marks too, and may outlive it for a moment: none of them is the target.
    """
    return next((one for one in _carriers(sut_id, target) if proc.leads(one)), None)


def _carriers(sut_id: str, target: str) -> list[Identity]:
    """Everybody who carries the marks of `target`, the oldest first."""
    found = proc.marked(proc.SUT_ENV, sut_id)
    mine = [one for one in found if proc.environ(one.pid).get(proc.TARGET_ENV) == target]
    return sorted(mine, key=lambda who: who.start_ticks)


def _who(op: Op) -> Identity:
    return Identity(int(op["pid"]), int(op["start_ticks"]))


def _apply_signal(op: Op) -> dict[str, Any]:
    sent = proc.send(_who(op), signal.Signals[f"SIG{op['signal']}"])
    return {"op": "signal", "pid": op["pid"], "did": f"sent {op['signal']}" if sent else "already gone"}


def _verify_signal(op: Op) -> str | None:
    who, name = _who(op), op["signal"]
    if name == "KILL":
        gone = clock.wait_until(lambda: not proc.alive(who), _SETTLE_S, 0.01)
        return None if gone else f"pid {who.pid} still lives"
    if name == "CONT":
        return f"pid {who.pid} is still stopped" if _still_stopped(who) else None
    return None


def stopped(who: Identity) -> bool:
    """True while exactly this process exists and is stopped by a signal or a tracer."""
    stat = proc.stat(who.pid)
    return stat is not None and stat.start_ticks == who.start_ticks and stat.state in "Tt"


def _still_stopped(who: Identity) -> bool:
    return not clock.wait_until(lambda: not stopped(who), _SETTLE_S, 0.01)


def _apply_spawn(op: Op) -> dict[str, Any]:
    target, old = str(op["target"]), _who(op["replaces"])
    if proc.alive(old) and not op.get("stop"):
        for one in proc.tree(old):  # a kill that was cut short has stopped them, and no more
            proc.send(one, signal.SIGCONT)
        return _spawned(target, old, "never ended")
    rest = [Identity(*pair) for pair in op.get("tree", [])]
    for one in [old, *rest]:
        proc.send(one, signal.SIGKILL)
    clock.wait_until(lambda: not any(proc.alive(one) for one in [old, *rest]), _SETTLE_S, 0.01)
    there = living(str(op["sut_id"]), target)
    if there is not None:
        return _spawned(target, there, "already there")
    proc.stop_all(_carriers(str(op["sut_id"]), target), 0)  # what is left below one that is gone
    cwd = Path(op["cwd"]) if op.get("cwd") else None
    return _spawned(target, proc.spawn_detached(op["argv"], op["env"], Path(op["log"]), cwd), "started")


def _spawned(target: str, who: Identity, did: str) -> dict[str, Any]:
    return {"op": "spawn", "target": target, "did": did, "pid": who.pid, "start_ticks": who.start_ticks}


def _verify_spawn(op: Op) -> str | None:
    old = _who(op["replaces"])
    if proc.alive(old) and not op.get("stop"):
        return f"{op['target']} (pid {old.pid}) is still stopped" if _still_stopped(old) else None
    there = living(str(op["sut_id"]), str(op["target"]))
    if there is None:
        return f"{op['target']} does not run; the last lines of {op['log']}:\n{proc.tail(Path(op['log']), 5)}"
    return f"{op['target']} (pid {there.pid}) is still stopped" if _still_stopped(there) else None


def _signal_command(op: Op) -> str:
    return f"kill -{op['signal']} {op['pid']}"


def _spawn_command(op: Op) -> str:
    env = " ".join(shlex.quote(f"{key}={value}") for key, value in sorted(op["env"].items()))
    start = f"env -i {env} {shlex.join(op['argv'])} >> {shlex.quote(op['log'])} 2>&1 < /dev/null &"
    old, there = _who(op["replaces"]), living(str(op["sut_id"]), str(op["target"]))
    there = old if proc.alive(old) and not op.get("stop") else there
    if there is not None:
        return f"kill -CONT {there.pid}"
    return f"cd {shlex.quote(op.get('cwd') or '/')} && setsid {start}"


_APPLY = {
    "signal": _apply_signal,
    "spawn": _apply_spawn,
    "cgroup": cgroupfs.apply,
    "nft_table": undo_network.apply_table,
    "tc_root": undo_network.apply_root,
    "engine": withdraw.apply,
}
_VERIFY = {
    "signal": _verify_signal,
    "spawn": _verify_spawn,
    "cgroup": cgroupfs.verify,
    "nft_table": undo_network.verify_table,
    "tc_root": undo_network.verify_root,
    "engine": withdraw.verify,
}
_COMMAND = {
    "signal": _signal_command,
    "spawn": _spawn_command,
    "cgroup": cgroupfs.command,
    "nft_table": undo_network.table_command,
    "tc_root": undo_network.root_command,
    "engine": withdraw.command,
}
KINDS = frozenset(_APPLY)
