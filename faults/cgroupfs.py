"""Control groups of this host, v1 or v2: where they are, who is in which, and how a fault's own is undone.

Owns the paths below the mounts that /proc/self/mountinfo names, and the undo operation `cgroup`.
Standard library only, because the guardian undoes with it. Knows no fault and no journal.

{"op": "cgroup", "path", "home", "homes": [[pid, start_ticks, path], ...], "limits": {file: value}}
    Everybody in the cgroup `path`, which a fault made, goes back: those in `homes` to where they were,
    those born inside to `home`. Then it is removed. `limits` is what the fault wrote into its files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import clock, proc
from harness.core.errors import FaultError
from harness.core.proc import Identity

Op = Mapping[str, Any]

PREFIX = "squall-"  # of every cgroup that a fault makes; nothing else is ever removed
_SETTLE_S = 3.0  # a cgroup stays busy until the last process in it is really gone


class Hierarchy(NamedTuple):
    """One mounted tree of cgroups that has a controller."""

    controller: str
    version: int  # 1 or 2
    mount: Path
    root: str = "/"  # what of the hierarchy is mounted there
    proc: Path = Path("/proc")

    def home(self, pid: int) -> Path:
        """The cgroup that a process is in. Raises FaultError when it is gone or outside of this mount."""
        try:
            lines = (self.proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            raise FaultError(f"pid {pid} is not there any more") from None
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if self.controller in controllers.split(",") if self.version == 1 else controllers == "":
                inside = path.removeprefix(self.root) if self.root != "/" else path
                if "/../" in f"{path}/" or not path.startswith(self.root):
                    raise FaultError(f"pid {pid}: its cgroup {path} is not visible below {self.mount}")
                return self.mount / inside.lstrip("/")
        raise FaultError(f"pid {pid}: no cgroup with {self.controller}")

    def parent(self, home: Path) -> Path:
        """Where a new cgroup for processes of `home` belongs, so that `home`'s own limits go on as far as can be.

        v1: below it. v2 allows no processes beside children with controllers: the nearest one above
        that hands the controller down. Raises FaultError.
        """
        if self.version == 1:
            return home
        if home.name.startswith(PREFIX):
            raise FaultError(
                f"{home}: another fault's; cgroup v2 keeps a process in one, so not both at once"
            )
        for above in home.parents:
            if not above.is_relative_to(self.mount):
                break
            if self.controller in _read(above / "cgroup.subtree_control").split():
                return above
        raise FaultError(f"{home}: no cgroup above it hands down {self.controller} (cgroup.subtree_control)")


def hierarchies(mountinfo: str) -> Iterator[Hierarchy]:
    """Mounted, writable hierarchies with the controllers that faults use, from /proc/self/mountinfo's text."""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, (kind, _, options) = head.split(), tail.split(maxsplit=2)
        root, mount = fields[3], Path(fields[4].encode().decode("unicode_escape"))
        if (
            kind not in {"cgroup", "cgroup2"}
            or "rw" not in fields[5].split(",")
            or not os.access(mount, os.W_OK)
        ):
            continue
        known = _read(mount / "cgroup.controllers").split() if kind == "cgroup2" else options.split(",")
        for controller in ("cpu", "memory"):
            if controller in known:
                yield Hierarchy(controller, 2 if kind == "cgroup2" else 1, mount, root)


def find(controller: str) -> Hierarchy | None:
    """Where limits of `cpu` or `memory` can be set on this host, None when nowhere."""
    text = Path("/proc/self/mountinfo").read_text()
    return next((one for one in hierarchies(text) if one.controller == controller), None)


def plan(where: Hierarchy, tree: Sequence[Identity], name: str, limits: Mapping[str, str]) -> dict[str, Any]:
    """The undo operation of a new cgroup `name` for `tree` (parents first). Reads only. Raises FaultError."""
    home, homes = where.home(tree[0].pid), []
    for one in tree:
        with contextlib.suppress(FaultError):  # a child may end meanwhile
            homes.append([*one, str(where.home(one.pid))])
    path = where.parent(home) / f"{PREFIX}{name}"
    return {"op": "cgroup", "path": str(path), "home": str(home), "homes": homes, "limits": dict(limits)}


