"""Which servers a scenario wants, how they are started, and what Dynamo is told; real binaries at the end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.core import clock, config, health, proc
from harness.core.config import Scenario
from harness.core.errors import ScenarioError
from harness.core.rundir import RunDir
from harness.sut import commands, etcd, nats, planes, ready
from harness.sut.commands import Site
from harness.sut.hosts import LOCAL, Host
from harness.sut.place import Place
from tests.fixtures.planes_lab import servers


def scenario(**sut: Any) -> Scenario:
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    return config.build({"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1", **sut}, "load": load}, "t.yaml")


def site(tmp_path: Path, plan: Scenario) -> Site:
    return Site(
        hosts=dict.fromkeys(commands.names(plan), LOCAL),
        python=Path("/venv/bin/python"), model_dir=Path("/model"), model_name="m", run=RunDir(tmp_path),
        sut_id="sut-1", control_token="secret", version_env={}, caller_env={"ETCD_NAME": "x", "PATH": "/bin"},
    )  # fmt: skip


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "find", lambda command: f"/opt/{command}")


@pytest.mark.usefixtures("installed")
def test_three_members_and_nats_come_first(tmp_path: Path) -> None:
    plan = scenario(discovery="etcd", etcd_members=3, request_plane="nats", workers=1)
    count = commands.port_count(plan)
    found = commands.processes(plan, site(tmp_path, plan), list(range(1, count + 1)))
    assert [p.name for p in found] == ["etcd-1", "etcd-2", "etcd-3", "nats-1", "frontend-1", "worker-1"]
    first, server, worker = found[0], found[3], found[5]
    assert first.argv[0] == "/opt/etcd" and first.port == 1
    at = first.argv.index("--initial-cluster")
    assert (
        first.argv[at + 1] == "etcd-1=http://127.0.0.1:2,etcd-2=http://127.0.0.1:4,etcd-3=http://127.0.0.1:6"
    )
    assert first.argv[first.argv.index("--data-dir") + 1] == str(tmp_path / "discovery" / "etcd-1")
    assert (first.health, first.metrics) == (["http://127.0.0.1:1/health"], "http://127.0.0.1:1/metrics")
    assert first.env == {"PATH": "/bin", proc.SUT_ENV: "sut-1", proc.TARGET_ENV: "etcd-1"}
    assert server.argv == ["/opt/nats-server", "-a", "127.0.0.1", "-p", "7", "-m", "8", "--name", "nats-1"]
    assert (server.health, server.metrics) == (["http://127.0.0.1:8/healthz"], None)
    assert worker.env["ETCD_ENDPOINTS"] == "http://127.0.0.1:1,http://127.0.0.1:3,http://127.0.0.1:5"
    assert worker.env["NATS_SERVER"] == "nats://127.0.0.1:7"
    assert (worker.env["DYN_DISCOVERY_BACKEND"], worker.env["DYN_REQUEST_PLANE"]) == ("etcd", "nats")
    assert "DYN_FILE_KV" not in worker.env


def test_files_and_tcp_need_no_server(tmp_path: Path) -> None:
    plan = scenario(workers=1)
    found = commands.processes(plan, site(tmp_path, plan), [1, 2, 3])
    env = found[0].env
    assert [p.name for p in found] == ["frontend-1", "worker-1"]
    assert (env["DYN_DISCOVERY_BACKEND"], env["DYN_REQUEST_PLANE"]) == ("file", "tcp")
    assert env["DYN_FILE_KV"] == str(tmp_path / "discovery")
    assert not {"ETCD_ENDPOINTS", "NATS_SERVER"} & set(env)


@pytest.mark.parametrize(
    ("sut", "text"),
    [
        ({"discovery": "etcd"}, "sut.discovery: 'etcd' needs `etcd`, which isn't on the PATH; apt-get install etcd-server"),
        ({"request_plane": "nats"}, "sut.request_plane: 'nats' needs `nats-server`, which isn't on the PATH; apt-get install nats-server"),
    ],
)  # fmt: skip
def test_a_missing_server_is_named_with_its_package(
    sut: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes.check(scenario(), "t.yaml")
    monkeypatch.setattr(planes, "find", lambda command: None)
    with pytest.raises(ScenarioError, match=text):
        planes.check(scenario(**sut), "t.yaml")


@pytest.mark.parametrize(("members", "discovery"), [(2, "etcd"), (3, "file")])
def test_member_counts_that_make_no_sense(members: int, discovery: str) -> None:
    with pytest.raises(ScenarioError, match=r"sut\.etcd_members"):
        scenario(etcd_members=members, discovery=discovery)


@pytest.mark.parametrize(
    ("body", "says"),
    [({"health": "true"}, True), ({"health": "false"}, False), ({"health": "maybe"}, None), ({"health": True}, None),
     ({"status": "ok"}, True), ({"status": "unavailable"}, False), ([], None)],
)  # fmt: skip
def test_health_bodies_of_every_server(body: Any, says: bool | None) -> None:
    assert health.ready(body) is says


@pytest.mark.etcd
def test_three_members_agree_on_a_leader_and_one_comes_back_with_its_data(tmp_path: Path) -> None:
    with servers(tmp_path, etcd=3) as lab:
        members = lab.state.role("etcd")
        urls = {one.name: one.health[0].removesuffix("/health") for one in members}
        said = {name: etcd.status(url) for name, url in urls.items()}
        listed = etcd.members(urls["etcd-1"])
        assert listed is not None and set(listed) == set(urls)
        leaders = {one.leader for one in said.values() if one}
        assert len(leaders) == 1 and leaders <= set(listed.values())
        assert {name: one.member_id for name, one in said.items() if one} == listed
        victim = next(one for one in members if listed[one.name] in leaders)
        lab.ports().processes.signal(victim.identity, signal.SIGKILL)
        others = [url for name, url in urls.items() if name != victim.name]
        assert clock.wait_until(
            lambda: all((s := etcd.status(url)) and s.leader not in {None, *leaders} for url in others), 20
        )
        assert etcd.status(urls[victim.name]) is None and etcd.members(urls[victim.name]) is None
        assert victim.cwd is not None and victim.log is not None
        proc.spawn_detached(victim.argv, victim.env, Path(victim.log), Path(victim.cwd))
        assert clock.wait_until(lambda: etcd.status(urls[victim.name]) is not None, 20)
        assert etcd.members(urls[victim.name]) == listed  # the same member, not a new one


@pytest.mark.etcd
def test_a_member_without_a_quorum_names_no_leader_and_is_red(tmp_path: Path) -> None:
    with servers(tmp_path, etcd=3) as lab:
        first, *others = lab.state.role("etcd")
        for one in others:
            os.kill(one.pid, signal.SIGKILL)
        url = first.health[0].removesuffix("/health")
        assert clock.wait_until(lambda: (s := etcd.status(url)) is not None and s.leader is None, 20)
        answer = ready.ask(first.health[0])
        assert answer is None or health.ready(answer.json()) is False


@pytest.mark.nats
def test_nats_says_who_is_connected_and_to_what_each_listens(tmp_path: Path) -> None:
    with servers(tmp_path, nats=1) as lab:
        [server] = lab.state.role("nats")
        monitor = server.health[0].removesuffix("/healthz")
        assert nats.connections(monitor) == []
        with socket.create_connection(("127.0.0.1", server.port or 0)) as client:
            client.sendall(b'CONNECT {"verbose":false}\r\nSUB some.subject 1\r\nPING\r\n')
            mine = nats.Connection("127.0.0.1", client.getsockname()[1], ("some.subject",))
            assert clock.wait_until(lambda: nats.connections(monitor) == [mine], 10)
        assert clock.wait_until(lambda: nats.connections(monitor) == [], 10)
        os.kill(server.pid, signal.SIGKILL)
        assert clock.wait_until(lambda: nats.connections(monitor) is None, 10)


def test_the_place_of_a_member_is_in_its_urls() -> None:
    place = Place("etcd-1", Host("10.1.2.3", "ns"), 2379, 2380)
    assert etcd.client_url(place) == "http://10.1.2.3:2379"
    assert nats.url(place) == "nats://10.1.2.3:2379"
    assert nats.monitor_url(place) == "http://10.1.2.3:2380"
