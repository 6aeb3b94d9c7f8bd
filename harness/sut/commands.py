"""What to start: argv and environment of every process of the system, as a pure function.

Nothing is started here. A process gets a small environment of its own (no DYN_* of the caller leaks
in), written to sut.json so that a restart is the same as the first start.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.core import proc, words
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.core.sutfile import Process
from harness.sut import canary, model, planes
from harness.sut.hosts import Host
from harness.sut.place import Place

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "RUST_LOG")
WITNESS_MAIN = Path(__file__).with_name("witness") / "main.py"


@dataclass(frozen=True)
class Site:
    """Where a system is put: what the scenario doesn't say."""

    hosts: Mapping[str, Host]  # of each process, by its name
    python: Path  # of Dynamo's venv
    model_dir: Path
    model_name: str
    run: RunDir
    sut_id: str
    control_token: str
    version_env: Mapping[str, str]  # of configs/sut/<version>.yaml; {address}, {interface}: the host's
    caller_env: Mapping[str, str]
    planes_env: Mapping[str, str] = field(default_factory=dict)  # how Dynamo's processes find each other


def names(scenario: Scenario) -> list[str]:
    """Every planned process; on netns each gets a host of its own."""
    sut = scenario.sut
    planned = (
        *sut.servers.items(), ("frontend", sut.frontends), ("worker", sut.workers), ("prefill", sut.prefill_workers),
    )  # fmt: skip
    return [f"{role}-{index}" for role, count in planned for index in range(1, count + 1)]


def port_count(scenario: Scenario) -> int:
    """Ports to reserve: two an etcd member or NATS, one a frontend, two a worker (system, control)."""
    sut = scenario.sut
    return 2 * (len(planes.names(sut)) + sut.workers + sut.prefill_workers) + sut.frontends


def processes(scenario: Scenario, site: Site, ports: list[int]) -> list[Process]:
    """All processes to start, pid 0 for now, in the order in which they need each other.

    `ports`: port_count() free ones. Raises UsageError when a server's binary is missing.
    """
    sut = scenario.sut
    rest = iter(ports)
    places = [Place(name, site.hosts[name], next(rest), next(rest)) for name in planes.names(sut)]
    site = dataclasses.replace(site, planes_env=planes.dynamo_env(sut, places, site.run.discovery))
    found = planes.processes(places, site.run, site.sut_id, lambda name: _plain_env(site, name))
    for index in range(1, sut.frontends + 1):
        free = next(rest)
        found.append(frontend(scenario, site, index, sut.http_port + index - 1 if sut.http_port else free))
    for role, count in (("worker", sut.workers), ("prefill", sut.prefill_workers)):
        found += [
            worker(scenario, site, role, index, next(rest), next(rest)) for index in range(1, count + 1)
        ]
    return found


def frontend(scenario: Scenario, site: Site, index: int, port: int) -> Process:
    """One frontend listening on `port`."""
    host = site.hosts[f"frontend-{index}"]
    argv = [
        str(site.python), "-m", "dynamo.frontend", "--http-host", host.address, "--http-port", str(port),
        "--migration-limit", str(scenario.sut.migration_limit),
    ]  # fmt: skip
    if scenario.sut.migration_max_seq_len is not None:
        argv += ["--migration-max-seq-len", str(scenario.sut.migration_max_seq_len)]
    argv += scenario.sut.frontend_args
    return _process(site, "frontend", index, argv, _env(scenario, site, f"frontend-{index}"), port)


def worker(
    scenario: Scenario, site: Site, role: str, index: int, system_port: int, control_port: int
) -> Process:
    """One engine (role worker or prefill) with its health and metrics on `system_port`."""
    sut, options = scenario.sut, scenario.sut.engine_options
    name = f"{role}-{index}"
    env = _env(scenario, site, name)
    env |= {"DYN_SYSTEM_PORT": str(system_port), **canary.env(scenario, site.model_dir)}
    if sut.engine == "witness":
        argv = [str(site.python), str(WITNESS_MAIN)]
        env["SQUALL_WITNESS"] = json.dumps(
            {
                "words": words.__file__, "model_dir": str(site.model_dir), "model_name": site.model_name,
                "control_port": control_port, "context_length": model.CONTEXT_LENGTH,
                **msgspec.to_builtins(options),
            }
        )  # fmt: skip
        env["SQUALL_WITNESS_TOKEN"] = site.control_token
        env["SQUALL_SEGMENTS"] = str(site.run.segments(name))
    else:
        env.setdefault("DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS", '["generate"]')  # else it never says ready
        argv = [
            str(site.python), "-m", "dynamo.mocker", "--model-path", str(site.model_dir),
            "--model-name", site.model_name, "--engine-type", sut.engine_type,
            "--block-size", str(options.block_size), "--num-gpu-blocks-override", str(options.kv_blocks),
            "--max-num-seqs", str(options.max_num_seqs),
        ]  # fmt: skip
        if sut.prefill_workers:
            argv += ["--disaggregation-mode", "prefill" if role == "prefill" else "decode"]
        argv += sut.worker_args
    found = _process(site, role, index, argv, env, system_port)
    found.control_port = control_port if sut.engine == "witness" else None
    found.port = None  # its service port is chosen by Dynamo
    return found


def _process(site: Site, role: str, index: int, argv: list[str], env: dict[str, str], port: int) -> Process:
    name = f"{role}-{index}"
    host = site.hosts[name]
    base = f"http://{host.address}:{port}"
    return Process(
        name=name, role=role, index=index, pid=0, start_ticks=0, argv=host.argv(argv), env=env,
        cwd=str(site.run.path), log=str(site.run.log(name)), port=port, health=[f"{base}/health"],
        live=[f"{base}/live"], metrics=f"{base}/metrics", address=host.address, netns=host.netns,
    )  # fmt: skip


def _plain_env(site: Site, name: str) -> dict[str, str]:
    """What every process gets, Dynamo's or not."""
    env = {key: site.caller_env[key] for key in INHERITED if key in site.caller_env}
    if proc.RUN_ENV in site.caller_env:
        env[proc.RUN_ENV] = site.caller_env[proc.RUN_ENV]
    return {**env, proc.SUT_ENV: site.sut_id, proc.TARGET_ENV: name}


def _env(scenario: Scenario, site: Site, name: str) -> dict[str, str]:
    marks, host = _plain_env(site, name), site.hosts[name]
    return {
        **marks,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DYN_SDK_DISABLE_ANSI_LOGGING": "1",
        **site.planes_env,
        "DYN_TCP_RPC_HOST": host.address,
        "DYN_EVENT_PLANE_HOST": host.address,
        "DYN_SYSTEM_HOST": host.address,
        **{key: host.filled(value) for key, value in site.version_env.items()},
        **scenario.sut.env,
        proc.SUT_ENV: marks[proc.SUT_ENV],
        proc.TARGET_ENV: name,
    }
