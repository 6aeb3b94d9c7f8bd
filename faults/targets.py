"""Which targets a step hits: by role and index, from counts and the seed alone.

Pure. Knows no pid and no port; the platform finds the process of a name at injection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from faults.ports import Target
from harness.core import strict
from harness.core.config import Scenario, Select, Step
from harness.core.errors import ScenarioError, TargetError
from harness.core.ids import rng
from harness.core.sutfile import SutState


def of_scenario(scenario: Scenario) -> dict[str, int]:
    """How many targets of each role the scenario will have, before anything is started."""
    if scenario.sut.url is not None:
        return dict(Counter(target.role for target in scenario.sut.targets))
    sut = scenario.sut
    prefill = {"prefill": sut.prefill_workers} if sut.prefill_workers else {}
    return {**sut.servers, "frontend": sut.frontends, "worker": sut.workers, **prefill}


def of_system(state: SutState) -> dict[str, int]:
    """How many targets of each role a running system has."""
    return dict(Counter(process.role for process in state.processes))


def of_step(step: Step, fault: type, targets: Mapping[str, int], file: str, path: str) -> Select | Target:
    """What a step hits: its `select`, checked, or the target that the fault finds itself.

    Raises TargetError or ScenarioError.
    """
    role: str | None = getattr(fault, "role", None)
    finds: Target | None = getattr(fault, "finds", None)
    if step.select is not None:
        if finds is not None and finds.word:
            raise ScenarioError(file, f"{path}.select", f"{step.fault} finds its target itself", "remove it")
        if role is not None and step.select.role != role:
            raise ScenarioError(
                file, f"{path}.select.role", f"{step.fault} is for the role {role!r}, not {step.select.role!r}",
                f"write {role}",
            )  # fmt: skip
        check(step.select, targets, file, path)
        return step.select
    if finds is None:
        raise ScenarioError(file, f"{path}.select", "is missing", "add it")
    check(Select(finds.role), targets, file, path)
    return finds


def check(select: Select, targets: Mapping[str, int], file: str, path: str) -> None:
    """Raise TargetError or ScenarioError when the selection can't be met, or is empty."""
    if not targets.get(select.role):
        there = ", ".join(f"{role} ({count})" for role, count in sorted(targets.items()) if count)
        roles = [role for role, count in targets.items() if count]
        remedy = strict.nearest(select.role, roles) if roles else "name processes under sut.targets"
        raise TargetError(
            f"{file}: {path}.select.role: no target has the role {select.role!r}; "
            f"this system has {there or 'no targets'}; {remedy}"
        )
    count = targets[select.role]
    if select.index is None:
        if select.count > count:
            raise TargetError(
                f"{file}: {path}.select.count: {select.count} of role {select.role!r} wanted, "
                f"this system has {count}; lower it or start more"
            )
        return
    for index in select.index:
        if not 1 <= index <= count:
            raise TargetError(
                f"{file}: {path}.select.index: {select.role}-{index} is not there; "
                f"this system has {select.role}-1 to {select.role}-{count}"
            )
    if len(set(select.index)) != len(select.index):
        raise ScenarioError(file, f"{path}.select.index", f"{select.index} names one twice", "name it once")


def draw(
    select: Select | Target, targets: Mapping[str, int], seed: int, step: str, occurrence: int
) -> tuple[Target, ...]:
    """The targets of one occurrence. Its own stream of randomness: no other step shifts it."""
    if isinstance(select, Target):
        return (select,)
    if select.index is not None:
        indices = sorted(select.index)
    else:
        everyone = range(1, targets[select.role] + 1)
        indices = sorted(rng(seed, "select", step, occurrence).sample(everyone, select.count))
    return tuple(Target(select.role, index) for index in indices)
