"""timer, stamps and lag."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import gevent
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import clock
from harness.traffic import stamps
from harness.traffic.lag import Lag
from harness.traffic.timer import Timer, TimerFd
from harness.traffic.transcript import Findings

MS = clock.MS


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.close()


def test_many_wait_on_one_descriptor_and_never_wake_early(timer: Timer) -> None:
    start, woke = clock.now_ns(), []

    def wait(ms: int) -> None:
        timer.wait_until(start + ms * MS)
        woke.append((ms, clock.now_ns() - start))

    gevent.joinall([gevent.spawn(wait, ms) for ms in (30, 10, 20, 10, 0)], raise_error=True)
    assert [ms for ms, _ in woke] == [0, 10, 10, 20, 30]
    assert all(at >= ms * MS for ms, at in woke)


def test_past_times_and_cancelled_calls(timer: Timer) -> None:
    called: list[str] = []
    timer.wait_until(clock.now_ns() - 1)
    timer.call_at(0, lambda: called.append("past"))
    timer.call_at(clock.now_ns() + MS, lambda: called.append("cancelled")).cancel()
    timer.call_at(clock.now_ns() + MS, lambda: timer.call_at(0, lambda: called.append("nested")))
    end_ns = clock.now_ns() + 5 * clock.NS
    while len(called) < 2 and clock.now_ns() < end_ns:
        timer.wait_until(clock.now_ns() + 5 * MS)
    assert called == ["past", "nested"]


def test_a_later_call_does_not_put_off_one_that_is_due(timer: Timer) -> None:
    called: list[str] = []
    timer.call_at(0, lambda: called.append("due"))
    timer.call_at(clock.now_ns() + 60 * clock.NS, lambda: called.append("later"))
    end_ns = clock.now_ns() + 5 * clock.NS
    while not called and clock.now_ns() < end_ns:
        gevent.sleep(0.005)
    assert called == ["due"]


def test_a_call_that_fails_does_not_stop_the_timer(timer: Timer, capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise IndexError("a call's own error")

    timer.call_at(0, fails)
    timer.wait_until(clock.now_ns() + 2 * MS)
    assert "a call's own error" in capfd.readouterr().err


def test_a_killed_waiter_leaves_nothing(timer: Timer) -> None:
    one = gevent.spawn(timer.wait_until, clock.now_ns() + 5 * MS)
    gevent.sleep(0)
    one.kill()
    timer.wait_until(clock.now_ns() + 10 * MS)
    assert one.dead


def test_timerfd_counts_expirations() -> None:
    fd = TimerFd()
    assert fd.read() == 0
    fd.set(clock.now_ns() + MS, MS)
    clock.sleep_s(0.01)
    assert fd.read() >= 9 and fd.read() <= 1
    fd.close()


def stamp(ns: int) -> list[tuple[int, int, bytes]]:
    return [(1, 35, struct.pack("qq", *divmod(ns, clock.NS)))]


OFFSET = 1_700_000_000 * clock.NS


def test_kernel_stamps_move_to_the_monotonic_clock() -> None:
    pieces = [(stamp(OFFSET + 1000), b"", 5000), (stamp(OFFSET + 7000), b"", 9000)]
    assert stamps.resolve(pieces, 0, OFFSET, OFFSET) == [1000, 7000]
    assert stamps.resolve(pieces, 0, OFFSET, OFFSET + 200) == [900, 6900]  # slewed a little: the middle
    assert stamps.resolve([], 0, OFFSET, OFFSET) == []


def test_what_can_not_be_right_is_replaced() -> None:
    late = [(stamp(OFFSET + 9_000), b"", 5_000), (stamp(OFFSET + 4_000), b"", 6_000)]
    assert stamps.resolve(late, 0, OFFSET, OFFSET) == [5_000, 5_000]  # after our read; before the last
    assert stamps.resolve([(stamp(OFFSET + 50), b"", 900)], 100, OFFSET, OFFSET) == [
        100
    ]  # before the request
    absent = [([], b"", 5_000), ([(1, 29, b"x" * 16)], b"", 6_000), ([(1, 35, b"x")], b"", 7_000)]
    assert stamps.resolve(absent, 0, OFFSET, OFFSET) == [5_000, 6_000, 7_000]


@pytest.mark.parametrize("step", [clock.NS, -clock.NS, 1_000_000])
def test_a_step_of_the_wall_clock_rejects_the_stamps(step: int) -> None:
    pieces = [(stamp(OFFSET + 1000), b"", 5000), (stamp(OFFSET + 7000 + step), b"", 9000)]
    assert stamps.resolve(pieces, 0, OFFSET, OFFSET + step) == [5000, 9000]


@given(
    st.lists(st.tuples(st.integers(-(10**9), 10**10), st.integers(0, 10**10)), max_size=20),
    st.integers(-(10**9), 10**9),
)
def test_times_are_ordered_and_never_after_the_read(values: list[tuple[int, int]], drift: int) -> None:
    reads = sorted(read for _, read in values)
    pieces = [(stamp(OFFSET + kernel), b"", read) for (kernel, _), read in zip(values, reads, strict=True)]
    times = stamps.resolve(pieces, 0, OFFSET, OFFSET + drift)
    assert times == sorted(times) and all(at <= read for at, read in zip(times, reads, strict=True))


def test_warm_up_gets_stamps_here() -> None:
    warm = stamps.WarmUp()
    assert warm.available
    warm.close()
    offset = stamps.sample_offset_ns()
    assert abs(offset - (clock.wall_ns() - clock.now_ns())) < 50 * MS


def test_a_blocked_hub_shows_with_every_beat() -> None:
    lag = Lag()
    lag.start()
    gevent.sleep(0.03)
    clock.sleep_s(0.16)  # blocks the hub: nothing is patched here
    gevent.sleep(0.03)
    lag.stop()
    result = lag.result()
    assert len([ns for ns in lag.beat_ns if ns > 40 * MS]) >= 5
    assert result["hub_lag_max_ms"] is not None and result["hub_lag_max_ms"] >= 60
    assert result["cpu_s"] is not None and result["cpu_s"] >= 0


def test_lag_result() -> None:
    lag = Lag()
    nothing = {"cpu_s": 0, "chunks": 0, "cpu_steal_ratio": None}
    assert lag.result() | nothing == dict.fromkeys(lag.result()) | nothing  # nothing measured: None
    values = [int(ns) for ns in np.random.default_rng(1).integers(0, 10**9, 257)]
    for value in values:
        lag.sent(1000, 1000 + value, 3000 + value)
    lag.sent(1000, 1000, 0)  # refused: nothing was sent, so there is no time that it took
    lag.send_ns.pop()
    lag.answered(Findings(token_events=80, coalesced=4, coalesced_late=2))
    lag.answered(Findings(token_events=20))
    result = lag.result()
    assert result["send_lag_p99_ms"] == pytest.approx(np.percentile(values, 99) / 1e6)
    assert (result["write_lag_p99_ms"], result["chunks"]) == (0.002, 100)
    assert (result["coalesced_ratio"], result["coalesced_any_ratio"]) == (0.02, 0.04)
