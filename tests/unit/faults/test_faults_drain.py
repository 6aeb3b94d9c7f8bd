"""process.terminate on small real processes: each sign of a drain with its time, or none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from faults.drain import Terminate
from faults.drainwatch import DrainWatch
from faults.ports import Target
from harness.core import clock
from tests.fixtures.faults_lab import scheduler, step, system

pytestmark = pytest.mark.slow

T = Target("worker", 1)


def test_the_signs_of_a_drain_in_their_order(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[], options=["drain=0.8"]) as lab:
        scheduler(lab, [step("term", "process.terminate", restart_after_s=0)]).run()
        seen = lab.line("term", "verified").evidence
        assert set(seen["deregistered_s"]) == {"frontend-1"}
        assert seen["deregistered_ns"] == seen["deregistered_everywhere_ns"] < seen["exit_ns"]
        assert list(seen["refuses_s"]) == [str(lab.state.process("worker-1").port)]
        assert seen["watched_from_ns"] <= seen["refused_ns"] < seen["exit_ns"]
        assert seen["grace_period_s"] == 5 and seen["last_token_ns"] is None and seen["tokens_after"] is None
        assert seen["signal"] == "TERM" and seen["again_ns"] is None


def test_a_second_signal_is_sent_and_written_down(tmp_path: Path) -> None:
    with system(tmp_path, options=["drain=60", "impatient"]) as lab:
        fault = step("term", "process.terminate", again_after_s=0.4, grace_s=20, restart_after_s=0)
        scheduler(lab, [fault]).run()
        seen = lab.line("term", "verified").evidence
        assert seen["again_ns"] >= seen["watched_from_ns"] + 4e8
        assert seen["exit_code"] == 4 and seen["escalated"] is None and seen["drain_s"] < 10


def test_one_that_is_gone_before_gets_no_second_signal(tmp_path: Path) -> None:
    with system(tmp_path) as lab:
        scheduler(lab, [step("term", "process.terminate", again_after_s=3, restart_after_s=0)]).run()
        assert lab.line("term", "verified").evidence["again_ns"] is None


def test_without_a_view_of_drains_ports_and_end_are_the_proof(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[], options=["drain=0.3"]) as lab:
        bare = dataclasses.replace(lab.ports(), drains=None)
        scheduler(lab, [step("term", "process.terminate", restart_after_s=0)], using=bare).run()
        seen = lab.line("term", "verified").evidence
        assert seen["refused_ns"] is not None and seen["exit_code"] == 3
        assert (
            seen["deregistered_ns"] is None
            and seen["requests_after"] is None
            and seen["grace_period_s"] is None
        )


def test_a_process_that_serves_on_shows_no_sign(tmp_path: Path) -> None:
    with system(tmp_path, frontend=[]) as lab:
        ports = lab.ports()
        made = Terminate().prepare(ports, T)
        with DrainWatch(ports, T, made) as watch:
            assert clock.wait_until(lambda: len(watch.requests) == 2 and bool(watch.listing), 5)
        assert watch.signs() == [] and watch.facts()["health_red_ns"] is None


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="again_after_s 5 is not before grace_s 5"):
        Terminate(again_after_s=5, grace_s=5)
    with pytest.raises(ValueError, match="again_after_s"):
        Terminate(again_after_s=-1)
