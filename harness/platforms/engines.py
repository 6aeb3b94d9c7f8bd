"""The port `engines`: witness engines of a system that squall started, over their control sockets.

One for every platform whose workers are processes: sut.json says where each engine's socket is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from faults.ports import EngineControl, Target, Told
from harness.core import proc, sutfile
from harness.core.config import Scenario
from harness.core.errors import FaultError, SquallError
from harness.core.proc import Identity
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState
from harness.sut import control


def offered(scenario: Scenario) -> frozenset[str]:
    """The port's name, where the scenario's system will have witness engines."""
    ours = scenario.sut.url is None and scenario.sut.engine == "witness"
    return frozenset({"engines"}) if ours else frozenset()


def of_run(run: RunDir) -> EngineControl | None:
    """The engines of the system in `run`; None when they are no witnesses of ours."""
    state = sutfile.load(run)
    return WitnessEngines(run) if any(one.control_port is not None for one in state.processes) else None


class WitnessEngines:
    """faults.ports.EngineControl."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def withdrawal(self, target: Target, tag: str) -> Mapping[str, Any]:
        """See faults/withdraw.py."""
        process, _ = self._find(target)
        return {
            "op": "engine", "target": process.name, "pid": process.pid, "start_ticks": process.start_ticks,
            "port": process.control_port, "netns": process.netns, "tag": tag, "sut": str(self.run.sut),
        }  # fmt: skip

    def tell(self, target: Target, who: Identity, tag: str, rule: Mapping[str, Any]) -> None:
        """Add a rule, to exactly this process."""
        process, state = self._find(target)
        if process.identity != who or not proc.alive(who):
            raise FaultError(f"{target.name} (pid {who.pid}) was gone at injection")
        self._ask(process, state, {"command": "add", "tag": tag, "rule": dict(rule)})

    def told(self, target: Target, tag: str) -> Told | None:
        """The engine's counters of this rule."""
        process, state = self._find(target)
        known = self._ask(process, state, {"command": "status"})["tagged"].get(tag)
        return None if known is None else Told(known["count"], known["first_ns"], known["in_force"])

    def wrote(self, target: Target, tag: str) -> bool:
        """By the segment log, each line of which is on disk before the lie."""
        try:
            lines = self.run.segments(target.name).read_bytes().splitlines()
        except OSError:
            return False
        return any(json.loads(line).get("tag") == tag for line in lines if tag.encode() in line)

    def _find(self, target: Target) -> tuple[Process, SutState]:
        state = sutfile.load(self.run)
        try:
            process = state.process(target.name)
        except SquallError as error:
            raise FaultError(str(error)) from None
        if process.control_port is None:
            raise FaultError(f"{target.name}: has no witness engine")
        return process, state

    def _ask(self, process: Process, state: SutState, command: dict[str, Any]) -> dict[str, Any]:
        try:
            return control.call(process, state.control_token or "", command)
        except SquallError as error:
            raise FaultError(str(error)) from None
