"""Time and chance: one axis, reproducible streams of randomness, ids that don't collide."""

from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from harness.core import clock, ids

ROOT = Path(__file__).resolve().parents[3]


def test_an_anchors_axis_starts_at_zero_and_runs_with_the_monotonic_clock() -> None:
    before = clock.now_ns()
    anchor = clock.anchor_now()
    t_ns, after = anchor.t_ns(), clock.now_ns()
    assert before <= anchor.mono_ns
    assert 0 <= t_ns <= after - anchor.mono_ns
    assert abs(clock.wall_ns() - anchor.wall_ns) < 3600 * clock.NS


def test_the_clock_is_one_for_all_processes() -> None:
    before = clock.now_ns()
    out = subprocess.check_output(
        [sys.executable, "-c", "from harness.core import clock; print(clock.now_ns())"], cwd=ROOT
    )
    assert before < int(out) < clock.now_ns()


def test_wait_until_sees_success_at_once_and_gives_up() -> None:
    assert clock.wait_until(lambda: True, 0)
    assert not clock.wait_until(lambda: False, 0.01, 0.001)
    steps = iter([False, False, True])
    assert clock.wait_until(lambda: next(steps), 60, 0.001)
    clock.sleep_s(-1)  # late is now


def test_utc_texts() -> None:
    assert clock.utc_text(0) == "1970-01-01T00:00:00.000Z"
    assert clock.utc_text(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123Z"
    assert clock.utc_date(86_400 * clock.NS - 1) == date(1970, 1, 1)
    assert clock.utc_date(86_400 * clock.NS) == date(1970, 1, 2)


def test_streams_are_reproducible_across_processes_and_independent() -> None:
    script = "from harness.core.ids import rng; print(rng(1, 'users', 3).random())"
    out = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONHASHSEED": "7"})
    assert float(out) == ids.rng(1, "users", 3).random()
    random.seed(5)
    assert ids.rng(1, "users", 3).random() == float(out)  # the global generator has no part in it
    paths = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", 1), (1, "a", "1"), (1, "a/1")]
    assert len({ids.seed_of(*path) for path in paths}) == len(paths)
    draws = [ids.rng(1, "u", n).random() for n in range(2000)]
    assert abs(statistics.mean(draws) - 0.5) < 0.03


@given(st.integers(), st.lists(st.integers() | st.text(), max_size=3))
def test_a_seed_is_a_pure_function_of_its_path(seed: int, path: list[int | str]) -> None:
    assert ids.seed_of(seed, *path) == ids.seed_of(seed, *path)
    assert 0 <= ids.seed_of(seed, *path) < 2**64


def test_request_ids_are_uuids_unique_in_all_four_parts_and_pure() -> None:
    made = {
        ids.request_id(run, user, k, attempt)
        for run in ("r", "s")
        for user in (0, 1)
        for k in (0, 1)
        for attempt in (0, 1)
    }
    assert len(made) == 16
    assert {str(UUID(one)) for one in made} == made
    assert {UUID(one).version for one in made} == {4}
    assert ids.request_id("r", 0, 0) == ids.request_id("r", 0, 0, 0)
    assert ids.request_id("r", 1, 11) != ids.request_id("r", 11, 1)


def test_run_ids_sort_by_time_and_differ() -> None:
    one, two = ids.run_id("quickstart"), ids.run_id("quickstart")
    assert re.fullmatch(r"\d{8}-\d{6}-quickstart-[0-9a-f]{4}", one)
    assert one[:15] <= two[:15]


def test_secrets() -> None:
    assert ids.token() != ids.token()
    assert len(ids.token()) >= 32
    assert ids.same_secret("a", "a")
    assert not ids.same_secret("a", "b")
    assert not ids.same_secret("é", "e")