def make(op: Op) -> None:
    """Make the cgroup and set its limits; nobody is in it yet. Raises FaultError."""
    path = Path(op["path"])
    try:
        path.mkdir()
        for name, value in op["limits"].items():
            (path / name).write_text(value)
    except OSError as error:
        raise FaultError(f"{error.filename or path}: {error.strerror}") from None


def move(op: Op, who: Identity) -> bool:
    """Put a process into the cgroup; False when it is gone. Raises FaultError."""
    try:
        return proc.alive(who) and _enter(Path(op["path"]), who.pid)
    except OSError as error:
        raise FaultError(f"pid {who.pid} can't be put into {op['path']}: {error.strerror}") from None


def members(op: Op) -> list[int]:
    """Pids that are in the cgroup now; none when it isn't there."""
    return [int(pid) for pid in _read(Path(op["path"]) / "cgroup.procs").split()]


def value(op: Op, file: str, key: str = "") -> int | None:
    """A number in a file of the cgroup, behind `key` where it has several; None when there is none."""
    for line in _read(Path(op["path"]) / file).splitlines():
        words = line.split()
        if words and words[0] == key and len(words) > 1:
            return int(words[1])
        if not key and words and words[0].isdigit():
            return int(words[0])
    return None


def drifted(op: Op) -> list[str]:
    """Limits that somebody else changed since we set them."""
    found = []
    for name, wanted in op["limits"].items():
        now = _read(Path(op["path"]) / name).strip()
        if now and now != wanted:
            found.append(f"{name} was {now} where {wanted} had been set")
    return found


def apply(op: Op) -> dict[str, Any]:
    """Empty the cgroup and remove it. Raises OSError when it can't be removed, ValueError for a foreign one."""
    path = _ours(op)
    done = {"op": "cgroup", "target": f"cgroup {path}"}
    if not path.exists():
        return {**done, "did": "not there"}
    drift, homes, moved = drifted(op), {(pid, ticks): Path(home) for pid, ticks, home in op["homes"]}, 0
    end = clock.now_ns() + int(_SETTLE_S * clock.NS)
    while True:
        for pid in members(op):
            who = proc.identify(pid)
            if who is not None:
                moved += _enter(_standing(homes.get((who.pid, who.start_ticks), Path(op["home"]))), pid)
        try:
            path.rmdir()
            break
        except FileNotFoundError:
            break
        except OSError:
            if clock.now_ns() >= end:
                raise
            clock.sleep_s(0.01)
    said = f"{moved} processes back, removed" + (f"; drifted: {'; '.join(drift)}" if drift else "")
    return {**done, "did": said, **({"drifted": drift} if drift else {})}


def verify(op: Op) -> str | None:
    """What is left of it, None when nothing is."""
    path = _ours(op)
    if not path.exists():
        return None
    return f"cgroup {path} is still there, with pids {members(op) or 'none'}"


def command(op: Op) -> str:
    """Shell commands that do the same by hand."""
    path = _ours(op)
    lines = [f"echo {pid} > {home}/cgroup.procs" for pid, _, home in op["homes"] if pid in members(op)]
    rest = f"for p in $(cat {path}/cgroup.procs); do echo $p > {op['home']}/cgroup.procs; done"
    return "; ".join([*lines, rest, f"rmdir {path}"])


def _ours(op: Op) -> Path:
    path = Path(op["path"])
    if not path.name.startswith(PREFIX) or ".." in path.parts:
        raise ValueError(f"{path} is no cgroup of a fault")
    return path


def _standing(home: Path) -> Path:
    """`home`, or the nearest one above it if somebody removed it meanwhile."""
    return next((one for one in (home, *home.parents) if (one / "cgroup.procs").exists()), home)


def _enter(cgroup: Path, pid: int) -> bool:
    """False when the process is gone. Raises OSError."""
    try:
        (cgroup / "cgroup.procs").write_text(str(pid))
    except ProcessLookupError:
        return False
    return True


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
