"""A system that somebody else runs: reached by URL, touched only where the scenario names a pid."""

from __future__ import annotations

import os
from collections import Counter
from http.client import HTTPException

from harness.core import fetch, proc, sutfile
from harness.core.config import Scenario, Sut
from harness.core.errors import ScenarioError, TargetError, UsageError
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState

TIMEOUT_S = 5.0


def headers(system: Sut | SutState) -> dict[str, str]:
    """Header values from the environment. Raises UsageError naming a variable that isn't set."""
    found = {}
    for header, variable in system.headers_env.items():
        value = os.environ.get(variable)
        if value is None:
            raise UsageError(f"sut.headers_env.{header}: variable {variable} isn't set; export it first")
        if any(c in value for c in "\r\n\0"):
            raise UsageError(f"sut.headers_env.{header}: the value of {variable} has a line break in it")
        found[header] = value
    return found


def check(scenario: Scenario, file: str) -> None:
    """Refuse before anything starts: unreachable URL, unknown model, unset variable, absent pid."""
    sut = scenario.sut
    if sut.url is None:
        raise ScenarioError(file, "sut.url", "is missing", "an outside system needs its URL")
    for n, process in enumerate(_processes(scenario)):
        _refuse(process, [t.pid for t in sut.targets[:n]], f"sut.targets[{n}].pid", file)
    url = f"{sut.url.rstrip('/')}/v1/models"
    try:
        answer = fetch.get(url, headers(sut), TIMEOUT_S)
    except (OSError, HTTPException) as error:
        raise UsageError(
            f"{file}: sut.url: {sut.url} can't be reached ({error}); start the system first"
        ) from None
    if answer.status in {401, 403}:
        raise UsageError(f"{file}: sut.url: {url} says {answer.status}; set sut.headers_env")
    listed = answer.json()
    data = listed.get("data") if isinstance(listed, dict) else None
    names = [str(one.get("id")) for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    if answer.status == 200 and names and sut.model not in names:
        raise ScenarioError(file, "sut.model", f"{sut.model!r} is not offered", f"it has {', '.join(names)}")


def only_model(url: str) -> str:
    """The one model that a system without credentials offers. Raises UsageError."""
    where = f"{url.rstrip('/')}/v1/models"
    try:
        listed = fetch.get(where, {}, TIMEOUT_S).json()
        names = [str(one["id"]) for one in listed["data"]]
    except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{url}: {where} can't be read ({error}); start the system, or name url and model in a *.yaml file"
        ) from None
    if len(names) != 1:
        raise UsageError(
            f"{url}: offers {', '.join(names) or 'no model'}; name url and model in a *.yaml file, and that file here"
        )
    return names[0]


def attach(scenario: Scenario, run: RunDir, sut_id: str) -> SutState:
    """Describe the system in sut.json. Raises UsageError, TargetError (an absent pid)."""
    check(scenario, str(run.scenario))
    sut = scenario.sut
    assert sut.url is not None and sut.model is not None  # config checks it
    state = SutState(
        sut_id=sut_id, owner="outside", oracle=sut.oracle, model=sut.model, urls=[sut.url.rstrip("/")],
        headers_env=dict(sut.headers_env), health=list(sut.health), metrics=list(sut.metrics),
        processes=_processes(scenario),
    )  # fmt: skip
    sutfile.save(run, state)
    return state


def _refuse(process: Process, before: list[int], path: str, file: str) -> None:
    """No fault may aim at init, the kernel, squall itself, one process twice, or where we may not signal."""
    pid = process.pid
    command = proc.command_line(pid)
    what = f"pid {pid} ({command[:60]})"
    ours = proc.lineage(os.getpid())
    if pid in before:
        raise ScenarioError(file, path, f"{what} is named twice", "name each process once")
    if pid == 1 or pid in ours or command == "?":  # the kernel's threads have no command line
        whose = "init" if pid == 1 else "squall itself or a parent of it" if pid in ours else "the kernel's"
        raise ScenarioError(file, path, f"{what} is {whose}", "name a process of the system under test")
    if not proc.may_signal(process.identity):
        raise ScenarioError(file, path, f"{what} belongs to another user", "run squall as that user")


def _processes(scenario: Scenario) -> list[Process]:
    """The named pids with their identities, numbered within each role."""
    found = []
    seen: Counter[str] = Counter()
    for n, target in enumerate(scenario.sut.targets):
        who = proc.identify(target.pid)
        if who is None:
            raise TargetError(f"sut.targets[{n}]: no process has pid {target.pid}; name one that runs")
        seen[target.role] += 1
        index = seen[target.role]
        found.append(
            Process(name=f"{target.role}-{index}", role=target.role, index=index, pid=who.pid,
                    start_ticks=who.start_ticks)
        )  # fmt: skip
    return found
