"""Starting and ending systems: the mocker, failures that must name their cause, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sutclient import System, scenario_of

from harness.core import clock, config, proc, rundir, sutfile, words
from harness.core.errors import ProvisionError, ScenarioError, TargetError
from harness.core.rundir import RunDir
from harness.sut import launch, model, ready, venv

pytestmark = [pytest.mark.sut, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def mocker(start: Callable[..., System]) -> System:
    return start(engine="mocker", workers=2, frontends=2, worker_args=["--speedup-ratio", "10"])


def begin(run: RunDir, **sut: object) -> sutfile.SutState:
    return launch.provision(scenario_of(**sut), run, "run", f"test-{run.path.name}", lambda _line: None)


def test_the_mocker_speaks(mocker: System) -> None:
    reply = mocker.ask("baba beba", 30)
    assert len(reply.text.split()) == 30
    assert reply.usage["prompt_tokens"] == model.count_chat([("user", "baba beba")])
    assert mocker.state.oracle == "count"
    assert set(ready.instances(mocker.state)) == {"worker-1", "worker-2"}


def test_sut_json_names_the_processes_that_listen(mocker: System) -> None:
    assert sutfile.load(mocker.run) == mocker.state
    assert [f"http://127.0.0.1:{p.port}" for p in mocker.state.role("frontend")] == mocker.state.urls
    for process in mocker.state.role("frontend"):
        assert process.port in proc.listening_ports(process.pid)
    for process in mocker.state.processes:
        env = proc.environ(process.pid)
        assert (env[proc.SUT_ENV], env[proc.TARGET_ENV]) == (mocker.state.sut_id, process.name)


def test_a_taken_port_is_named_before_anything_starts(mocker: System) -> None:
    frontend = mocker.state.process("frontend-1")
    with pytest.raises(ScenarioError, match=rf"port {frontend.port} is taken by process {frontend.pid} "):
        launch.preflight(scenario_of(http_port=frontend.port), "x.yaml")


def test_an_outside_system_by_url(mocker: System, tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    sut = {"url": mocker.state.urls[0], "model": model.MODEL_NAME, "oracle": "count"}
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}

    def scenario(**more: object) -> config.Scenario:
        return config.build({"schema": 1, "name": "o", "sut": {**sut, **more}, "load": load}, "o.yaml")

    pid = mocker.state.process("worker-1").pid
    state = launch.attach(scenario(targets=[{"role": "worker", "pid": pid}]), run, "o")
    assert sutfile.load(run) == state
    assert state.process("worker-1").identity == mocker.state.process("worker-1").identity
    assert launch.teardown(state) == []
    assert proc.alive(mocker.state.process("worker-1").identity)  # not ours to end
    with pytest.raises(ScenarioError, match="'nobody' is not offered; it has squall-words"):
        launch.preflight(scenario(model="nobody"), "o.yaml")
    with pytest.raises(TargetError, match="pid 4194399"):
        launch.preflight(scenario(targets=[{"role": "worker", "pid": 4194399}]), "o.yaml")


def test_a_worker_that_dies_at_start_shows_its_log(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    with pytest.raises(ProvisionError) as caught:
        begin(run, engine="mocker", workers=1, worker_args=["--no-such-option"])
    assert "worker-1 ended with exit code 2" in str(caught.value)
    assert "unrecognized arguments: --no-such-option" in str(caught.value)
    assert nothing_left(run)


def test_who_is_not_ready_in_time_is_named(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    with pytest.raises(ProvisionError, match=r"not ready after 0\.1 s.*frontend-1.*\n.*no answer"):
        begin(run, workers=1, ready_timeout_s=0.1)
    assert nothing_left(run)


def test_teardown_ends_stopped_and_forgotten_processes(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    state = begin(run, workers=1)
    everybody = [process.identity for process in state.processes]
    os.kill(state.process("worker-1").pid, 19)  # SIGSTOP
    state.processes = state.processes[:1]  # as if killed before sut.json was written
    assert launch.teardown(state) == []
    assert not any(proc.alive(who) for who in everybody)
    assert not run.discovery.exists()


def test_counts_equal_the_real_tokenizer(tmp_path: Path) -> None:
    import json
    import random

    draw = random.Random(3)
    alphabet = "abcdefgke:  \n\t'sxyz09!é½²中   ßA<|im_end|>"
    texts = []
    for _ in range(1500):
        some = " ".join(draw.choice(words.WORDS) for _ in range(draw.randrange(30)))
        noise = "".join(draw.choice(alphabet) for _ in range(draw.randrange(30)))
        texts += [noise, f"{some}\nkey: baba babe", model.render([("system", noise), ("user", some + noise)])]
    source = (
        "import json, sys\nfrom tokenizers import Tokenizer\nt = Tokenizer.from_file(sys.argv[1])\n"
        "print(json.dumps([len(t.encode(x).ids) for x in json.load(open(sys.argv[2]))]))\n"
    )
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    tokenizer = model.ensure(lambda _line: None) / "tokenizer.json"
    argv = [str(venv.python("1.6.1")), "-c", source, str(tokenizer), str(tmp_path / "texts.json")]
    done = proc.run(argv)
    assert done.code == 0, done.err
    assert json.loads(done.out) == [model.count_text(text) for text in texts]


def nothing_left(run: RunDir) -> bool:
    """No process of the run's system, no discovery directory."""
    gone = clock.wait_until(lambda: not proc.marked(proc.SUT_ENV, f"test-{run.path.name}"), 5)
    return gone and not run.discovery.exists()
