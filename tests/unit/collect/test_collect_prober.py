"""A probe's row says what a health check would have seen, and is there when nothing answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from metrics_server import Target, free_port, raw, serving

from harness.collect import prober
from harness.core import clock
from harness.core.records import Probe


def probe(url: str) -> Probe:
    return prober.probe("worker-1", url, {})[0]


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        ('{"status":"healthy","instances":[]}', True),
        ('{"status":"ready","uptime":{"secs":3}}', True),
        ('{"status":"live"}', True),
        ('{"status":"unhealthy"}', False),
        ('{"status":"notready"}', False),
        ('{"status":"NotReady"}', False),
        ('{"status":"draining"}', False),
        ('{"status":"never heard of"}', None),
        ('{"status":1}', None),
        ('{"other":"healthy"}', None),
        ('["healthy"]', None),
        ("OK", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_ready_is_what_the_body_says_not_the_status_line(body: str, ready: bool | None) -> None:
    with serving(Target(health=(200, body.encode()))) as target:
        row = probe(target.url("/health"))
    assert (row.http_status, row.ready, row.error) == (200, ready, None)
    assert (row.process, row.path) == ("worker-1", "/health")
    assert row.latency_us > 0


def test_503_keeps_its_body() -> None:
    with serving(Target(health=(503, b'{"status":"notready"}'))) as target:
        row = probe(target.url("/health"))
    assert (row.http_status, row.ready, row.error) == (503, False, None)


def test_refused_is_a_row() -> None:
    row = probe(f"http://127.0.0.1:{free_port()}/live")
    assert (row.http_status, row.ready, row.error, row.path) == (0, None, "refused", "/live")


def test_a_hanging_target_is_one_red_row_from_its_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "TIMEOUT_S", 0.2)
    with serving(Target()) as target:
        target.hang.set()
        before = clock.now_ns()
        row = probe(target.url("/health"))
    assert (row.http_status, row.ready, row.error) == (0, None, "timeout")
    assert before <= row.t_ns
    assert row.latency_us >= 200_000


def test_garbage_is_a_row() -> None:
    with raw(b"\x00\xff\r\n\r\n") as url:
        row = probe(url)
    assert row.http_status == 0
    assert row.error is not None
    assert row.error.startswith("bad answer")


def test_run_goes_on_after_failures_and_stops() -> None:
    rows: list[Probe] = []
    seen, stop = threading.Event(), threading.Event()

    def emit(row: Probe, body: Any) -> None:
        rows.append(row)
        if row.http_status == 200:
            seen.set()

    port = free_port()
    thread = threading.Thread(
        target=prober.run, args=("f", f"http://127.0.0.1:{port}/health", {}, stop, emit)
    )
    thread.start()
    try:
        assert clock.wait_until(lambda: len(rows) >= 3, 20)
        with serving(Target(), port):
            assert seen.wait(20)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert rows[0].error == "refused"
    starts = [row.t_ns for row in rows]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts)


def test_slow_probes_skip_instants_and_never_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a probe longer than the period, the next starts on the grid after it, one at a time."""
    now = [0]
    sleeps: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            sleeps.append(timeout)
            now[0] += round(timeout * clock.NS)
            return False

    def slow(process: str, url: str, headers: object) -> tuple[Probe, None]:
        row = Probe(now[0], process, "/", 0, None, 0, None)
        now[0] += 250 * clock.MS
        return row, None

    rows: list[Probe] = []
    stop = Stop()
    monkeypatch.setattr(prober, "probe", slow)
    monkeypatch.setattr(prober.clock, "now_ns", lambda: now[0])

    def emit(row: Probe, body: object) -> None:
        rows.append(row)
        if len(rows) == 4:
            stop.set()

    prober.run("f", "http://x/", {}, stop, emit)
    assert [row.t_ns // clock.MS for row in rows] == [0, 300, 600, 900]
    assert min(sleeps) >= 0
