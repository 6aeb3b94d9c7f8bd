"""The master's side of several Locust processes, with workers that are played here, honest ones and others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import msgspec
import pytest

from harness import fleet, messages
from harness.collect import ship
from harness.core import clock, config, manifest, rundir
from harness.core.clock import MS, Anchor
from harness.core.errors import InvalidRun, UsageError
from harness.core.records import RequestRecord
from harness.core.sutfile import SutState
from harness.fleet import Fleet
from harness.generator import Trial
from harness.messages import Closed, Hello
from harness.traffic.totals import Totals

SCENARIO = config.build(
    {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
     "load": {"duration_s": 9, "users": [{"class": "ChatUser", "count": 4}]}}, "t.yaml",
)  # fmt: skip


class Runner:
    """Locust's master runner, as far as a Fleet knows it; `workers` answer what is sent to them."""

    def __init__(self) -> None:
        self.heard: dict[str, Callable[..., None]] = {}
        self.workers: dict[str, Played] = {}
        self.state = "running"
        self.clients = self

    def register_message(self, name: str, listener: Callable[..., None]) -> None:
        self.heard[name] = listener

    def send_message(self, kind: str, data: Any, client_id: str) -> None:
        self.workers[client_id].told(kind, data)

    def say(self, client_id: str, kind: str, data: Any) -> None:
        self.heard[kind](environment=None, msg=SimpleNamespace(node_id=client_id, data=data, type=kind))

    @property
    def ready(self) -> list[Any]:
        return [SimpleNamespace(id=name) for name in self.workers]

    def get_worker_index(self, client_id: str) -> int:
        return list(self.workers).index(client_id)


class Played:
    """One worker: its clock is ours + ahead_ns, and each message takes way_ns longer than it does."""

    def __init__(self, runner: Runner, name: str, ahead_ns: int = 0, **differs: Any) -> None:
        self.runner, self.name, self.ahead_ns = runner, name, ahead_ns
        self.plan: messages.Plan | None = None
        self.got: list[tuple[str, Any]] = []
        self.shipper = ship.Shipper()
        self.deaf = False
        runner.workers[name] = self
        here = messages.hello(manifest.version(), "host-of-" + name)
        if ahead_ns:
            differs.setdefault("clock", f"clock of {name}")
        self.hello = msgspec.structs.replace(here, pids="elsewhere", **differs)

    def greet(self) -> None:
        self.runner.say(self.name, messages.HELLO, messages.plain(self.hello))

    def told(self, kind: str, data: Any) -> None:
        self.got.append((kind, data))
        if kind == messages.PLAN:
            self.plan = messages.read(data, messages.Plan)
        if kind == messages.CLOCK and not self.deaf:
            now_ns = clock.now_ns() + self.ahead_ns
            self.runner.say(self.name, messages.CLOCK, [data, now_ns, now_ns])

    def live(self, **totals: Any) -> None:
        self.runner.say(self.name, messages.LIVE, messages.plain(Totals(**totals)))

    def close(
        self, sent: int, rows: int | None = None, chunks: int | None = None, shipped: bool = False
    ) -> None:
        last = ship.pack(self.shipper.take())
        count = self.shipper.count()
        closed = Closed(
            Totals(sent=sent), sent if rows is None else rows, {"hub_lag_p99_ms": 1.0, "cpu_s": 2.0},
            (count.chunks if chunks is None else chunks) if shipped else None, last if shipped else [],
        )  # fmt: skip
        self.runner.say(self.name, messages.CLOSED, messages.plain(closed))


class Lab:
    """A fleet of played workers in a run directory."""

    def __init__(self, path: Path) -> None:
        self.run = rundir.create(path / "run")
        self.runner, self.problems = Runner(), []
        self.reports: list[Callable[..., None]] = []
        events = SimpleNamespace(worker_report=SimpleNamespace(add_listener=self.reports.append))
        environment = SimpleNamespace(runner=self.runner, events=events)
        self.fleet = Fleet(environment, self.problems.append)
        self.anchor = Anchor(clock.now_ns(), clock.wall_ns())

    def begin(self, urls: tuple[str, ...] = ("http://127.0.0.1:1",)) -> None:
        for worker in self.runner.workers.values():
            worker.greet()
        self.fleet.gather()
        state = SutState(
            sut_id="s", owner="run", oracle="witness", model="m", urls=list(urls), control_token="secret"
        )
        self.fleet.begin(self.run, Trial(SCENARIO, state, "run-1", self.anchor))

    def report(self, worker: Played, chunks: list[ship.Chunk]) -> None:
        """What goes with one of Locust's own reports."""
        for listener in self.reports:
            listener(client_id=worker.name, data={messages.RECORDS: ship.pack(chunks)})


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    for name in ("STOP_S", "CLOSE_S", "GATHER_S", "ROUND_S"):
        monkeypatch.setattr(fleet, name, 0.05)
    lab = Lab(tmp_path)
    yield lab
    lab.fleet._stop_watching()


