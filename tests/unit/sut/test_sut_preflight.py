"""What is refused before anything starts: each with file, path and remedy."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.core import config, netns, proc
from harness.core.config import Scenario
from harness.core.errors import ProvisionError, ScenarioError, TargetError, UsageError
from harness.sut import launch, outside, ports, venv


def scenario(**sut: Any) -> Scenario:
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    whole = sut if "url" in sut else {"dynamo": "1.6.1", **sut}
    return config.build({"schema": 1, "name": "t", "sut": whole, "load": load}, "t.yaml")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo counts as installed: what is checked here comes before it would be used."""
    monkeypatch.setattr(venv, "python", lambda version: Path("/venv") / version)


def test_a_plain_scenario_passes() -> None:
    launch.preflight(scenario(), "t.yaml")


@pytest.mark.parametrize(
    ("sut", "text"),
    [
        ({"worker_args": ["--x"]}, "sut.worker_args: the witness engine takes no arguments"),
        ({"frontend_args": ["--http-port=1"]}, "sut.frontend_args: '--http-port=1' is squall's to set; use sut.http_port"),
        ({"engine": "mocker", "worker_args": ["--model-path", "x"]}, "use sut.model_dir"),
        ({"env": {"SQUALL_SUT_ID": "x"}}, "sut.env.SQUALL_SUT_ID: is squall's to set"),
        ({"engine": "mocker", "engine_options": {"misbehave": [{"kind": "drop", "one_in": 2}]}}, "can't misbehave"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(sut: dict[str, Any], text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        launch.preflight(scenario(**sut), "t.yaml")
    assert text in str(caught.value)


def test_hosts_of_their_own_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ScenarioError, match=r"sut\.platform: `netns` needs root, .*: start it with sudo; or"):
        launch.preflight(scenario(platform="netns"), "t.yaml")
    launch.preflight(scenario(platform="local"), "t.yaml")


def test_hosts_of_their_own_need_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda command, path: None if command == "ip" else command)
    with pytest.raises(
        ScenarioError, match=r"`netns` needs `ip`, which is missing: apt-get install iproute2"
    ):
        launch.preflight(scenario(platform="netns"), "t.yaml")


def test_an_outside_system_has_no_platform() -> None:
    with pytest.raises(ScenarioError, match=r"sut\.platform: 'netns' doesn't go with sut\.url; an outside"):
        scenario(url="http://h", model="m", platform="netns")
    assert scenario(url="http://h", model="m").sut.platform == "local"


def test_one_network_has_room_for_so_many_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "refusal", lambda: None)
    launch.preflight(scenario(platform="netns", workers=249), "t.yaml")
    with pytest.raises(ScenarioError, match=r"sut\.workers: 251 processes are more hosts .* at most 250"):
        launch.preflight(scenario(platform="netns", workers=250), "t.yaml")


def test_a_fixed_port_of_a_host_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "refusal", lambda: None)
    with ports.reserved(1) as (port,), socket.create_server(("127.0.0.1", port)):
        launch.preflight(scenario(platform="netns", http_port=port), "t.yaml")


def test_an_unreadable_model_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sut\.model_dir: .*config\.json: No such file"):
        launch.preflight(scenario(model_dir=str(tmp_path)), "t.yaml")


def test_a_taken_port_names_its_owner() -> None:
    with ports.reserved(1) as (port,):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            with pytest.raises(ScenarioError, match=rf"port {port} is taken by process {os.getpid()} "):
                launch.preflight(scenario(http_port=port), "t.yaml")
            with pytest.raises(ScenarioError, match=f"port ({port - 1}|{port}) is taken"):
                launch.preflight(scenario(http_port=port - 1, frontends=2), "t.yaml")
        launch.preflight(scenario(http_port=port), "t.yaml")


def test_reserved_ports_are_free_different_and_low() -> None:
    with ports.reserved(40) as found:
        assert len(set(found)) == 40
        assert all(ports.LOW <= port < ports.HIGH and ports.is_free(port) for port in found)


def test_a_reserved_port_is_nobody_elses_also_within_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "HIGH", ports.LOW + 40)  # so few that two reservations would meet
    with ports.reserved(15) as mine:
        with ports.reserved(15) as others:
            assert not {*mine} & {*others}
        with pytest.raises(ProvisionError, match="TCP ports"), ports.reserved(30):
            pass


def test_a_port_in_use_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with ports.reserved(1) as (port,), socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not ports.is_free(port)


def test_headers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sut = scenario(url="http://h", model="m", headers_env={"Authorization": "SOME_KEY"}).sut
    monkeypatch.setenv("SOME_KEY", "Bearer x")
    assert outside.headers(sut) == {"Authorization": "Bearer x"}
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(UsageError, match=r"sut\.headers_env\.Authorization: variable SOME_KEY isn't set"):
        outside.headers(sut)
    monkeypatch.setenv("SOME_KEY", "a\r\nX-Evil: 1")
    with pytest.raises(UsageError, match="line break"):
        outside.headers(sut)


def test_an_unreachable_url_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"sut\.url: {url} can't be reached"):
            launch.preflight(scenario(url=url, model="m"), "t.yaml")


def test_an_absent_pid_is_named_first() -> None:
    sut = {"url": "http://127.0.0.1:9", "model": "m", "targets": [{"role": "worker", "pid": 4194399}]}
    with pytest.raises(TargetError, match=r"sut\.targets\[0\]: no process has pid 4194399"):
        launch.preflight(scenario(**sut), "t.yaml")


@pytest.mark.parametrize(
    ("pids", "text"),
    [
        ([1], "init"),
        ([os.getpid()], "squall itself or a parent of it"),
        ([os.getppid()], "squall itself or a parent of it"),
    ],
)
def test_a_target_that_no_fault_may_touch_is_refused(pids: list[int], text: str) -> None:
    targets = [{"role": "worker", "pid": pid} for pid in pids]
    sut = {"url": "http://127.0.0.1:9", "model": "m", "targets": targets}
    with pytest.raises(ScenarioError, match=rf"sut\.targets\[0\]\.pid: pid {pids[0]} .* is {text}"):
        launch.preflight(scenario(**sut), "t.yaml")


def test_a_target_named_twice_or_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = proc.spawn_detached(["sleep", "60"], {"PATH": os.defpath}, tmp_path / "log")
    try:
        one = {"role": "worker", "pid": who.pid}
        sut = {"url": "http://127.0.0.1:9", "model": "m"}
        with pytest.raises(ScenarioError, match=r"sut\.targets\[1\]\.pid: .* is named twice"):
            launch.preflight(scenario(**sut, targets=[one, one]), "t.yaml")
        monkeypatch.setattr(proc, "may_signal", lambda who: False)
        with pytest.raises(ScenarioError, match="belongs to another user; run squall as that user"):
            launch.preflight(scenario(**sut, targets=[one]), "t.yaml")
    finally:
        proc.stop_all([who])
        proc.collect([who])
