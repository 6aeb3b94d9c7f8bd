"""The observer as its parent sees it: a real child process, real servers that die, hang and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metrics_server import Target, free_port, serving

from harness.collect import observe
from harness.core import clock, proc, rundir, sutfile
from harness.core.rundir import RunDir
from harness.core.sutfile import Process, SutState

pytestmark = pytest.mark.slow  # starts many real processes

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 20


def process(name: str, target: Target, pid: int | None = None) -> Process:
    role, _, index = name.partition("-")
    pid = os.getpid() if pid is None else pid
    stat = proc.stat(pid)
    return Process(
        name=name, role=role, index=int(index), pid=pid, start_ticks=stat.start_ticks if stat else 0,
        port=target.port, health=[target.url("/health"), target.url("/live")], metrics=target.url("/metrics"),
    )  # fmt: skip


def state(*processes: Process, **changes: Any) -> SutState:
    return SutState(
        sut_id="s", owner="run", oracle="witness", model="m", urls=[], processes=list(processes), **changes
    )


class Child:
    """The observer's process, driven through its pipes."""

    def __init__(self, run: RunDir, **env: str) -> None:
        self.run = run
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness.collect.observe", "--run-dir", str(run.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, **env},
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def scrape(self, label: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"scrape {label}\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> tuple[int, str, str]:
        """Close stdin; exit code, rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err

    def rows(self, kind: str) -> list[dict[str, Any]]:
        path = self.run.path / f"{kind}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until(self, kind: str, **wanted: Any) -> None:
        """Wait for a row with these values in the file: it is flushed while the observer runs."""

        def there() -> bool:
            return any(all(row[k] == v for k, v in wanted.items()) for row in self.rows(kind))

        assert clock.wait_until(there, WAIT_S), (wanted, self.rows(kind)[-3:])


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = rundir.create(tmp_path / "run")
    rundir.write_json(made.manifest, {"anchor": {"mono_ns": clock.now_ns(), "wall_ns": clock.wall_ns()}})
    return made


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        if child.process.poll() is None:
            child.process.kill()
        child.process.communicate()


def start(children: list[Child], run: RunDir, **env: str) -> Child:
    child = Child(run, **env)
    children.append(child)
    assert child.line() == "ready\n"
    return child


def test_protocol_rows_and_end(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        assert child.scrape("before kill") == "scraped before kill\n"
        target.metrics = (200, "dynamo_x_total 2\n")
        assert child.scrape("after") == "scraped after\n"
        assert clock.wait_until(lambda: any(path == "/live" for path, _ in target.requests), WAIT_S)
        assert child.end() == (0, "", "")
    samples, probes = child.rows("samples"), child.rows("probes")
    assert {2.0} < {row["value"] for row in samples}  # the scrape was done before it was answered
    assert set(samples[0]) == {"t_ns", "process", "metric", "labels", "value"}
    assert set(probes[0]) == {"t_ns", "process", "path", "http_status", "ready", "latency_us", "error"}
    assert {(row["process"], row["path"], row["ready"]) for row in probes} == {
        ("worker-1", "/health", True), ("worker-1", "/live", True),
    }  # fmt: skip
    assert all(0 < row["t_ns"] < 60 * clock.NS for row in probes + samples)


def test_red_while_hanging_other_urls_go_on(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as bad, serving(Target()) as good:
        sutfile.save(run, state(process("worker-1", bad), process("frontend-1", good)))
        child = start(children, run)
        child.until("probes", process="worker-1", ready=True)
        bad.hang.set()
        child.until("probes", process="worker-1", error="timeout", http_status=0, ready=None)
        assert child.end()[0] == 0
    rows = child.rows("probes")
    red = next(r for r in rows if r["error"] == "timeout")
    during = [
        r for r in rows if r["process"] == "frontend-1"
        and red["t_ns"] < r["t_ns"] < red["t_ns"] + 1000 * red["latency_us"]
    ]  # fmt: skip
    assert during  # 20 on an idle machine: two URLs at 10 Hz for a second
    assert all(r["ready"] for r in during)


def test_end_of_stdin_ends_it_while_a_target_hangs(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as target:
        target.hang.set()
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        assert clock.wait_until(lambda: len(target.requests) >= 2, WAIT_S)
        assert child.end()[0] == 0
    # the probe in flight at the end was still written
    assert any(row["error"] == "timeout" for row in child.rows("probes"))
    assert child.rows("samples") == []


def test_unhealthy_body_with_http_200_is_not_ready(run: RunDir, children: list[Child]) -> None:
    with serving(Target(health=(200, b'{"status":"unhealthy"}'))) as target:
        sutfile.save(run, state(process("frontend-1", target)))
        child = start(children, run)
        child.until("probes", http_status=200, ready=False)
        target.health = (200, b"\xff{{{")
        child.until("probes", http_status=200, ready=None)
        assert child.end()[0] == 0


def test_killed_and_restarted_elsewhere_is_followed(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as old:
        sutfile.save(run, state(process("worker-1", old)))
        child = start(children, run)
        child.until("probes", ready=True)
    child.until("probes", error="refused")
    assert child.scrape("dead") == "scraped dead\n"
    with serving(Target(metrics=(200, "dynamo_y_total 7\n"), health=(200, b'{"status":"ready"}'))) as new:
        assert new.port != old.port
        run.sut.write_text("{ torn")
        sutfile.save(run, state(process("worker-1", new)))
        child.until("samples", metric="dynamo_y_total", process="worker-1", value=7.0)
        assert clock.wait_until(lambda: len(new.requests) > 5, WAIT_S)
        assert child.end()[0] == 0
    ports = [r["path"] for r in child.rows("probes")]
    assert set(ports) == {"/health", "/live"}


def test_rows_wait_for_the_anchor(run: RunDir, children: list[Child]) -> None:
    rundir.write_json(run.manifest, {"anchor": None})
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        child.scrape("early")
        assert child.rows("samples") == []
        anchor = clock.anchor_now()
        rundir.write_json(run.manifest, {"anchor": {"mono_ns": anchor.mono_ns, "wall_ns": anchor.wall_ns}})
        assert child.end()[0] == 0
    assert min(row["t_ns"] for row in child.rows("samples")) < 0


def test_a_load_that_never_started_has_no_rows(run: RunDir, children: list[Child]) -> None:
    run.manifest.unlink()
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        child.scrape("x")
        assert child.end()[0] == 0
    assert child.rows("samples") == []


def test_signals_do_not_end_it(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.process.send_signal(sig)
        assert child.scrape("alive") == "scraped alive\n"
        assert child.end()[0] == 0


def test_the_parents_death_ends_it(run: RunDir, tmp_path: Path) -> None:
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        script = (
            "import subprocess,sys\n"
            f"p=subprocess.Popen([{sys.executable!r},'-m','harness.collect.observe','--run-dir',{str(run.path)!r}],"
            f"stdin=subprocess.PIPE,stdout=subprocess.PIPE,cwd={str(ROOT)!r})\n"
            "p.stdout.readline()\nprint(p.pid,flush=True)\nsys.stdin.read()\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        who = proc.identify(int(parent.stdout.readline()))
        assert who is not None
        parent.kill()
        parent.communicate()
        assert clock.wait_until(lambda: not proc.alive(who), WAIT_S)
    assert run.probes_jsonl.read_text().endswith("}\n")


def test_no_system_is_exit_2(run: RunDir, children: list[Child]) -> None:
    child = Child(run)
    children.append(child)
    code, out, err = child.end()
    assert (code, out) == (2, "")
    assert "sut.json" in err


def test_a_full_disk_is_not_exit_0(run: RunDir, children: list[Child]) -> None:
    run.probes_jsonl.symlink_to("/dev/full")
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        child = start(children, run)
        assert clock.wait_until(lambda: len(target.requests) >= 3, WAIT_S)
        code, _, err = child.end()
    assert code != 0
    assert "No space left" in err


def test_outside_system_by_url_with_headers_from_the_environment(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as target:
        outside = state(
            health=[target.url("/health")], metrics=[target.url("/metrics")],
            headers_env={"Authorization": "T_KEY", "X-Absent": "T_NOT_THERE"},
        )  # fmt: skip
        sutfile.save(run, outside)
        child = start(children, run, T_KEY="Bearer s3")
        child.until("samples", process=f"127.0.0.1:{target.port}")
        child.until("probes", process=f"127.0.0.1:{target.port}", path="/health")
        assert child.end()[0] == 0
        assert {h.get("Authorization") for _, h in target.requests} == {"Bearer s3"}
        assert not any("X-Absent" in h for _, h in target.requests)


def test_instances_are_followed_and_named_by_their_port(run: RunDir, children: list[Child]) -> None:
    with serving(Target()) as frontend, serving(Target()) as worker:
        nobody = free_port()
        frontend.instances(a=worker.port, b=nobody)
        lister = process("frontend-1", frontend, pid=1 << 22)
        del lister.health[1]
        sutfile.save(run, state(process("worker-1", worker), lister))
        child = start(children, run)
        labels = {
            i: json.dumps({"endpoint": "generate", "instance_id": i, "worker": w}, separators=(",", ":"))
            for i, w in (("a", "worker-1"), ("b", ""))
        }
        for text in labels.values():
            child.until(
                "samples", process="frontend-1", metric="squall_instance_listed", labels=text, value=1.0
            )
        frontend.instances(b=nobody)
        child.until(
            "samples", process="frontend-1", metric="squall_instance_listed", labels=labels["a"], value=0.0
        )
        assert child.end()[0] == 0
    rows = [r for r in child.rows("samples") if r["metric"] == "squall_instance_listed"]
    assert len(rows) == 3  # changes only


def test_urls_owned_by_a_process_are_not_watched_twice() -> None:
    target = Target(port=80)
    one = process("worker-1", target)
    system = state(one, health=[*one.health, "https://u:p@host:9/health"], metrics=["http://other/metrics"])
    assert {(s.process, s.url) for s in observe.health_urls(system)} == {
        ("worker-1", target.url("/health")), ("worker-1", target.url("/live")),
        ("host:9", "https://u:p@host:9/health"),
    }  # fmt: skip
    assert {s.process for s in observe.metrics_urls(system)} == {"worker-1", "other"}


def test_a_dead_thread_is_reported(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of exit 4: whatever kills a prober's thread, its missing rows are named."""
    dying = threading.Event()

    def die(*_: object) -> None:
        dying.set()

    monkeypatch.setattr(observe.prober, "run", die)
    with serving(Target()) as target:
        sutfile.save(run, state(process("worker-1", target)))
        observer = observe.Observer(run)
        observer.start()
        assert dying.wait(WAIT_S)
        probers = [t for (kind, _), (_, t) in observer._threads.items() if kind == "probe"]
        for thread in probers:
            thread.join(WAIT_S)
        assert len(observer.close()) == len(probers) == 2
