"""Start, describe and end the system under test as local processes.

sut.json is written as each process starts; one that was started but not yet written is still found
by the marker in its environment. What is started is harness/sut/commands, when it is ready
harness/sut/ready.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from harness.core import clock, ids, netns, proc, sutfile
from harness.core.config import Scenario
from harness.core.errors import ProvisionError, ScenarioError
from harness.core.proc import Identity
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState
from harness.sut import canary, commands, hosts, model, outside, planes, ports, ready, venv

GRACE_S = 0.5  # a drain takes Dynamo about 5 s; at the end of a run nobody waits for it
OURS = {
    "--http-port": "sut.http_port",
    "--http-host": "nothing: a frontend listens on its host's address",
    "--migration-limit": "sut.migration_limit",
    "--migration-max-seq-len": "sut.migration_max_seq_len",
    "--disaggregation-mode": "sut.prefill_workers",
    "--is-prefill-worker": "sut.prefill_workers",
    "--is-decode-worker": "sut.prefill_workers",
    "--model-path": "sut.model_dir",
    "--model-name": "nothing: the name is fixed",
    "--engine-type": "sut.engine_type",
    "--block-size": "sut.engine_options.block_size",
    "--num-gpu-blocks-override": "sut.engine_options.kv_blocks",
    "--max-num-seqs": "sut.engine_options.max_num_seqs",
    "--discovery-backend": "sut.discovery",
    "--request-plane": "sut.request_plane",
}


def preflight(scenario: Scenario, file: str) -> None:
    """Raise UsageError for all that can be known before anything is changed."""
    sut = scenario.sut
    if sut.url is not None:
        outside.check(scenario, file)
        return
    _refuse_platform(scenario, file)
    _refuse_arguments(scenario, file)
    planes.check(scenario, file)
    canary.check(scenario, file)
    assert sut.dynamo is not None  # config checks it
    venv.python(sut.dynamo)
    if sut.model_dir is not None:
        model.check(Path(sut.model_dir), witness=sut.engine == "witness")
    for port in _fixed_ports(scenario):
        if not 0 < port < 65536 or not ports.is_free(port):
            raise ScenarioError(file, "sut.http_port", f"port {port} is taken by {ports.owner(port)}",
                                "end it, name another port, or 0 for any free one")  # fmt: skip


def _refuse_platform(scenario: Scenario, file: str) -> None:
    if scenario.sut.platform != "netns":
        return
    if (why := netns.refusal()) is not None:
        raise ScenarioError(file, "sut.platform", f"`netns` {why}", "or write `local`")
    count = len(commands.names(scenario))
    if count > hosts.MAX_HOSTS:
        raise ScenarioError(file, "sut.workers", f"{count} processes are more hosts than one network has",
                            f"at most {hosts.MAX_HOSTS} in all")  # fmt: skip


def _refuse_arguments(scenario: Scenario, file: str) -> None:
    sut = scenario.sut
    for path, args in (("sut.frontend_args", sut.frontend_args), ("sut.worker_args", sut.worker_args)):
        for arg in args:
            name = arg.partition("=")[0]
            if name in OURS:
                raise ScenarioError(file, path, f"{arg!r} is squall's to set", f"use {OURS[name]}")
    for key in sut.env:
        if key.startswith("SQUALL_"):
            raise ScenarioError(file, f"sut.env.{key}", "is squall's to set", "leave it out")
    if sut.engine == "witness" and sut.worker_args:
        raise ScenarioError(file, "sut.worker_args", "the witness engine takes no arguments",
                            "use sut.engine_options, or `engine: mocker`")  # fmt: skip
    if sut.engine == "mocker" and sut.engine_options.misbehave:
        raise ScenarioError(file, "sut.engine_options.misbehave", "the mocker can't misbehave on demand",
                            "use `engine: witness`")  # fmt: skip


def _fixed_ports(scenario: Scenario) -> list[int]:
    if scenario.sut.platform != "local":  # every host has all its ports
        return []
    first = scenario.sut.http_port
    return [first + n for n in range(scenario.sut.frontends)] if first else []


def provision(
    scenario: Scenario, run: RunDir, owner: Literal["run", "up"], sut_id: str, say: Callable[[str], None],
    kept: contextlib.ExitStack | None = None,
) -> SutState:  # fmt: skip
    """Start all processes at once and return when the system is ready; sut.json describes it.

    `kept` keeps the ports reserved until it is closed (else until all is ready).

    On any failure everything that was started is ended first. Raises UsageError (venv, model),
    ProvisionError (a process ended, or isn't ready in time; with its log's last lines).
    """
    preflight(scenario, str(run.scenario))
    version = scenario.sut.dynamo
    assert version is not None  # config checks it
    began = clock.now_ns()
    model_dir = model.ensure(say) if scenario.sut.model_dir is None else Path(scenario.sut.model_dir)
    placed = hosts.plan(scenario.sut.platform, sut_id, commands.names(scenario))
    site = commands.Site(
        hosts=placed, python=venv.python(version), model_dir=model_dir.resolve(), model_name=model.MODEL_NAME, run=run,
        sut_id=sut_id, control_token=ids.token(), version_env=venv.spec(version).env, caller_env=os.environ,
    )  # fmt: skip
    state = SutState(
        sut_id=sut_id, owner=owner, dynamo=version, engine=scenario.sut.engine,
        oracle="witness" if scenario.sut.engine == "witness" else "count", model=site.model_name, urls=[],
        control_token=site.control_token, discovery_dir=str(run.discovery),
        namespaces=hosts.namespaces(placed, sut_id), vantage=placed[hosts.CLIENT].netns,
    )  # fmt: skip
    try:
        shutil.rmtree(run.discovery, ignore_errors=True)  # what an earlier system left must not be found
        run.discovery.mkdir(mode=0o700)
        sutfile.save(run, state)
        hosts.build(placed, sut_id)
        with contextlib.ExitStack() as held:
            free = (kept or held).enter_context(ports.reserved(commands.port_count(scenario)))
            planned = commands.processes(scenario, site, free)
            servers = [process for process in planned if process.role in planes.ROLES]
            if servers:
                _start(state, servers, run, say)
                ready.wait(state, scenario.sut.ready_timeout_s)
            _start(state, planned[len(servers) :], run, say)
            ready.wait(state, scenario.sut.ready_timeout_s)
    except BaseException:
        teardown(state)
        raise
    say(f"ready after {(clock.now_ns() - began) / clock.NS:.1f} s: {', '.join(state.urls)}")
    return state


def _start(state: SutState, planned: list[sutfile.Process], run: RunDir, say: Callable[[str], None]) -> None:
    """Start each process and write it down at once."""
    what = "" if planned[0].role in planes.ROLES else f"Dynamo {state.dynamo}: "
    say(f"starting {what}{', '.join(process.name for process in planned)}")
    for process in planned:
        assert process.log is not None and process.cwd is not None
        try:
            who = proc.spawn_detached(process.argv, process.env, Path(process.log), Path(process.cwd))
        except OSError as error:
            raise ProvisionError(f"{process.name}: {process.argv[0]} can't be started: {error}") from None
        process.pid, process.start_ticks = who
        state.processes.append(process)
        if process.role == "frontend":
            state.urls.append(f"http://{process.address}:{process.port}")
        sutfile.save(run, state)


def attach(scenario: Scenario, run: RunDir, sut_id: str) -> SutState:
    """Describe an outside system in sut.json. Raises UsageError, TargetError."""
    return outside.attach(scenario, run, sut_id)


def teardown(state: SutState) -> list[Identity]:
    """End every process of the system, restarted ones too; the ones alive even then are returned.

    Paused ones are continued first. An outside system is left alone.
    """
    if state.owner == "outside":
        return []
    known = [process.identity for process in state.processes]
    ours = [*{*known, *proc.marked(proc.SUT_ENV, state.sut_id)}]
    left = proc.stop_all(ours, GRACE_S)
    proc.collect(ours)
    left = [*{*left, *proc.marked(proc.SUT_ENV, state.sut_id)}]
    if not left:
        netns.remove(netns.prefix(state.sut_id))
    if not left and state.discovery_dir is not None:
        shutil.rmtree(state.discovery_dir, ignore_errors=True)
    return left
