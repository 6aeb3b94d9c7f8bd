"""Bring a host back to what it was before a run, from the run directory alone.

Owns the steps that the guardian and `squall recover` share: stop what the run left, undo its open
faults in reverse, tear down a system that the run made, write `restored`. Every step may be repeated.
Standard library only; it never waits for a system to serve again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import undo, wal
from faults.wal import Open
from harness.core import clock, netns, proc
from harness.core.rundir import RunDir, write_json

Say = Callable[[str], None]


@dataclass
class Restored:
    """What was done, and what is left: problems with the shell commands that end them."""

    stopped: int = 0
    undone: list[str] = field(default_factory=list)
    torn_down: int = 0
    namespaces: int = 0
    problems: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def restore(run: RunDir, run_id: str, by: str, say: Say, sut_id: str | None = None) -> Restored:
    """All steps. `sut_id` names a system the run is making, even before sut.json is there."""
    done = Restored()
    done.stopped = _stop(proc.RUN_ENV, run_id, 1.0, f"processes of run {run_id}", done, say)
    undo_open(run, by, done, say)
    state = _sut(run)
    mine = sut_id or (str(state["sut_id"]) if state.get("owner") == "run" else None)
    if mine:
        done.torn_down = _stop(proc.SUT_ENV, mine, 0.5, f"processes of system {mine}", done, say)
        shutil.rmtree(run.discovery, ignore_errors=True)
        _remove_namespaces(mine, done, say)
    if not done.problems and not (run.restored.exists() and _nothing(done)):
        try:
            mark_restored(run, by, done)
        except OSError as error:  # the run directory is gone or full, which must not keep us from ending
            say(f"host as before, which can't be written down: {error}")
    return done


def _nothing(done: Restored) -> bool:
    return not (done.stopped or done.undone or done.torn_down or done.namespaces)


def mark_restored(run: RunDir, by: str, done: Restored) -> None:
    """Write the file that says: host as before. Nothing else of the run is written later."""
    write_json(
        run.restored,
        {
            "by": by,
            "wall_ns": clock.wall_ns(),
            "processes_stopped": done.stopped,
            "faults_undone": done.undone,
            "system_torn_down": done.torn_down,
            "namespaces_removed": done.namespaces,
        },
    )


def undo_open(run: RunDir, by: str, done: Restored, say: Say, only: Open | None = None) -> None:
    """Undo the open faults of the journal, newest first (or `only` one), and write that down."""
    try:
        faults = [only] if only else list(reversed(wal.open_faults(wal.read(run.journal))))
    except wal.JournalError as error:
        done.problems.append(str(error))
        done.commands.append(f"less {run.journal}  # undo by hand what it says")
        return
    for one in faults:
        name = f"{one.fault_id} ({one.fault} on {one.target})"
        say(f"undoing {name}")
        _write(run, one, "recovering", say)
        outcomes = undo.apply(one.ops)
        _note_identities(run, outcomes, say)
        problems = undo.verify(one.ops)
        failed = [str(o["error"]) for o in outcomes if o["did"] == "failed"]
        if problems:
            text = "; ".join(problems + failed)
            _write(run, one, "failed", say, error=text)
            done.problems.append(f"{name}: {text}")
            done.commands += undo.commands(one.ops)
        else:
            proof = "; ".join(_told(outcome) for outcome in outcomes) or "nothing had to be undone"
            _write(run, one, "recovered", say, evidence={"proof": proof, "recovered_by": by})
            done.undone.append(one.fault_id)


def _told(outcome: Mapping[str, Any]) -> str:
    return f"{outcome.get('target', 'pid')} {outcome.get('pid', '')}: {outcome['did']}".replace("  ", " ")


def _write(run: RunDir, one: Open, phase: str, say: Say, **more: Any) -> None:
    """A journal line; a full disk must not keep us from undoing."""
    t_ns = clock.now_ns() - int(one.undo.get("anchor_mono_ns", 0))
    if phase == "recovered":
        more["evidence"]["gone_ns"] = t_ns
    line = {"t_ns": t_ns, "fault_id": one.fault_id, "fault": one.fault, "phase": phase, "target": one.target}
    try:
        fd = wal.open_file(run.journal)
        try:
            wal.append(fd, {**line, "undo": None, "evidence": None, "error": None, **more}, str(run.journal))
        finally:
            os.close(fd)
    except wal.JournalError as error:
        say(f"journal: {error}")


def _note_identities(run: RunDir, outcomes: list[dict[str, Any]], say: Say) -> None:
    """sut.json names the processes that were started again."""
    new = {o["target"]: o for o in outcomes if o["op"] == "spawn" and "pid" in o}
    if not new:
        return
    try:
        path = run.sut.resolve(strict=True)  # may be a link to the system's own
        state = json.loads(path.read_bytes())
        for process in state["processes"]:
            if process["name"] in new:
                process["pid"] = new[process["name"]]["pid"]
                process["start_ticks"] = new[process["name"]]["start_ticks"]
        write_json(path, state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{run.sut}: {error}")


def _sut(run: RunDir) -> dict[str, Any]:
    """sut.json as plain data, empty when it isn't there (yet)."""
    try:
        state = json.loads(run.sut.read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _stop(name: str, value: str, grace_s: float, what: str, done: Restored, say: Say) -> int:
    """End every process that carries a mark; three rounds, for those born meanwhile."""
    count = 0
    for _ in range(3):
        found = proc.marked(name, value)
        if not found:
            return count
        say(f"stopping {len(found)} {what}")
        count += len(found)
        proc.stop_all(found, grace_s)
    left = proc.marked(name, value)
    if left:
        done.problems.append(f"{what} still live: {', '.join(str(one.pid) for one in left)}")
        done.commands.append(f"kill -KILL {' '.join(str(one.pid) for one in left)}")
    return count


def _remove_namespaces(sut_id: str, done: Restored, say: Say) -> None:
    """Hosts of the system go when its processes are gone: the ones that were never written down, too."""
    gone, problems = netns.remove(netns.prefix(sut_id))
    done.namespaces = len(gone)
    done.problems += problems
    done.commands += [f"ip netns del {name}" for name in netns.named(netns.prefix(sut_id))]
    if gone:
        say(f"removed {len(gone)} network namespaces")


def run_id_of(path: Path) -> str:
    """The run id of a run directory: from its manifest, else the directory's name."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        return str(manifest["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name
