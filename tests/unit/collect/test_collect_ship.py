"""Records that travel: all of them arrive, and whatever doesn't is known by number, twice over."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.collect import merge, ship
from harness.collect.ship import Chunk, Count, Receiver, Shipper
from harness.core import rundir
from harness.core.records import RequestRecord
from harness.core.rundir import RunDir


def record(n: int, error: str = "line\nbreak") -> RequestRecord:
    return RequestRecord(
        request_id=f"id-{n}", worker_index=1, user_class="ChatUser", route="chat", t_due_ns=n, t_start_ns=n,
        t_end_ns=n + 1, outcome="ok", gaps_us=[1, 2, 3], error=error,
    )  # fmt: skip


def shipped(rows: int, chunks: int) -> tuple[list[Chunk], Count]:
    """`rows` records in `chunks` chunks, and what the process says at its end."""
    shipper, found = Shipper(), []
    for n in range(rows):
        shipper.write(record(n))
        if (n + 1) % (rows // chunks) == 0:
            found += shipper.take()
    return found, shipper.count()


def missing(run: RunDir) -> list[str]:
    """What a later reader of the run's files misses in the records."""
    for path in (run.samples_jsonl, run.probes_jsonl, run.journal, run.records(0)):
        path.touch()
    run.records_done(0).write_text("0\n")
    return [one for one in merge.merge(run).missing if "records" in one]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return rundir.create(tmp_path / "run")


def received(run: RunDir) -> list[str]:
    lines = run.records(1).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=RequestRecord).request_id for line in lines]


def test_what_is_shipped_arrives_whole_and_in_order(run: RunDir) -> None:
    chunks, count = shipped(12, 4)
    assert (count, [one.number for one in chunks]) == (Count(12, 4), [0, 1, 2, 3])
    receiver = Receiver(run, 1)
    for chunk in ship.unpack(ship.pack(chunks)):
        receiver.add(chunk)
    assert receiver.close(count) == []
    assert received(run) == [f"id-{n}" for n in range(12)]
    assert run.records_done(1).read_text() == "12\n"
    assert missing(run) == []


def test_a_chunk_is_on_disk_as_soon_as_it_came(run: RunDir) -> None:
    chunks, _ = shipped(4, 2)
    receiver = Receiver(run, 1)
    receiver.add(chunks[0])
    assert received(run) == ["id-0", "id-1"]
    assert not run.records_done(1).exists()
    assert receiver.close(None) == ["it never said how many records it shipped (2 came)"]
    assert any("records-1.done is missing" in one for one in missing(run))


def test_a_lost_chunk_is_named_and_the_rest_is_there(run: RunDir) -> None:
    chunks, count = shipped(12, 4)
    receiver = Receiver(run, 1)
    for chunk in (chunks[0], chunks[3]):
        receiver.add(chunk)
    assert receiver.close(count) == [
        "2 of 4 chunks never came: 1, 2",
        "it shipped 12 records, 6 came",
    ]
    assert received(run) == ["id-0", "id-1", "id-2", "id-9", "id-10", "id-11"]
    assert missing(run) == ["records-1.done says 12 rows, 6 are there"]


def test_a_chunk_that_comes_twice_counts_once(run: RunDir) -> None:
    chunks, count = shipped(6, 2)
    receiver = Receiver(run, 1)
    for chunk in (*chunks, chunks[0]):
        receiver.add(chunk)
    assert (receiver.rows, receiver.close(count)) == (6, [])
    assert len(received(run)) == 6


def test_a_chunk_that_comes_too_late_is_missed_and_not_written(run: RunDir) -> None:
    chunks, count = shipped(6, 2)
    receiver = Receiver(run, 1)
    receiver.add(chunks[0])
    assert receiver.close(count)[0] == "1 of 2 chunks never came: 1"
    receiver.add(chunks[1])
    assert received(run) == ["id-0", "id-1", "id-2"]


def test_two_chunks_of_one_number_are_no_repetition(run: RunDir) -> None:
    chunks, count = shipped(6, 2)
    receiver = Receiver(run, 1)
    for chunk in (*chunks, msgspec.structs.replace(chunks[1], number=0)):
        receiver.add(chunk)
    assert receiver.close(count) == ["chunk 0 came twice, with different records"]


def test_a_damaged_chunk_is_no_chunk(run: RunDir) -> None:
    chunks, count = shipped(6, 2)
    receiver = Receiver(run, 1)
    receiver.add(chunks[0])
    receiver.add(msgspec.structs.replace(chunks[1], data=chunks[1].data[:-5]))
    assert "chunk 1 is damaged" in receiver.close(count)


@pytest.mark.parametrize("said", [Count(7, 2), Count(5, 2)])
def test_a_wrong_closing_count_is_told(run: RunDir, said: Count) -> None:
    chunks, _ = shipped(6, 2)
    receiver = Receiver(run, 1)
    for chunk in chunks:
        receiver.add(chunk)
    assert receiver.close(said) == [f"it shipped {said.rows} records, 6 came"]
    assert missing(run) == [f"records-1.done says {said.rows} rows, 6 are there"]


def test_chunks_have_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "CHUNK_BYTES", 1000)
    shipper = Shipper()
    for n in range(40):
        shipper.write(record(n))
    chunks = shipper.take()
    assert len(chunks) > 5
    assert all(len(one.data) < 1000 + len(chunks[0].data) // chunks[0].rows + 1 for one in chunks)
    assert sum(one.rows for one in chunks) == shipper.rows == 40
    assert shipper.take() == []


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.randoms())
def test_any_loss_and_any_order_is_seen(kept: list[bool], order: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        run = rundir.create(Path(place) / "run")
        chunks, count = shipped(len(kept), len(kept))
        there = [chunk for chunk, keep in zip(chunks, kept, strict=True) if keep]
        order.shuffle(there)  # type: ignore[attr-defined]
        receiver = Receiver(run, 1)
        for chunk in there:
            receiver.add(chunk)
        problems = receiver.close(count)
        assert bool(problems) == (not all(kept))
        assert sorted(received(run)) == sorted(f"id-{n}" for n, keep in enumerate(kept) if keep)


def test_nothing_sent_is_a_count_of_0(run: RunDir) -> None:
    shipper = Shipper()
    assert (shipper.take(), shipper.count()) == ([], Count(0, 0))
    assert Receiver(run, 1).close(shipper.count()) == []
    assert missing(run) == []
