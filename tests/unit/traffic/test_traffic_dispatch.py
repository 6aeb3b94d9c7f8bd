"""The open loop in a real Locust: it sends by the clock whatever the server does, and says when it couldn't."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

import pytest
from streams import witness
from test_traffic_users import SHORT, STALL, run, sound
from traffic_server import HEAD, ScriptedServer, Step, chunked

from harness.core import arrivals, config, proc, rundir
from harness.traffic.engine import Kind

QUICK: list[Step] = [HEAD, *chunked(*witness((1, 2), 5))]
SHED: list[Step] = [b"HTTP/1.1 529 Overloaded\r\nContent-Length: 0\r\n\r\n"]
ONE = [{"class": "ChatUser", "weight": 1, **SHORT}]


def due_s(records: list[dict[str, Any]]) -> list[float]:
    return sorted(one["t_due_ns"] / 1e9 for one in records if one["attempt"] == 0)


def scheduled(until_s: float, users: list[dict[str, Any]], **load: Any) -> list[float]:
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
            "load": {"duration_s": 1, "drain_s": 0.5, "users": users, **load}}  # fmt: skip
    spec = config.build(tree, "t").load
    found = []
    for one in arrivals.schedule(spec, 1):
        if one.due_s >= until_s:
            return found
        found.append(one.due_s)
    return found


def test_a_server_that_hangs_slows_nothing_down(kind: Kind) -> None:
    load = {"arrivals": {"process": "poisson", "rate_per_s": 40}, "warmup_s": 0}
    with ScriptedServer([STALL]) as server:
        result = run(server.url, ONE, 1.0, engine=kind, **load)
    sound(result)
    found = due_s(result["records"])
    assert len(found) > 20 and {one["outcome"] for one in result["records"]} == {"timed_out"}
    assert found == pytest.approx(scheduled(found[-1] + 1e-6, ONE, **load), abs=1e-6)
    assert len({one["user"] for one in result["records"]}) == len(found)


def test_over_its_limit_requests_wait_on_record(kind: Kind) -> None:
    slow: list[Step] = [HEAD, 0.2, *chunked(*witness((1, 2), 5))]
    arrive = {"process": "constant", "rate_per_s": 30, "max_in_flight": 2}
    with ScriptedServer([slow]) as server:
        result = run(server.url, ONE, 1.0, engine=kind, arrivals=arrive, warmup_s=0)
    sound(result)
    records = sorted(result["records"], key=lambda one: one["t_start_ns"])
    assert due_s(records) == pytest.approx([(n + 0.5) / 30 for n in range(len(records))], abs=1e-6)
    for n, one in enumerate(records):
        assert (
            sum(other["t_start_ns"] <= one["t_start_ns"] < other["t_end_ns"] for other in records[: n + 1])
            <= 2
        )
    waits_ms = [(one["t_start_ns"] - one["t_due_ns"]) / 1e6 for one in records]
    assert max(waits_ms) > 200  # the server takes that long
    assert result["generator"]["send_lag_max_ms"] < max(waits_ms)  # which is not the generator's doing


def test_classes_come_by_their_weights_and_connections_are_kept() -> None:
    users = [{"class": "ChatUser", "weight": 3, **SHORT}, {"class": "CompletionUser", "weight": 1, **SHORT}]
    with ScriptedServer([QUICK]) as server:
        result = run(server.url, users, 1.5, arrivals={"process": "poisson", "rate_per_s": 80}, warmup_s=0)
        assert server.connections < len(result["records"])
    sound(result)
    classes = Counter(one["user_class"] for one in result["records"])
    assert 0.6 < classes["ChatUser"] / len(result["records"]) < 0.9 and len(classes) == 2


def test_users_by_count_and_by_weight_go_together() -> None:
    users = [
        {"class": "ChatUser", "count": 2, **SHORT, "think_s": 0.1},
        {"class": "CompletionUser", "weight": 1, **SHORT},
    ]
    with ScriptedServer([QUICK]) as server:
        result = run(server.url, users, 1.0, arrivals={"process": "constant", "rate_per_s": 20}, warmup_s=0)
    sound(result)
    assert result["users"]["ArrivalUser"] == 1 and result["users"]["ChatUser"] == 2
    assert {one["user_class"] for one in result["records"]} == {"ChatUser", "CompletionUser"}


def test_a_kill_loses_no_record(kind: Kind) -> None:
    with ScriptedServer([STALL]) as server:
        result = run(
            server.url, ONE, 0.6, "kill", kind, arrivals={"process": "constant", "rate_per_s": 20}, warmup_s=0
        )
    sound(result)
    assert {one["outcome"] for one in result["records"]} == {"timed_out"} and len(result["records"]) >= 5


def test_attempts_are_linked_and_all_are_counted(kind: Kind) -> None:
    users = [{**ONE[0], "retry": {"max_attempts": 3, "base_s": 0.01, "cap_s": 0.02}}]
    with ScriptedServer([SHED]) as server:
        result = run(
            server.url,
            users,
            1.0,
            engine=kind,
            arrivals={"process": "constant", "rate_per_s": 20},
            warmup_s=0,
        )
    sound(result)
    by_id = {one["request_id"]: one for one in result["records"]}
    for one in result["records"]:
        assert (one["retry_of"] is None) == (one["attempt"] == 0)
        if one["retry_of"]:
            first = by_id[one["retry_of"]]
            assert (
                first["attempt"] == 0
                and first["user"] == one["user"]
                and first["t_end_ns"] <= one["t_due_ns"]
            )
    attempts = Counter(one["attempt"] for one in result["records"])
    assert attempts[0] >= attempts[1] >= attempts[2] > 0 and set(attempts) == {0, 1, 2}


def test_a_budget_stops_a_retry_storm() -> None:
    policy = {"max_attempts": 9, "base_s": 0.01, "cap_s": 0.02, "budget_ratio": 0.2, "budget_min": 0}
    with ScriptedServer([SHED]) as server:
        result = run(server.url, [{**ONE[0], "retry": policy}], 1.0,
                     arrivals={"process": "constant", "rate_per_s": 50}, warmup_s=0)  # fmt: skip
    sound(result)
    first = sum(one["attempt"] == 0 for one in result["records"])
    assert 0 < len(result["records"]) - first <= 0.2 * first


def test_a_retry_that_succeeds_is_the_same_question() -> None:
    users = [
        {"class": "ChatUser", "count": 1, **SHORT, "think_s": 5, "retry": {"base_s": 0.01, "cap_s": 0.02}}
    ]
    with ScriptedServer([SHED, QUICK]) as server:
        result = run(server.url, users, 0.6)
        bodies = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in server.requests]
    sound(result)
    first, second = sorted(result["records"], key=lambda one: one["attempt"])
    assert (first["outcome"], second["attempt"]) == ("shed", 1) and second["retry_of"] == first["request_id"]
    assert second["status"] == 200 and bodies[0] == bodies[1]


def test_conversations_think_and_end_with_a_failure() -> None:
    users = [{"class": "ChatUser", "weight": 1, **SHORT, "conversation": {"turns": 3}, "think_s": 0.05}]
    for script, turns in ((QUICK, [1, 3, 5]), (SHED, [1])):
        with ScriptedServer([script]) as server:
            result = run(
                server.url, users, 2.0, arrivals={"process": "constant", "rate_per_s": 3}, warmup_s=0
            )
            asked = [len(json.loads(one.partition(b"\r\n\r\n")[2])["messages"]) for one in server.requests]
        sound(result)
        assert sorted(set(asked)) == turns
        per_user = Counter(one["user"] for one in result["records"])
        assert max(per_user.values()) == len(turns)


def test_shares_of_several_processes_are_the_whole() -> None:
    """Whatever their number, the same requests are sent."""
    code = """
import json, sys
from itertools import islice
from harness.core import config
from harness.traffic import dispatch
s = config.build(json.loads(sys.argv[1]), "t")
mine = [[(a.index, a.due_s) for a in islice(dispatch.share(s, i, 3), 20)] for i in range(3)]
print(json.dumps([sorted(sum(mine, [])), [(a.index, a.due_s) for a in islice(dispatch.share(s, 0, 1), 60)],
    [dispatch.places(7, i, 3) for i in range(3)]]))
"""
    tree = {"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1"},
            "load": {"duration_s": 9, "users": ONE, "arrivals": {"rate_per_s": 10}}}  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(rundir.project_root())}
    done = proc.run([sys.executable, "-c", code, json.dumps(tree)], env)
    assert done.code == 0, done.err
    split, whole, places = json.loads(done.out)
    assert split == whole and places == [3, 2, 2]
