"""Interrupts come once where they may, at once if they came before, and never while cleaning up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from harness.interrupt import Interrupted, Signals

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in ALL}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_raised_inside(signals: Signals, number: signal.Signals) -> None:
    with pytest.raises(Interrupted), signals.raising():
        signal.raise_signal(number)


def test_only_noted_outside_and_raised_at_the_next_chance(
    signals: Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signal.raise_signal(signal.SIGINT)
    assert "cleaning up" in capfd.readouterr().err
    with pytest.raises(Interrupted), signals.raising():
        raise AssertionError("must not get here")


def test_a_second_one_does_not_stop_the_clean_up(signals: Signals) -> None:
    with pytest.raises(Interrupted), signals.raising():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # while cleaning up: noted only


def test_nohup_stays_nohup() -> None:
    before = {number: signal.getsignal(number) for number in ALL}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        Signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