def record(n: int, index: int = 0) -> RequestRecord:
    return RequestRecord(
        request_id=f"id-{n}", worker_index=index, user_class="ChatUser", route="chat", t_due_ns=n, t_start_ns=n,
        t_end_ns=n + 1, outcome="ok",
    )  # fmt: skip


def test_a_plan_has_the_workers_own_clock_and_no_secret(lab: Lab) -> None:
    near, far = Played(lab.runner, "near"), Played(lab.runner, "far", ahead_ns=7 * clock.NS)
    lab.begin()
    assert near.plan is not None and far.plan is not None
    assert near.plan.anchor == (lab.anchor.mono_ns, lab.anchor.wall_ns)
    assert far.plan.anchor[0] - lab.anchor.mono_ns == pytest.approx(7 * clock.NS, abs=20 * MS)
    assert [(one.plan.worker_index, one.plan.worker_count) for one in (near, far) if one.plan] == [
        (0, 2),
        (1, 2),
    ]
    assert "secret" not in repr(near.plan)
    assert not any(kind == messages.CLOCK for kind, _ in near.got), "the same clock needs no questions"


def test_totals_are_the_sum_of_what_they_said_last(lab: Lab) -> None:
    one, other = Played(lab.runner, "a"), Played(lab.runner, "b")
    lab.begin()
    one.live(sent=5, in_flight=3, past={50: 2})
    one.live(sent=6, in_flight=2, past={50: 1})
    other.live(sent=1, in_flight=1, past={50: 1})
    assert lab.fleet.totals() == Totals(sent=7, in_flight=3, past={50: 2})
    assert lab.fleet.processes == 2


def test_no_two_users_get_the_same_number(lab: Lab) -> None:
    one, other = Played(lab.runner, "a"), Played(lab.runner, "b")
    lab.begin()
    for worker, asked in (
        (one, {"ChatUser": 2}),
        (other, {"ChatUser": 1, "CompletionUser": 1}),
        (one, {"ChatUser": 1}),
    ):
        lab.runner.say(worker.name, messages.NUMBERS, asked)
    given = [data for worker in (one, other) for kind, data in worker.got if kind == messages.NUMBERS]
    assert sorted(n for one in given for n in one.get("ChatUser", [])) == [0, 1, 2, 3]
    assert {n for one in given for n in one.get("CompletionUser", [])} == {0}


def test_all_closed_is_no_problem(lab: Lab) -> None:
    one, other = Played(lab.runner, "a"), Played(lab.runner, "b")
    lab.begin()
    lab.runner.state = "stopping"
    one.close(sent=5)
    other.close(sent=3)
    measured = lab.fleet.end()
    assert (measured.problems, lab.problems, measured.rows, measured.totals.sent) == ([], [], 8, 8)
    assert measured.generator["cpu_s"] == 4
    assert measured.generator["master_cpu_s"] >= 0
    assert [told["sent"] for told in measured.generator["workers"]] == [5, 3]


@pytest.mark.parametrize(
    ("played", "problem"),
    [
        ({"sent": 5, "rows": 4}, "sent 5 requests and wrote 4 records"),
        (None, "didn't close its records in time"),
    ],
)
def test_a_count_that_does_not_close_is_told(lab: Lab, played: dict[str, int] | None, problem: str) -> None:
    one, other = Played(lab.runner, "a"), Played(lab.runner, "b")
    lab.begin()
    lab.runner.state = "stopping"
    other.close(sent=1)
    if played is not None:
        one.close(**played)
    (found,) = lab.fleet.end().problems
    assert problem in found and "host-of-a" in found
    assert (("stop", None) in one.got) is (played is None), "asked once more"


def shipping(lab: Lab) -> tuple[Played, list[ship.Chunk]]:
    """A worker that ships three chunks of two records."""
    far = Played(lab.runner, "far", ahead_ns=clock.NS)
    lab.begin()
    lab.runner.state = "stopping"
    chunks = []
    for n in range(6):
        far.shipper.write(record(n))
        if n % 2:
            chunks += far.shipper.take()
    return far, chunks


def test_shipped_records_are_written_as_they_come(lab: Lab) -> None:
    far, chunks = shipping(lab)
    lab.report(far, chunks[:2])
    assert len(lab.run.records(0).read_bytes().splitlines()) == 4
    lab.report(far, chunks[2:])
    far.close(sent=6, shipped=True)
    measured = lab.fleet.end()
    assert (measured.problems, measured.rows) == ([], 6)
    assert lab.run.records_done(0).read_text() == "6\n"
    (told,) = measured.generator["workers"]
    assert told["shipped"] and told["clock_offset_ns"] == pytest.approx(clock.NS, abs=20 * MS)
    assert abs(told["clock_offset_ns"] - clock.NS) <= told["clock_error_ns"]


