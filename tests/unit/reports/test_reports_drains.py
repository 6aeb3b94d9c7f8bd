"""From the evidence of a drain to its phases: each time against the signal, unknown never a number."""

from __future__ import annotations

from typing import Any

from fixtures import report_data

from harness.core.records import JournalLine
from reports import RENDERERS, drains

S = 1_000_000_000
SEEN: dict[str, Any] = {
    "watched_from_ns": 10 * S, "grace_period_s": 5.0, "health_red_ns": int(10.06 * S), "live_while_red": True,
    "deregistered_ns": int(10.05 * S), "deregistered_everywhere_ns": int(10.07 * S),
    "deregistered_s": {"frontend-1": 0.05, "frontend-2": 0.07}, "refused_ns": 15 * S, "refuses_s": {"9002": 5.0},
    "last_request_ns": None, "requests_after": 0, "last_token_ns": int(14.2 * S), "tokens_after": 2118,
    "in_flight_at_signal": 10, "in_flight_at_last_look": 3, "signal": "TERM", "again_ns": None,
    "exit_ns": int(15.4 * S), "exit_code": 0, "drain_s": 5.4, "leftovers": [], "escalated": None,
}  # fmt: skip


def line(phase: str = "verified", fault: str = "process.terminate", **more: Any) -> JournalLine:
    return JournalLine(
        seq=1, t_ns=0, wall_ns=0, fault_id="drain", fault=fault, phase=phase, target="worker-1",  # type: ignore[arg-type]
        evidence={**SEEN, **more},
    )  # fmt: skip


def rows(**more: Any) -> dict[str, tuple[float | None, str]]:
    (drain,) = drains.build([line(**more)], "drain")
    return {one.name: (one.at_s, one.note) for one in drain.phases}


def test_each_phase_has_its_time_after_the_signal() -> None:
    (drain,) = drains.build([line()], "drain")
    assert (drain.target, drain.signal, drain.grace_s, drain.drain_s) == ("worker-1", "SIGTERM", 5.0, 5.4)
    found = rows()
    assert found["no longer listed"] == (0.05, "frontend-1 0.05 s, frontend-2 0.07 s")
    assert found["listed by no frontend"][0] == 0.07
    assert found["/health no longer 200"] == (0.06, "/live still 200")
    assert found["last request taken"] == (None, "none taken after the signal")
    assert found["last token made"] == (4.2, "2118 made after the signal")
    assert found["a port refuses"] == (5.0, "port 9002 5.00 s")
    assert found["in flight"] == (None, "10 at the signal, 3 at the last look before the end")
    assert found["exit"] == (5.4, "exit code 0; 0.40 s after the end of its grace period of 5 s")
    assert found["processes left behind"] == (None, "none") and "signalled again" not in found


def test_what_nobody_could_see_is_unknown() -> None:
    blind = dict.fromkeys([name for name in SEEN if name not in {"watched_from_ns", "exit_ns"}])
    found = rows(**blind)
    assert found["last token made"] == (None, "unknown: no counter")
    assert found["in flight"] == (None, "unknown: no counter")
    assert found["/health no longer 200"] == (None, "")
    assert found["exit"] == (5.4, "exit code unknown")


def test_the_unusual_ends_are_said() -> None:
    assert rows(again_ns=11 * S)["signalled again"][0] == 1.0
    assert rows(drain_s=1.5)["exit"][1].endswith("3.50 s before the end of its grace period of 5 s")
    assert rows(escalated="KILL")["exit"][1] == "ended by SIGKILL: it didn't exit in time"
    assert rows(leftovers=[7, 8])["processes left behind"][1] == "2 ended by SIGKILL: 7, 8"
    assert rows(live_while_red=False)["/health no longer 200"][1] == "/live neither"


def test_other_faults_and_lines_are_no_drain() -> None:
    assert drains.build([line(fault="process.kill"), line(phase="injected")], "drain") == []
    assert drains.build([line()], "another") == []


def test_every_report_shows_the_table_and_escapes_it() -> None:
    for name, render in RENDERERS.items():
        if name == "junit":  # cases with a result, no tables
            continue
        page = render(next(iter(report_data.ALL.values()))())
        assert "no longer listed" in page and "grace period of 5 s" in page, name
        assert name == "json" or "<b>frontend-2</b>" not in page, name
