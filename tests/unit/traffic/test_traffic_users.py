from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from streams import witness
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import proc, rundir

HERE = Path(__file__).parent


def run(
    url: str,
    users: list[dict[str, Any]],
    run_s: float = 1.0,
    how: str = "stop",
    engine: str = "auto",
    **load: Any,
) -> dict[str, Any]:
    scenario = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"}, "overload_codes": [529],
                "generator": {"engine": engine},
                "load": {"duration_s": 1, "drain_s": 0.5, "users": users, **load}}  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(rundir.project_root())}
    done = proc.run(
        [sys.executable, str(HERE / "locust_run.py"), url, json.dumps(scenario), str(run_s), how], env, 50
    )
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return result


def count(result: dict[str, Any], outcome: str) -> int:
    return sum(record["outcome"] == outcome for record in result["records"])


def sound(result: dict[str, Any]) -> None:
    """Every started request is in exactly one record, written before test_stop."""
    ids = [record["request_id"] for record in result["records"]]
    sent, ok, shed, cancelled, failed, in_flight = result["live"]
    assert len(ids) == len(set(ids)) == sent == ok + shed + cancelled + failed == result["at_stop"]
    assert (in_flight, result["left"]) == (0, 0)


STALL: list[Step] = [HEAD, *chunked(*witness((1, 2), 3)[:3], end=False), "hang"]
SHORT = {"prompt_tokens": 40, "output_tokens": 5}


def test_classes_counts_entries_and_cancels() -> None:
    with ScriptedServer([STALL]) as server:
        result = run(server.url, [
            {"class": "ChatUser", "count": 2, **SHORT}, {"class": "ChatUser", "count": 1, **SHORT | {"output_tokens": 7}},
            {"class": "CompletionUser", "count": 1, **SHORT},
            {"class": "CancellingUser", "count": 2, **SHORT, "cancel": {"after_tokens": 2, "mode": "fin"}},
        ])  # fmt: skip
    sound(result)
    assert result["users"] == {"ChatUser": 3, "CompletionUser": 1, "CancellingUser": 2, "ArrivalUser": 0}
    by_class: dict[str, list[dict[str, Any]]] = {}
    for record in result["records"]:
        by_class.setdefault(record["user_class"], []).append(record)
    assert sorted(r["tokens_expected"] for r in by_class["ChatUser"]) == [5, 5, 7]
    assert {r["outcome"] for r in by_class["ChatUser"] + by_class["CompletionUser"]} == {
        "timed_out"
    }  # drained
    assert {(r["outcome"], r["cancel_mode"]) for r in by_class["CancellingUser"]} == {("cancelled", "fin")}
    assert {r["route"] for r in by_class["CompletionUser"]} == {"completions"}
    assert result["stats"]["chat"] == [3, 3] and result["stats"]["chat cancelled"][1] == 0
    assert result["stop_s"] >= 0.4 and result["generator"]["send_lag_p99_ms"] is not None


def test_streams_that_end_within_the_drain_are_whole() -> None:
    slow: list[Step] = [HEAD, 0.3, b"0\r\n\r\n"]
    with ScriptedServer([slow]) as server:
        result = run(server.url, [{"class": "ChatUser", "count": 3, **SHORT}], 0.9, drain_s=3)
    sound(result)
    assert count(result, "timed_out") == 0 and count(result, "truncated") >= 3
    assert any("truncated" in error for error in result["errors"])


def test_a_kill_loses_no_record() -> None:
    with ScriptedServer([STALL]) as server:
        result = run(server.url, [{"class": "ChatUser", "count": 4, **SHORT}], 0.8, "kill")
    sound(result)
    assert count(result, "timed_out") == 4


def test_thinking_users_end_at_once_and_a_dead_server_is_not_hammered() -> None:
    shed: list[Step] = [b"HTTP/1.1 529 Overloaded\r\nContent-Length: 0\r\n\r\n"]
    with ScriptedServer([shed]) as server:
        users = [
            {"class": "ChatUser", "count": 2, **SHORT, "think_s": 30},
            {"class": "CompletionUser", "count": 1, **SHORT},
        ]
        result = run(server.url, users, 1.0, drain_s=20)
    sound(result)
    assert result["stop_s"] < 20 and count(result, "shed") == len(result["records"])
    assert result["stats"]["chat shed"] == [2, 0]
    busy = [record for record in result["records"] if record["route"] == "completions"]
    assert all(b["t_due_ns"] >= a["t_end_ns"] + 100_000_000 for a, b in pairwise(busy))


def test_more_users_are_active_in_a_phase_with_a_higher_ratio() -> None:
    quick: list[Step] = [HEAD, *chunked(*witness((1, 2), 5))]
    phases = [{"name": "standard", "duration_s": 0.5}, {"name": "overflow", "duration_s": 1.0, "users_ratio": 3},
              {"name": "recovery", "duration_s": 1.5, "users_ratio": 0.5}]  # fmt: skip
    with ScriptedServer([quick]) as server:
        users = [{"class": "ChatUser", "count": 2, **SHORT, "think_s": 0.05}]
        result = run(server.url, users, 2.6, duration_s=3, warmup_s=0.5, phases=phases)
    sound(result)
    seen: dict[str, set[int]] = {"standard": set(), "overflow": set(), "recovery": set()}
    for record in result["records"]:
        due_s = record["t_due_ns"] / 1e9 - 0.5
        name = "standard" if due_s < 0.5 else "overflow" if due_s < 1.5 else "recovery"
        seen[name].add(record["user"])
    assert {name: len(users) for name, users in seen.items()} == {"standard": 2, "overflow": 6, "recovery": 1}
    assert result["stop_s"] < 2  # those that rest don't hold the end up


def test_entries_by_slot() -> None:
    code = """
from harness.traffic import users
from harness.core.config import *
s = Scenario(schema=1, name="x", sut=Sut(dynamo="1"), load=Load(duration_s=1, users=[
    UserClass(user_class="ChatUser", count=2, output_tokens=1), UserClass(user_class="CompletionUser", count=9, output_tokens=2),
    UserClass(user_class="ChatUser", count=1, output_tokens=3)]))
print([users.entry(s, "ChatUser", slot)[0].output_tokens for slot in range(7)])
"""
    done = proc.run([sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(rundir.project_root())})
    assert done.out.strip() == "[1, 1, 3, 1, 1, 3, 1]", done.err