@pytest.mark.parametrize(
    ("spoil", "said", "problem"),
    [
        (lambda chunks: [chunks[0], chunks[2]], {}, "1 of 3 chunks never came: 1"),
        (lambda chunks: [*chunks, chunks[1]], {}, None),
        (lambda chunks: [*chunks[:2], msgspec.structs.replace(chunks[2], number=0)], {}, "came twice"),
        (lambda chunks: chunks, {"sent": 7}, "it shipped 7 records, 6 came"),
        (lambda chunks: chunks, {"chunks": 4}, "1 of 4 chunks never came: 3"),
    ],
)  # fmt: skip
def test_what_is_lost_or_doubled_on_the_way_is_seen(
    lab: Lab, spoil: Callable[[list[ship.Chunk]], list[ship.Chunk]], said: dict[str, int], problem: str | None
) -> None:
    far, chunks = shipping(lab)
    lab.report(far, spoil(chunks))
    far.close(**{"sent": 6, **said}, shipped=True)
    problems = lab.fleet.end().problems
    assert any(problem in one for one in problems) if problem else problems == []
    ids = [msgspec.json.decode(line)["request_id"] for line in lab.run.records(0).read_bytes().splitlines()]
    assert len(ids) == len(set(ids))


def test_a_clock_that_steps_is_told(lab: Lab) -> None:
    far, chunks = shipping(lab)
    lab.report(far, chunks)
    far.ahead_ns -= 30 * MS
    far.close(sent=6, shipped=True)
    measured = lab.fleet.end()
    assert any("which is no drift" in one for one in measured.problems)
    (told,) = measured.generator["workers"]
    assert told["clock_drift_ns"] == pytest.approx(-30 * MS, abs=5 * MS)
    assert told["clock_error_ns"] >= 25 * MS


def test_a_worker_that_never_answers_has_no_clock(lab: Lab) -> None:
    Played(lab.runner, "far", ahead_ns=clock.NS).deaf = True
    with pytest.raises(InvalidRun, match="its clock is unknown"):
        lab.begin()


def test_who_can_not_take_part_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no worker is ready"):
        lab.fleet.gather()
    silent = Played(lab.runner, "plain")
    with pytest.raises(UsageError, match="no worker of squall"):
        lab.fleet.gather()
    silent.hello = msgspec.structs.replace(silent.hello, version="0.0.9")
    with pytest.raises(UsageError, match=r"is squall 0\.0\.9, this is"):
        lab.begin()


def test_loopback_is_out_of_reach_of_another_host(lab: Lab) -> None:
    Played(lab.runner, "far", boot="another boot")
    with pytest.raises(UsageError, match="can't reach http://127"):
        lab.begin()
    lab.begin(urls=("http://10.0.0.7:8000",))


def test_a_worker_that_joins_while_the_load_goes_on_is_told(lab: Lab) -> None:
    Played(lab.runner, "a")
    lab.begin()
    lab.runner.workers["a"].greet()
    assert lab.problems == [], "a greeting that comes again"
    Played(lab.runner, "late").greet()
    assert len(lab.problems) == 1 and "joined on host-of-late" in lab.problems[0]


def test_a_worker_that_ends_before_it_is_told_to_is_told(lab: Lab) -> None:
    one = Played(lab.runner, "a")
    lab.begin()
    one.close(sent=5)
    assert len(lab.problems) == 1 and "ended before the load did" in lab.problems[0]


def test_a_process_that_dies_is_told_with_what_is_there(lab: Lab) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = Played(lab.runner, "a")
    one.hello = msgspec.structs.replace(one.hello, pid=child.pid, pids=messages.hello("", "").pids)
    lab.begin()
    one.live(sent=5, in_flight=2)
    lab.run.records(0).write_bytes(b"{}\n{}\n{}\n")
    gevent.sleep(2 * fleet.LOOK_S)
    assert lab.problems == [], "it lives"
    child.kill()
    child.communicate()
    with gevent.Timeout(10):
        while not lab.problems:
            gevent.sleep(0.01)
    assert "host-of-a" in lab.problems[0]
    assert "of 5 requests that it sent, 3 records are there" in lab.problems[0]
    lab.runner.state = "stopping"
    measured = lab.fleet.end()
    assert (measured.totals.sent, measured.rows) == (5, 3)


def test_a_worker_that_falls_silent_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "SILENT_S", 0.1)
    Played(lab.runner, "a")
    lab.begin()
    with gevent.Timeout(10):
        while not lab.problems:
            gevent.sleep(0.01)
    assert "has said nothing for" in lab.problems[0]


def test_a_message_of_another_shape_is_no_hello(lab: Lab) -> None:
    Played(lab.runner, "a")
    lab.runner.say("a", messages.HELLO, {"version": 1})
    with pytest.raises(UsageError, match="no worker of squall"):
        lab.fleet.gather()


def test_the_hello_names_this_process() -> None:
    one: Hello = messages.hello("1", "h")
    assert messages.read(messages.plain(one), Hello) == one
    assert one.clock.startswith(one.boot) and one.pids.startswith(one.boot)
