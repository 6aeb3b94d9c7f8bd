"""The plan: which fault hits which target when. A pure function of (scenario, seed, counts by role).

Owns the checks that need no system: fault names, parameters, targets, overlaps. Everything wrong is
refused here, before anything starts. Seconds count from the end of warm-up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from faults import FAULTS, engine, peers, targets
from faults.ports import Fault, Target
from harness.core import phases, strict
from harness.core.config import Scenario, Select, Step, When
from harness.core.errors import ScenarioError
from harness.core.ids import rng

# Pairs of faults that may be on one target at the same time: each is undone without the other. Everything
# else is refused: two faults that both end or stop a process would undo each other.
_NETWORK = frozenset(f"network.{kind}" for kind in ("partition", "loss", "reset", "bandwidth", "delay"))
COMPATIBLE: frozenset[frozenset[str]] = frozenset(
    {frozenset({"process.slow", "process.memory"})}
    | {frozenset({one, "process.pause"}) for one in ("process.slow", "process.memory")}
    | {
        frozenset({one, other})
        for one in ("process.slow", "process.memory", "process.pause")
        for other in _NETWORK
    }
    | engine.COMPATIBLE
)
_QUEUES = frozenset({"network.bandwidth", "network.delay"})  # a device has one queue
MAX_REPETITIONS = 1000  # of one step; more is a slip of the pen in every_s


@dataclass(frozen=True)
class Injection:
    """One occurrence of a step. lasts_s: from its effect to its undo; None = until the run ends."""

    fault_id: str
    step: str
    occurrence: int  # from 1
    fault: str
    params: Mapping[str, Any]
    targets: tuple[Target, ...]
    at_s: float
    lasts_s: float | None
    earliest_s: float  # without jitter
    latest_s: float  # with all of it, and with all of when.within_s
    when: When | None = None  # not before at_s, and only while this holds

    def build(self) -> Fault:
        """The fault with its parameters."""
        return msgspec.convert(dict(self.params), FAULTS[self.fault])

    def line(self) -> str:
        """For `squall plan`."""
        names = ", ".join(target.name for target in self.targets)
        shown = " ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        end = "until the run ends" if self.lasts_s is None else f"undone {self.lasts_s:g} s after its effect"
        if self.when is not None:
            end = f"from then on when {self.when.text}, within {self.when.within_s:g} s; {end}"
        return f"{self.at_s:8.3f} s  {self.fault_id:<12} {self.fault:<18} {names:<20} {end}  {shown}".rstrip()


@dataclass(frozen=True)
class Plan:
    """All injections by time. Equal in bytes for equal scenario and seed."""

    seed: int
    duration_s: float
    warmup_s: float
    injections: tuple[Injection, ...]

    def to_json(self) -> bytes:
        """Canonical: sorted keys, no spaces, a newline at the end."""
        steps = [
            {
                "fault_id": one.fault_id, "step": one.step, "occurrence": one.occurrence, "fault": one.fault,
                "params": dict(one.params), "targets": [target.name for target in one.targets],
                "at_s": one.at_s, "lasts_s": one.lasts_s,
                **({} if one.when is None else {"when": msgspec.to_builtins(one.when)}),
            }
            for one in self.injections
        ]  # fmt: skip
        tree = {
            "schema": 1, "seed": self.seed, "duration_s": self.duration_s, "warmup_s": self.warmup_s,
            "injections": steps,
        }  # fmt: skip
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    def lines(self) -> list[str]:
        """For people: one line for each injection."""
        head = f"seed {self.seed}: {len(self.injections)} faults in {self.duration_s:g} s after "
        return [f"{head}{self.warmup_s:g} s of warm-up", *(one.line() for one in self.injections)]


def plan(
    scenario: Scenario,
    counts: Mapping[str, int],
    file: str = "scenario",
    offers: frozenset[str] = frozenset({"processes"}),
) -> Plan:
    """Expand the steps. counts: targets by role; offers: ports of the platform.

    Raises ScenarioError or TargetError naming file, path, value and remedy.
    """
    found: list[Injection] = []
    where: dict[str, str] = {}
    for n, step in enumerate(scenario.faults):
        path = f"faults[{n}]"
        fault = build(step, file, path)
        _check_step(scenario, step, fault, file, path, offers)
        select = targets.of_step(step, type(fault), counts, file, path)
        for one in _occurrences(scenario, step, fault, select, counts):
            _check_peers(one, counts, file, path)
            if one.fault_id in where:
                raise ScenarioError(
                    file, f"{path}.id", f"repetition {one.occurrence} of {step.id!r} is {one.fault_id!r}, "
                    f"the name of {where[one.fault_id]}", "rename one of the two",
                )  # fmt: skip
            where[one.fault_id] = path
            found.append(one)
    found.sort(key=lambda one: (one.at_s, one.fault_id))
    _refuse_overlaps(found, file, where)
    return Plan(scenario.seed, scenario.load.duration_s, scenario.load.warmup_s, tuple(found))


def build(step: Step, file: str, path: str) -> Fault:
    """The step's fault with its parameters. Raises ScenarioError."""
    kind = FAULTS.get(step.fault)
    if kind is None:
        raise ScenarioError(
            file, f"{path}.fault", f"no fault is called {step.fault!r}", strict.nearest(step.fault, FAULTS)
        )
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in step.params.items():
        if name not in fields:
            raise ScenarioError(
                file, f"{path}.{name}", f"{step.fault} has no such parameter (value {value!r})",
                strict.nearest(name, fields),
            )  # fmt: skip
    given = dict(step.params)
    if step.hold_s is not None:
        if "hold_s" not in fields:
            raise ScenarioError(
                file, f"{path}.hold_s", f"{step.fault} doesn't last (value {step.hold_s})", "remove it"
            )
        given["hold_s"] = step.hold_s
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise ScenarioError(file, f"{path}.{name}", f"is missing, {step.fault} needs it", "add it")
    try:
        return msgspec.convert(given, kind, strict=True)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$")
        key = at.rstrip("`").lstrip(".")
        shown = f" (value {given[key]!r})" if key in given else ""
        raise ScenarioError(
            file, f"{path}.{key}" if key else path, f"{what}{shown}", f"see `squall faults` for {step.fault}"
        ) from None


