"""What was asked for against what was sent: a generator that couldn't makes the run invalid, a slow system
doesn't, a limit of the scenario's own is a warning; amplification by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_run import NS, SCENARIO, plain_parts, record, write_run

from harness.core import arrivals, config
from harness.core.arrivals import USERS_FROM
from harness.stats import analyse
from harness.stats.analysis import Analysis

RATE = 10
LOAD = {"duration_s": 60, "warmup_s": 5, "users": [{"class": "ChatUser", "weight": 1}],
        "arrivals": {"process": "constant", "rate_per_s": RATE}}  # fmt: skip


def judged(path: Path, rows: list[Any], load: dict[str, Any], **changes: Any) -> Analysis:
    return analyse.analyse(write_run(path / "run", plain_parts(rows, load=load, **changes)))


def arrived(load: dict[str, Any], late_ms: Any = lambda n: 0, keep: Any = lambda n: True) -> list[Any]:
    spec = config.build({**SCENARIO, "faults": [], "gates": [], "load": load}, "s").load
    rows = []
    for one in arrivals.schedule(spec, 1):
        if one.due_s >= 65:
            return rows
        if keep(one.index):
            due = round(one.due_s * NS)
            start = due + round(late_ms(one.index) * 1e6)
            rows.append(record(one.index, t_due_ns=due, t_start_ns=start, user=USERS_FROM + one.index))
    return rows


def broken(found: Analysis) -> str | None:
    one = next(i for i in found.invariants if i.name == "load_delivered")
    return one.detail if one.ok is False else None


def reasons(found: Analysis) -> str:
    return "; ".join(found.invalid_reasons)


def test_an_open_loop_on_time_is_delivered(tmp_path: Path) -> None:
    found = judged(tmp_path, arrived(LOAD), LOAD)
    [row] = found.delivery
    assert (row.loop, row.window, row.asked, row.delivered, row.ratio) == ("open", "all", RATE, RATE, 1)
    assert (row.late_ratio, row.wait_p99_ms, row.unsent, row.held) == (0, 0, 0, False)
    assert broken(found) is None and found.status == "pass"


def test_arrivals_that_never_began_make_the_run_invalid(tmp_path: Path) -> None:
    found = judged(tmp_path, arrived(LOAD, keep=lambda n: n % 10 < 8), LOAD)
    [row] = found.delivery
    assert row.ratio == pytest.approx(0.8) and row.unsent == 120
    assert "8 of 10 requests/s in all" in reasons(found) and "120 never" in reasons(found)
    assert found.exit_code == 4


def test_a_generator_that_falls_behind_makes_the_run_invalid(tmp_path: Path) -> None:
    found = judged(tmp_path, arrived(LOAD, late_ms=lambda n: 100 * n), LOAD)
    assert "requests/s in all, 100% began more than 20 ms late" in reasons(found) and found.exit_code == 4
    assert found.metrics["all"]["ttft_p99_ms"] == pytest.approx(50)
    assert found.metrics["all"]["ttft_p99_due_ms"] > 30_000, "what counting from sending would hide"


def test_a_limit_of_the_scenario_is_a_warning_with_numbers(tmp_path: Path) -> None:
    load = {**LOAD, "arrivals": {**LOAD["arrivals"], "max_in_flight": 3}}  # type: ignore[dict-item]
    found = judged(tmp_path, arrived(load, late_ms=lambda n: 100 * n), load)
    assert broken(found) is None and found.delivery[0].held
    assert any("max_in_flight 3 held requests back: " in one and "late" in one for one in found.warnings)
    on_time = judged(tmp_path / "b", arrived(load), load)
    assert not on_time.delivery[0].held and not any("max_in_flight" in one for one in on_time.warnings)


def test_the_limit_can_be_lowered(tmp_path: Path) -> None:
    rows = arrived(LOAD, keep=lambda n: n % 10 < 8)
    assert broken(judged(tmp_path, rows, LOAD, generator={"delivered_min_ratio": 0.75})) is None


def test_retries_and_turns_are_no_arrivals(tmp_path: Path) -> None:
    rows = arrived(LOAD)
    rows += [record(10_000 + n, t_start_ns=rows[n].t_start_ns + NS, user=rows[n].user, attempt=1, retry_of=f"r{n}")
             for n in range(0, 600, 2)]  # fmt: skip
    [row] = judged(tmp_path, rows, LOAD).delivery
    assert row.delivered == pytest.approx(RATE, abs=0.02) and row.unsent == 0


CLOSED = {"duration_s": 60, "warmup_s": 5, "users": [{"class": "ChatUser", "count": 4}]}


def asked(think_s: float = 0, busy_s: float = 1, late_s: float = 0, users: int = 4) -> list[Any]:
    """Users that ask for 65 s; each answer takes busy_s, each request is sent late_s after it is due."""
    rows: list[Any] = []
    for user in range(users):
        due_s = 0.0
        while due_s < 65:
            start_s = due_s + late_s
            rows.append(record(len(rows), t_due_ns=round(due_s * NS), t_start_ns=round(start_s * NS), user=user,
                               t_end_ns=round((start_s + busy_s) * NS)))  # fmt: skip
            due_s = start_s + busy_s + think_s
    return rows


@pytest.mark.parametrize(("think_s", "busy_s"), [(0, 1), (0, 20), (5, 1)])
def test_a_slow_system_and_thinking_users_are_no_fault_of_the_generator(
    tmp_path: Path, think_s: float, busy_s: float
) -> None:
    found = judged(tmp_path, asked(think_s, busy_s), CLOSED)
    [row] = found.delivery
    assert (row.loop, row.asked, row.delivered, row.ratio) == ("closed", 4, 4, 1) and broken(found) is None


def test_users_that_wait_for_the_generator_make_the_run_invalid(tmp_path: Path) -> None:
    found = judged(tmp_path, asked(busy_s=1, late_s=0.25), CLOSED)
    assert found.delivery[0].ratio == pytest.approx(0.8, abs=0.01)
    assert "of 4 users in all" in reasons(found) and found.exit_code == 4


def test_users_that_never_came_make_the_run_invalid(tmp_path: Path) -> None:
    found = judged(tmp_path, asked(users=3), CLOSED)
    assert "3 of 4 users in all" in reasons(found) and "1 never" in reasons(found)


def test_phases_are_judged_each(tmp_path: Path) -> None:
    load = {"warmup_s": 5, "users": CLOSED["users"],
            "phases": [{"name": "a", "duration_s": 30}, {"name": "b", "duration_s": 30, "users_ratio": 0.5}]}  # fmt: skip
    found = judged(tmp_path, asked(), load)
    assert [(row.window, row.asked) for row in found.delivery] == [("all", 3), ("phase:a", 4), ("phase:b", 2)]


def test_records_without_users_say_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, [record(n) for n in range(6, 60)], CLOSED)
    assert found.delivery == () and broken(found) is None
    assert next(i for i in found.invariants if i.name == "load_delivered").ok is None


def test_a_trace_that_is_gone_leaves_the_rate_unknown(tmp_path: Path) -> None:
    load = {**LOAD, "arrivals": {"process": "trace", "file": str(tmp_path / "gone"), "sha256": "0"}}
    [row] = judged(tmp_path, arrived(LOAD), load).delivery
    assert row.asked is None and row.ratio is None and row.delivered == RATE


def test_amplification_and_what_was_answered_in_the_end(tmp_path: Path) -> None:
    rows = [record(n) for n in range(6, 16)]  # ten at the first attempt
    for n in range(20, 30):  # ten that are shed, five of them twice and five answered then
        rows.append(record(n, outcome="shed", status=529, ttft_ms=None, gaps_us=[]))
        again = {"attempt": 1, "retry_of": f"r{n}", "t_start_ns": n * NS + NS // 2}
        rows.append(record(100 + n, **again) if n < 25 else
                    record(100 + n, outcome="shed", status=529, ttft_ms=None, gaps_us=[], **again))  # fmt: skip
    found = judged(tmp_path, rows, CLOSED).metrics["all"]
    assert found["amplification_ratio"] == 1.5 and found["answered_ratio"] == 0.75
    assert judged(tmp_path / "b", rows[:10], CLOSED).metrics["all"]["amplification_ratio"] == 1
