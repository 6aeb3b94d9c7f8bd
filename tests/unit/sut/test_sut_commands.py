"""argv and environment of every process, as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core import config, proc
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.sut import commands, hosts
from harness.sut.commands import Site


def scenario(**sut: Any) -> Scenario:
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    return config.build({"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1", **sut}, "load": load}, "t")


def site(tmp_path: Path, platform: str = "local", **caller_env: str) -> Site:
    names = [f"{role}-{n}" for role in ("frontend", "worker", "prefill") for n in (1, 2)]
    return Site(
        hosts=hosts.plan(platform, "sut-1", names), python=Path("/venv/bin/python"), model_dir=Path("/model"), model_name="m", run=RunDir(tmp_path),
        sut_id="sut-1", control_token="secret", version_env={"DYN_TCP_RESPONSE_STREAM_HOST": "{interface}"},
        caller_env=caller_env,
    )  # fmt: skip


def test_one_frontend_and_two_witnesses(tmp_path: Path) -> None:
    plan = scenario(migration_limit=0, frontend_args=["--router-mode", "kv"])
    assert commands.port_count(plan) == 5
    found = commands.processes(plan, site(tmp_path), [1, 2, 3, 4, 5])
    assert [(p.name, p.role, p.index, p.port, p.control_port) for p in found] == [
        ("frontend-1", "frontend", 1, 1, None), ("worker-1", "worker", 1, None, 3),
        ("worker-2", "worker", 2, None, 5),
    ]  # fmt: skip
    frontend, worker, _ = found
    assert frontend.argv == [
        "/venv/bin/python", "-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", "1",
        "--migration-limit", "0", "--router-mode", "kv",
    ]  # fmt: skip
    assert frontend.health == ["http://127.0.0.1:1/health"]
    assert worker.metrics == "http://127.0.0.1:2/metrics"
    assert worker.env["DYN_SYSTEM_PORT"] == "2"
    assert worker.env["SQUALL_SEGMENTS"] == str(tmp_path / "logs" / "worker-1.segments.jsonl")
    options = json.loads(worker.env["SQUALL_WITNESS"])
    assert (options["control_port"], options["ttft_ms"], options["misbehave"]) == (3, 50, [])
    assert Path(worker.argv[1]).is_file()
    assert Path(options["words"]).is_file()
    assert "SQUALL_WITNESS_TOKEN" not in frontend.env


def test_the_mockers_argv(tmp_path: Path) -> None:
    plan = scenario(engine="mocker", engine_type="sglang", worker_args=["--startup-time", "1"],
                    engine_options={"kv_blocks": 7, "block_size": 8, "max_num_seqs": 9})  # fmt: skip
    worker = commands.processes(plan, site(tmp_path), [1, 2, 3, 4, 5])[1]
    assert worker.argv[1:] == [
        "-m", "dynamo.mocker", "--model-path", "/model", "--model-name", "m", "--engine-type", "sglang",
        "--block-size", "8", "--num-gpu-blocks-override", "7", "--max-num-seqs", "9", "--startup-time", "1",
    ]  # fmt: skip
    assert worker.control_port is None
    assert "SQUALL_WITNESS" not in worker.env


def test_disaggregated_mockers_are_prefill_and_decode(tmp_path: Path) -> None:
    plan = scenario(engine="mocker", workers=1, prefill_workers=2, migration_max_seq_len=300)
    assert commands.port_count(plan) == 7
    found = commands.processes(plan, site(tmp_path), list(range(1, 8)))
    assert [(p.name, p.role, p.argv[-1]) for p in found[1:]] == [
        ("worker-1", "worker", "decode"), ("prefill-1", "prefill", "prefill"), ("prefill-2", "prefill", "prefill"),
    ]  # fmt: skip
    assert found[3].env[proc.TARGET_ENV] == "prefill-2"
    assert found[3].health == ["http://127.0.0.1:6/health"]
    assert found[0].argv[-2:] == ["--migration-max-seq-len", "300"]


def test_without_prefill_workers_nobody_is_told_a_mode(tmp_path: Path) -> None:
    found = commands.processes(scenario(engine="mocker"), site(tmp_path), [1, 2, 3, 4, 5])
    assert all("--disaggregation-mode" not in p.argv for p in found)
    assert "--migration-max-seq-len" not in found[0].argv


def test_environment_is_small_ours_and_overridable(tmp_path: Path) -> None:
    plan = scenario(env={"DYN_REQUEST_PLANE": "x", "EXTRA": "1"})
    caller = {"PATH": "/bin", "SECRET": "s", "DYN_NAMESPACE": "leak", "PYTHONPATH": "leak", proc.RUN_ENV: "r"}
    env = commands.processes(plan, site(tmp_path, **caller), [1, 2, 3, 4, 5])[0].env
    assert "SECRET" not in env
    assert "PYTHONPATH" not in env
    assert "DYN_NAMESPACE" not in env
    assert env["PATH"] == "/bin"
    assert env[proc.RUN_ENV] == "r"
    assert (env[proc.SUT_ENV], env[proc.TARGET_ENV]) == ("sut-1", "frontend-1")
    assert env["DYN_TCP_RPC_HOST"] == env["DYN_EVENT_PLANE_HOST"] == env["DYN_SYSTEM_HOST"] == "127.0.0.1"
    assert env["DYN_TCP_RESPONSE_STREAM_HOST"] == "lo"  # the version's own
    assert (env["DYN_REQUEST_PLANE"], env["EXTRA"]) == ("x", "1")
    assert env["DYN_FILE_KV"] == str(tmp_path / "discovery")


def test_fixed_frontend_ports_follow_each_other(tmp_path: Path) -> None:
    plan = scenario(frontends=2, workers=1, http_port=8123)
    found = commands.processes(plan, site(tmp_path), [1, 2, 3, 4])
    assert [p.port for p in found if p.role == "frontend"] == [8123, 8124]


def test_on_netns_everything_is_at_its_hosts_address(tmp_path: Path) -> None:
    plan = scenario(platform="netns")
    assert commands.names(plan) == ["frontend-1", "worker-1", "worker-2"]
    where = site(tmp_path, platform="netns")
    found = commands.processes(plan, where, [1, 2, 3, 4, 5])
    for process in found:
        host = where.hosts[process.name]
        assert (process.address, process.netns) == (host.address, host.netns)
        assert process.argv[:3] == ["nsenter", f"--net=/run/netns/{host.netns}", "--"]
        keys = ("DYN_TCP_RPC_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
        assert {process.env[key] for key in keys} == {host.address}
        assert process.env["DYN_TCP_RESPONSE_STREAM_HOST"] == "eth0"
        assert "127.0.0.1" not in json.dumps([process.argv, process.env, process.health, process.metrics])
    frontend = found[0]
    assert frontend.argv[frontend.argv.index("--http-host") + 1] == frontend.address
    assert frontend.health == [f"http://{frontend.address}:1/health"]
    assert len({process.address for process in found} | {where.hosts[hosts.CLIENT].address}) == 4