def lasts_s(fault: Fault) -> float | None:
    """How long a fault stays, by the field that it has for it; None: until the run ends."""
    for name in ("hold_s", "restart_after_s"):
        value: float | None = getattr(fault, name, None)
        if value is not None:
            return value
    return None


def compatible(first: Injection, second: Injection) -> bool:
    """True when both may be on one target at a time: declared, or two network faults with peers of their own."""
    pair = frozenset({first.fault, second.fault})
    if not pair <= _NETWORK:
        return pair in COMPATIBLE
    return not pair <= _QUEUES and not peers.meet(first.params["peers"], second.params["peers"])


def _check_step(
    scenario: Scenario, step: Step, fault: Fault, file: str, path: str, offers: frozenset[str]
) -> None:
    lacking = fault.needs - offers
    if "engines" in lacking:
        raise ScenarioError(
            file, f"{path}.fault", f"{step.fault} is a lie of the witness engine, which this system doesn't have "
            f"(sut.engine: {scenario.sut.engine}, sut.url: {scenario.sut.url})",
            "use a system that squall starts, with `engine: witness`",
        )  # fmt: skip
    if "control_plane" in lacking:
        raise ScenarioError(
            file, f"{path}.fault", f"{step.fault} needs etcd members or NATS that squall starts, and there are none",
            "write `sut.discovery: etcd`, `sut.request_plane: nats`",
        )  # fmt: skip
    if lacking:
        raise ScenarioError(
            file, f"{path}.fault", f"{step.fault} needs {', '.join(sorted(lacking))}, "
            f"which platform {scenario.sut.platform!r} doesn't offer", "see `squall doctor`",
        )  # fmt: skip
    if "engines" in fault.needs and step.select and step.select.role == "frontend":
        raise ScenarioError(
            file,
            f"{path}.select.role",
            f"{step.fault} aims at engines; a frontend has none",
            "write `worker`",
        )
    restart = getattr(fault, "restart_after_s", None)
    if restart is not None and step.hold_s is not None:
        raise ScenarioError(
            file, f"{path}.hold_s", f"means the same as restart_after_s (values {step.hold_s}, {restart})",
            "keep one of them",
        )  # fmt: skip
    if scenario.sut.url is not None and hasattr(fault, "restart_after_s") and lasts_s(fault) is not None:
        key = "restart_after_s" if restart is not None else "hold_s"
        raise ScenarioError(
            file, f"{path}.{key}", f"squall can't start a process of an outside system again (value "
            f"{lasts_s(fault)})", "remove it: the target stays dead; or use process.pause",
        )  # fmt: skip
    start_s, end_s = phases.stretch(scenario.load, step.phase)
    of, length_s = ("the load" if step.phase is None else f"phase {step.phase!r}"), end_s - start_s
    if step.every_s is not None and length_s / step.every_s > MAX_REPETITIONS:
        raise ScenarioError(
            file, f"{path}.every_s", f"{step.every_s} makes more than {MAX_REPETITIONS} faults",
            "seconds between two of them",
        )  # fmt: skip
    if step.at_s + step.jitter_s > length_s:
        raise ScenarioError(
            file, f"{path}.jitter_s", f"at_s {step.at_s} + jitter_s {step.jitter_s} is after the end of "
            f"{of}, {length_s:g} s", "lower one of them",
        )  # fmt: skip
    if step.at_s + step.jitter_s + _waits_s(step) > length_s:
        raise ScenarioError(
            file, f"{path}.when.within_s", f"{_waits_s(step):g} from at_s {step.at_s:g} + jitter_s "
            f"{step.jitter_s:g} is after the end of {of}, {length_s:g} s", "lower it",
        )  # fmt: skip


