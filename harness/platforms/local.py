"""The ports of faults on local processes, read from sut.json.

Owns how a target's process is found, signalled, started again and watched from outside. Touches only
what sut.json names; knows no fault and no schedule.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Mapping
from typing import Any

from faults import cgroupfs, undo
from faults.cgroupfs import Hierarchy
from faults.ports import Found, Ports, Serving, Target, tree_plain
from harness.core import health, netns, proc, sutfile
from harness.core.config import Scenario
from harness.core.errors import FaultError, TargetError
from harness.core.owners import Owners
from harness.core.proc import Identity, Stat
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState
from harness.platforms import control_plane, engines
from harness.platforms.draining import DrainView
from harness.sut import planes, ready
from harness.sut.ports import LOOPBACK

_CONNECT_S = 0.5
_STARTED = re.compile(r"^dynamo_frontend_requests_started_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_ENDED = re.compile(r"^dynamo_frontend_requests_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def ports(run: RunDir, recover_timeout_s: float) -> Ports:
    """What this platform offers to faults on the system in `run`."""
    return Ports(
        LocalProcesses(run), recover_timeout_s, engines=engines.of_run(run), cgroups=cgroups(),
        control_plane=control_plane.of(run), drains=DrainView(run),
    )  # fmt: skip


def offers(scenario: Scenario) -> frozenset[str]:
    """Names of the ports that faults of this scenario will have."""
    there = {"processes"} | ({"cgroups"} if cgroups() else set())
    there |= {"control_plane"} if scenario.sut.servers else set()
    return frozenset(there) | engines.offered(scenario)


def cgroups() -> dict[str, Hierarchy] | None:
    """Where this host lets us limit `cpu` and `memory`, None when it doesn't."""
    found = {name: where for name in ("cpu", "memory") if (where := cgroupfs.find(name)) is not None}
    return found or None


class LocalProcesses:
    """faults.ports.ProcessControl for processes of this host."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._writing = threading.Lock()  # sut.json is read, changed and written
        self._listed: set[str] = set()  # targets that a frontend was seen to list
        self._owners = Owners()

    def find(self, target: Target) -> Found:
        """Who the target is now. Raises FaultError when sut.json doesn't name it."""
        state = sutfile.load(self.run)
        process = _process(state, target)
        tree = tuple(proc.tree(process.identity))
        if state.owner == "outside":
            self.serving(target)  # learn whether the frontends know it, before anything is done to it
        listening = sorted({port for one in tree for port in proc.listening_ports(one.pid)})
        return Found(process.identity, tree, tuple(listening), _spawn_op(state, process, tree))

    def stat(self, who: Identity) -> Stat | None:
        """/proc of exactly this process, None when it is gone or a zombie."""
        stat = proc.stat(who.pid)
        if stat is None or stat.start_ticks != who.start_ticks or stat.state in "ZX":
            return None
        return stat

    def tree(self, who: Identity) -> tuple[Identity, ...]:
        """It and its living descendants, parents first."""
        return tuple(proc.tree(who))

    def exit_code(self, who: Identity) -> int | None:
        """How it ended, None when nobody can tell."""
        return proc.exit_code(who)

    def signal(self, who: Identity, sig: signal.Signals) -> bool:
        """Signal exactly this process; False when it is gone. Raises FaultError when not allowed to."""
        try:
            return proc.send(who, sig)
        except PermissionError:
            raise FaultError(f"pid {who.pid}: may not be signalled by this user") from None

    def refuses(self, target: Target, port: int) -> bool:
        """True when nobody listens on this port of the target's host, asked on that host itself."""
        process = _process(sutfile.load(self.run), target)
        return all(
            _refused(process.netns, (address, port)) for address in sorted({process.address, LOOPBACK})
        )

    def respawn(self, op: Mapping[str, Any]) -> Identity:
        """Carry out a spawn operation, note the identity in sut.json. Raises FaultError."""
        outcome = undo.apply([op])[0]
        if outcome["did"] == "failed":
            raise FaultError(f"{op['target']} could not be started again: {outcome['error']}")
        who = Identity(outcome["pid"], outcome["start_ticks"])
        with self._writing:
            sutfile.replace_identity(self.run, str(op["target"]), who)
        return who

    def serving(self, target: Target) -> Serving:
        """Its own health and counters, the frontends' list and counters; None where there is no sign."""
        state = sutfile.load(self.run)
        process = _process(state, target)
        frontends = _frontends(state)
        there = state.vantage
        if process.role == "frontend":
            return Serving(
                _healthy(process, there), None, _requests_of([process], there), _requests_of(frontends, there)
            )
        if process.role in planes.ROLES:
            return Serving(_healthy(process, there), traffic=_requests_of(frontends, there), countable=False)
        count = ready.request_count(process, there)
        return Serving(
            healthy=_healthy(process, there),
            listed=self._is_listed(state, frontends, process),
            requests=None if count is None else float(count),
            traffic=_requests_of(frontends, there),
            countable=process.metrics is not None,
        )

    def _is_listed(self, state: SutState, frontends: list[Process], process: Process) -> bool | None:
        """True when every answering frontend lists it.

        None when none answers, and for a process of an outside system that was never seen listed:
        it may be something that frontends don't list.
        """
        views = [view for one in frontends if (view := ready.listed_by(one, state, self._owners)) is not None]
        if views and all(process.name in view for view in views):
            self._listed.add(process.name)
            return True
        unknown = state.owner == "outside" and process.name not in self._listed
        return None if unknown or not views else False


def _refused(namespace: str | None, address: tuple[str, int]) -> bool:
    try:
        with netns.connect(namespace, address, _CONNECT_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _process(state: SutState, target: Target) -> Process:
    try:
        return state.process(target.name)
    except TargetError as error:
        raise FaultError(str(error)) from None


def _spawn_op(state: SutState, process: Process, tree: tuple[Identity, ...]) -> dict[str, Any] | None:
    if state.owner == "outside" or not process.argv or process.log is None:
        return None
    return {
        "op": "spawn",
        "target": process.name,
        "argv": process.argv,
        "env": process.env,
        "cwd": process.cwd,
        "log": process.log,
        "replaces": {"pid": process.pid, "start_ticks": process.start_ticks},
        "tree": tree_plain(tree),
        "stop": False,
        "sut_id": state.sut_id,
    }


def _frontends(state: SutState) -> list[Process]:
    """The frontends that sut.json names, else those behind its URLs (an outside system)."""
    named = state.role("frontend")
    if named:
        return named
    return [
        Process(
            name=f"frontend-{n}", role="frontend", index=n, pid=0, start_ticks=0, health=[f"{url}/health"],
            metrics=f"{url}/metrics",
        )
        for n, url in enumerate(state.urls, 1)
    ]  # fmt: skip


def _healthy(process: Process, vantage: str | None) -> bool | None:
    """What its health pages say, bodies read; None without a page."""
    if not process.health:
        return None
    for url in process.health:
        answer = ready.ask(url, vantage)
        if answer is None or answer.status != 200 or not health.ready(answer.json()):
            return False
    return True


def _requests_of(frontends: list[Process], vantage: str | None) -> float | None:
    """Requests that frontends have taken, all together; None when one doesn't answer."""
    total = 0.0
    for one in frontends:
        answer = ready.ask(one.metrics, vantage) if one.metrics else None
        if answer is None or answer.status != 200:
            return None
        text = answer.body.decode(errors="replace")
        total += sum(float(value) for value in _STARTED.findall(text) or _ENDED.findall(text))
    return total if frontends else None
