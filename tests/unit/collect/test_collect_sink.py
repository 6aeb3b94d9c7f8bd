"""Records survive the process that wrote them, and their number is written down only at an orderly end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.collect.sink import Sink
from harness.core import rundir
from harness.core.records import RequestRecord
from harness.core.rundir import RunDir

ROOT = Path(__file__).resolve().parents[3]


def record(n: int) -> RequestRecord:
    return RequestRecord(
        request_id=f"id-{n}", worker_index=0, user_class="ChatUser", route="chat", t_due_ns=n, t_start_ns=n,
        t_end_ns=n + 1, outcome="ok", gaps_us=[1, 2, 3], error="line\nbreak",
    )  # fmt: skip


def rows(run: RunDir, worker: int = 0) -> list[RequestRecord]:
    return [msgspec.json.decode(x, type=RequestRecord) for x in run.records(worker).read_bytes().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return rundir.create(tmp_path / "run")


def test_written_records_are_there_at_once(run: RunDir) -> None:
    sink = Sink(run, 0)
    for n in range(3):
        sink.write(record(n))
        assert len(rows(run)) == n + 1
    assert not run.records_done(0).exists()
    assert sink.close() == sink.close() == 3
    assert run.records_done(0).read_text() == "3\n"
    assert rows(run) == [record(n) for n in range(3)]


def test_no_requests_is_a_count_of_0(run: RunDir) -> None:
    assert Sink(run, 1).close() == 0
    assert run.records_done(1).read_text() == "0\n"
    assert rows(run, 1) == []


def test_a_second_load_goes_on_and_a_torn_line_stays_one_line(run: RunDir) -> None:
    sink = Sink(run, 0)
    sink.write(record(1))
    sink.close()
    with run.records(0).open("ab") as file:
        file.write(b'{"request_id":')
    sink = Sink(run, 0)
    assert not run.records_done(0).exists()  # the old number is no longer true
    sink.write(record(2))
    assert sink.close() == 3
    lines = run.records(0).read_bytes().splitlines()
    assert [line[:14] for line in lines] == [b'{"request_id":'] * 3
    assert lines[1] == b'{"request_id":'


def test_kill_9_leaves_what_was_written_and_no_row_count(run: RunDir) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness.collect.sink import Sink\n"
        "from harness.core.records import RequestRecord\nfrom harness.core.rundir import RunDir\n"
        "sink = Sink(RunDir(Path(sys.argv[1])), 0)\n"
        "for n in range(50):\n"
        "    sink.write(RequestRecord(request_id=str(n), worker_index=0, user_class='U', route='chat', t_due_ns=0,"
        " t_start_ns=0, t_end_ns=0, outcome='ok'))\n"
        "print('written', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    assert [r.request_id for r in rows(run)] == [str(n) for n in range(50)]
    assert not run.records_done(0).exists()


def test_a_full_disk_is_an_error_not_a_lost_record(run: RunDir) -> None:
    run.records(0).symlink_to("/dev/full")
    sink = Sink.__new__(Sink)
    sink._fd, sink._encoder, sink.rows = os.open("/dev/full", os.O_WRONLY), msgspec.json.Encoder(), 0
    try:
        with pytest.raises(OSError, match="No space"):
            sink.write(record(1))
        assert sink.rows == 0
    finally:
        os.close(sink._fd)