def _waits_s(step: Step) -> float:
    return 0 if step.when is None else step.when.within_s


def _check_peers(one: Injection, counts: Mapping[str, int], file: str, path: str) -> None:
    """Raise ScenarioError for peers that nobody is, or that the target itself is."""
    named = one.params.get("peers")
    if (
        named is not None
        and (found := peers.problem(named, [t.name for t in one.targets], counts)) is not None
    ):
        raise ScenarioError(file, f"{path}.peers", *found)


def _occurrences(
    scenario: Scenario, step: Step, fault: Fault, select: Select | Target, counts: Mapping[str, int]
) -> list[Injection]:
    """The step and its repetitions that begin before its phase or the load ends; jitter delays by 0 to jitter_s."""
    params = {key: value for key, value in dataclasses.asdict(fault).items() if value is not None}  # type: ignore[call-overload]
    found: list[Injection] = []
    start_s, end_s = phases.stretch(scenario.load, step.phase)
    first_s = round(start_s + step.at_s, 9)
    number, nominal_s = 1, first_s
    while nominal_s + step.jitter_s <= end_s:
        late_s = rng(scenario.seed, "fault", step.id, number).uniform(0, step.jitter_s)
        found.append(
            Injection(
                fault_id=step.id if number == 1 else f"{step.id}-{number}",
                step=step.id,
                occurrence=number,
                fault=step.fault,
                params=params,
                targets=targets.draw(select, counts, scenario.seed, step.id, number),
                at_s=round(nominal_s + late_s, 6),
                lasts_s=lasts_s(fault),
                earliest_s=round(nominal_s, 6),
                latest_s=round(nominal_s + step.jitter_s + _waits_s(step), 6),
                when=step.when,
            )
        )
        if step.every_s is None:
            break
        nominal_s = round(first_s + number * step.every_s, 9)
        number += 1
    return found


def _refuse_overlaps(found: list[Injection], file: str, where: Mapping[str, str]) -> None:
    """Two faults on one target at one time, by their worst case, unless declared compatible."""
    found = sorted(found, key=lambda one: (one.earliest_s, one.fault_id))
    for n, first in enumerate(found):
        end_s = None if first.lasts_s is None else first.latest_s + first.lasts_s
        for second in found[n + 1 :]:
            shared = sorted(t.name for t in first.targets if any(t.may_be(other) for other in second.targets))
            apart = end_s is not None and end_s < second.earliest_s
            if not shared or apart or compatible(first, second):
                continue
            until = "until the run ends" if end_s is None else f"to {end_s:g} s"
            raise ScenarioError(
                file, where[second.fault_id],
                f"{second.fault_id!r} at {second.earliest_s:g} s overlaps {first.fault_id!r} on {shared[0]}, "
                f"from {first.earliest_s:g} s {until}",
                "move one, let the first end earlier, or aim at others by `select: {role, index: [n]}`",
            )  # fmt: skip
