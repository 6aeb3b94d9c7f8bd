"""Wrong input: exit 2, a message that names file, path, value and remedy, and nothing changed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pipeline import QUICKSTART, sets, squall

CASES = [
    (["sut.workerz=3"], ["sut.workerz", "3", "`workers`"]),
    (["load.duration_ms=3"], ["load.duration_ms", "`duration_s`", "unit"]),
    (["load.warmup_s=8s"], ["load.warmup_s", "'8s'"]),
    (["faults.0.fault=process.kil"], ["faults[0].fault", "process.kil", "process.kill"]),
    (["faults.0.restart_afer_s=3"], ["faults[0]", "restart_afer_s", "restart_after_s"]),
    (["faults.1.hold_ms=3"], ["hold_ms", "hold_s"]),
    (["faults.0.select.role=router"], ["faults[0].select.role", "router", "worker"]),
    (["faults.0.select.count=0"], ["faults[0].select.count", "0"]),
    (["faults.0.select.count=3"], ["faults[0].select", "3", "2"]),
    (["gates.0.metric=ttft_p98_ms"], ["gates[0].metric", "ttft_p98_ms", "ttft_p9"]),
    (["gates.0.window=fault:kil"], ["gates[0].window", "fault:kil", "fault:kill"]),
    (["known=[{violation: lost_tokens, reason: old, expires: 2020-01-31}]"], ["known[0].expires", "2020-01-31"]),
    (["compare={looks: [2]}"], ["compare.looks", "[2]"]),
    (["compare={metrics: [ttft_p98_ms]}"], ["compare.metrics", "ttft_p98_ms", "ttft_p99_ms"]),
    (['compare={metrics: ["ttft_p50_ms@fault:kil"]}'], ["compare", "fault:kil", "fault:kill"]),
    (['sut.dynamo="0.0.1"'], ["0.0.1", "1.6.1"]),
    (["sut.model_dir=/nonexistent"], ["sut.model_dir", "/nonexistent"]),
    (["sut.platform=kubernetes"], ["sut.platform", "kubernetes", "local"]),
    (["sut={url: \"http://127.0.0.1:1\", model: m}", "faults=[]"], ["127.0.0.1:1"]),
    (["sut={url: \"http://127.0.0.1:1\", model: m, headers_env: {A: NO_SUCH_VARIABLE}}", "faults=[]"], ["NO_SUCH_VARIABLE"]),
    (["sut={url: \"http://127.0.0.1:1\", model: m, targets: [{role: worker, pid: 4194304}]}", "faults=[]"], ["4194304"]),
]  # fmt: skip


@pytest.mark.sut
@pytest.mark.parametrize(("overrides", "pieces"), CASES, ids=[c[0][0][:40] for c in CASES])
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_refused_before_anything_changes(
    verb: str, overrides: list[str], pieces: list[str], tmp_path: Path
) -> None:
    where = ["--out", str(tmp_path / "run")] if verb == "run" else []
    done = squall(verb, str(QUICKSTART), *sets(*overrides), *where, out=tmp_path / "run")
    assert done.code == 2, done.out + done.err
    for piece in pieces:
        assert piece in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sut
def test_a_taken_port_names_its_owner(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = squall("run", str(QUICKSTART), *sets(f"sut.http_port={port}"), "--out", str(tmp_path / "run"),
                      out=tmp_path / "run")  # fmt: skip
    assert done.code == 2
    assert str(port) in done.err
    assert "sut.http_port" in done.err


@pytest.mark.parametrize(
    "argv", [["run", "absent.yaml"], ["report", "absent"], ["recover", "absent"], ["faults", "process.kil"]]
)
def test_absent_things_are_named(argv: list[str], tmp_path: Path) -> None:
    done = squall(*argv, out=tmp_path / "x")
    assert done.code == 2
    assert argv[-1] in done.err
    assert "Traceback" not in done.err


def test_two_plans_are_equal_in_bytes_and_another_seed_is_not(tmp_path: Path) -> None:
    argv = ["plan", str(QUICKSTART), "--json"]
    first, second = squall(*argv, out=tmp_path / "x"), squall(*argv, out=tmp_path / "x")
    assert first.code == 0, first.err
    assert first.out == second.out
    other = squall(*argv, "--seed", "2", out=tmp_path / "x")
    assert other.out != first.out
    import json

    assert json.loads(other.out)["first_prompts_sha256"] != json.loads(first.out)["first_prompts_sha256"]


def test_help_teaches(tmp_path: Path) -> None:
    for argv in (["--help"], ["run", "--help"], ["up", "--help"]):
        done = squall(*argv, out=tmp_path / "x")
        assert done.code == 0
        assert "squall" in done.out
    assert "exit codes" in squall("--help", out=tmp_path / "x").out
