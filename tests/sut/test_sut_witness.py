"""The witness engine behind a real frontend, on each Dynamo version."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sutclient import VERSIONS, Reply, System

from harness.core import clock, proc, sutfile, words
from harness.core.errors import SquallError
from harness.sut import control, launch, model, ready

pytestmark = [pytest.mark.sut, pytest.mark.timeout(120)]

A, B = 4711, 815
KEY = words.key_text(A, B)
OPTIONS = {"ttft_ms": 20, "itl_ms": 5}
CANARY = {"DYN_HEALTH_CHECK_ENABLED": "true", "DYN_CANARY_WAIT_TIME": "1"}


@pytest.fixture(scope="module", params=VERSIONS)
def system(request: pytest.FixtureRequest, start: Callable[..., System]) -> System:
    return start(dynamo=request.param, workers=2, migration_limit=3, engine_options=OPTIONS, env=CANARY)


@pytest.fixture
def fresh(system: System, start: Callable[..., System]) -> Iterator[System]:
    """A system of one test's own: a dead worker stays listed until its lease ends (up to 10 s), and some
    versions send requests to it in that time, so no test may inherit one."""
    own = start(dynamo=system.state.dynamo, workers=2, migration_limit=3, engine_options=OPTIONS)
    yield own
    assert launch.teardown(own.state) == []


@pytest.fixture(autouse=True)
def honest(system: System) -> Iterator[None]:
    """No test inherits another one's misbehaviour."""
    system.command(command="reset")
    yield


def lie(system: System, kind: str, **when: int) -> None:
    system.command(command="misbehave", misbehave=[{"kind": kind, **when}])


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_an_honest_stream_is_exact(system: System, route: str) -> None:
    reply = system.ask(f"baba {KEY}", 40, route)
    prefix = {"chat": "chatcmpl", "completions": "cmpl"}[route]
    assert reply.text == words.answer(A, B, 40)
    assert reply.ids == {f"{prefix}-{reply.request_id}"}  # the client's id is the engine's and the answer's
    assert reply.finish == "length"
    assert reply.done
    events = system.segments(reply.request_id)
    assert [(s["event"], s.get("first", s.get("next"))) for s in events] == [("start", 0), ("end", 40)]
    assert events[0]["prompt_tokens"] == reply.usage["prompt_tokens"]
    listed = {e["nvext"]["worker_id"]["decode_worker_id"] for e in reply.events if e.get("nvext")}
    assert len(listed) == 1
    assert str(*listed) in ready.instances(system.state).values()


def test_prompt_counts_are_what_the_engine_sees(system: System) -> None:
    draw = random.Random(7)

    def prompt(k: int) -> str:
        some = [draw.choice(words.WORDS) for _ in range(draw.randrange(0, 120))]
        text = draw.choice(["", " ", "hello, ", "\n"]) + " ".join(some)
        return f"{text}{draw.choice([' ', chr(10), '. '])}{words.key_text(draw.randrange(8093), 1 + k)}"

    prompts = [prompt(k) for k in range(60)]

    def one(k: int) -> tuple[int, int]:
        route = "chat" if k % 2 else "completions"
        usage = system.ask(prompts[k], 1, route).usage
        counted = model.count_chat([("user", prompts[k])]) if k % 2 else model.count_text(prompts[k])
        return usage["prompt_tokens"], counted

    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(one, range(len(prompts))))
    assert [seen for seen, _ in pairs] == [counted for _, counted in pairs]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ("repeat", [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]),
        ("swap", [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]),
        ("corrupt", [0, 1, 2, -1, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_token_misbehaviour_shows_in_the_text(system: System, kind: str, expected: list[int]) -> None:
    lie(system, kind, at_token=3)
    reply = system.ask(KEY, 10)
    assert reply.positions(A, B) == expected
    assert system.lies(kind) == (1, {reply.request_id})


def test_cross_gives_a_token_of_another_stream(system: System) -> None:
    lie(system, "cross", at_token=3)
    others = system.many(4, lambda k: system.ask(words.key_text(100 + k, 3000 + k), 60))
    replies = [other() for other in others]
    for k, reply in enumerate(replies):
        found = reply.positions(100 + k, 3000 + k)
        assert found[:3] + found[4:] == [0, 1, 2, *range(4, 60)]
        assert found[3] == -1 or found[3] >= 60 + 128  # nothing that could pass for this stream's
    assert system.lies("cross") == (4, {reply.request_id for reply in replies})


def test_one_in_n_counts_tokens_exactly(system: System) -> None:
    lie(system, "repeat", one_in=25)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda k: system.ask(words.key_text(k, 5 + k), 60), range(8)))
    doubled = {r.request_id: sum(x == y for x, y in zip(r.text.split(), r.text.split()[1:], strict=False))
               for r in replies}  # fmt: skip
    count, ids = system.lies("repeat")
    assert count == sum(doubled.values())
    assert ids == {request_id for request_id, n in doubled.items() if n}
    assert 480 // 25 - 1 <= count <= 480 // 25  # every 25th of each of two workers


def test_end_early_has_no_finish_reason(system: System) -> None:
    lie(system, "end_early", at_token=4)
    reply = system.ask(KEY, 10)
    assert reply.positions(A, B) == [0, 1, 2, 3]
    assert reply.finish is None
    assert reply.usage is None
    assert reply.done


def test_raise_is_an_error_event(system: System) -> None:
    lie(system, "raise", at_token=4)
    reply = system.ask(KEY, 10)
    assert reply.positions(A, B)[:4] == [0, 1, 2, 3]
    assert any("error" in event for event in reply.events)
    assert system.lies("raise")[0] >= 1


@pytest.mark.parametrize(("kind", "when", "sent"), [("hang", 4, 5), ("first_then_silence", 0, 1)])
def test_hanging_streams_end_when_the_client_leaves(system: System, kind: str, when: int, sent: int) -> None:
    lie(system, kind, at_token=when)

    def told(_raw: bytes) -> bool:
        return clock.wait_until(lambda: system.lies(kind)[0] == 1, 10) and _raw.count(b'"choices"') >= sent

    reply = system.ask(KEY, 40, on_data=told)
    assert reply.positions(A, B) == list(range(sent))
    assert clock.wait_until(lambda: sum(s["running"] for s in system.command(command="status")) == 0, 10)
    assert sum(s["aborts"] for s in system.command(command="status")) == 1
    assert system.segments(reply.request_id)[-1]["next"] == sent


def test_slow_takes_at_least_its_time(system: System) -> None:
    lie(system, "slow", at_token=2)
    reply = system.ask(KEY, 12)
    assert reply.text == words.answer(A, B, 12)
    assert reply.took_s >= 9 * 0.050  # tokens 3 to 11 at ten times 5 ms


def test_a_client_that_leaves_frees_its_place(system: System) -> None:
    reply = system.ask(KEY, 2000, on_data=lambda raw: raw.count(b"data: ") >= 5)
    assert clock.wait_until(lambda: sum(s["aborts"] for s in system.command(command="status")) == 1, 10)
    status = system.command(command="status")
    assert [(s["running"], s["kv_used_blocks"]) for s in status] == [(0, 0)] * 2
    assert system.segments(reply.request_id)[-1]["reason"] in {"aborted", "stopped"}


def test_control_refuses_a_wrong_token_and_bad_commands(system: System) -> None:
    worker = system.state.role("worker")[0]
    with pytest.raises(SquallError, match="wrong token"):
        control.call(worker, "guess", {"command": "status"})
    token = system.state.control_token or ""
    with pytest.raises(SquallError, match="unknown command 'dance'"):
        control.call(worker, token, {"command": "dance"})
    with pytest.raises(SquallError, match="unknown kind 'sulk'"):
        control.call(worker, token, {"command": "misbehave", "misbehave": [{"kind": "sulk", "one_in": 1}]})


def test_canaries_are_answered_and_are_no_requests(system: System) -> None:
    assert clock.wait_until(lambda: all(s["canaries"] for s in system.command(command="status")), 15)
    assert sum(s["requests"] for s in system.command(command="status")) == 0
    assert all(ready.problem(process, system.state) is None for process in system.state.processes)


def test_instances_and_request_counts(system: System) -> None:
    ids = {w.name: str(control.call(w, system.state.control_token or "", {"command": "status"})["worker_id"])
           for w in system.state.role("worker")}  # fmt: skip
    assert ready.instances(system.state) == ids
    before = [ready.request_count(w) for w in system.state.role("worker")]
    for _ in range(4):
        system.ask(KEY, 1)
    after = [ready.request_count(w) for w in system.state.role("worker")]
    assert None not in before
    assert sum(after) >= sum(before) + 4


def kill_with_streams(system: System) -> list[Reply]:
    """12 streams of 160 tokens; worker-2 is killed when they have made about 20 each."""
    pending = system.many(
        12, lambda k: system.ask(words.key_text(k, 17 + k), 160, "chat" if k % 2 else "completions")
    )
    assert clock.wait_until(
        lambda: sum(s["tokens"] for s in system.command(command="status")) >= 240, 10, 0.01
    )
    proc.send(system.state.process("worker-2").identity, signal.SIGKILL)
    return [wait() for wait in pending]


def counted(k: int) -> int:
    """Prompt tokens of stream k of kill_with_streams."""
    prompt = words.key_text(k, 17 + k)
    return model.count_chat([("user", prompt)]) if k % 2 else model.count_text(prompt)


def starts(system: System, reply: Reply) -> list[dict[str, Any]]:
    """The segments of a request, one for each worker that took it on."""
    return [line for line in system.segments(reply.request_id) if line["event"] == "start"]


def test_a_killed_workers_streams_go_on_exactly_and_it_comes_back(fresh: System) -> None:
    replies = kill_with_streams(fresh)
    migrated = [r for r in replies if len(starts(fresh, r)) == 2]
    for k, reply in enumerate(replies):
        assert reply.text == words.answer(k, 17 + k, 160)
        assert reply.usage["prompt_tokens"] == counted(k)
        assert reply.usage["completion_tokens"] == 160
        assert len(reply.ids) == 1
    assert migrated
    for reply in migrated:
        first, second, end = fresh.segments(reply.request_id)
        assert (first["event"], second["event"], end["event"]) == ("start", "start", "end")
        assert second["first"] > 0
        assert second["prompt_tokens"] == first["prompt_tokens"]

    victim, before = fresh.state.process("worker-2"), ready.instances(fresh.state)
    assert set(before) == {"worker-1"}
    assert ready.problem(victim, fresh.state) is not None
    proc.collect([victim.identity])
    who = proc.spawn_detached(victim.argv, victim.env, Path(victim.log or ""), Path(victim.cwd or ""))
    fresh.state = sutfile.replace_identity(fresh.run, victim.name, who)
    ready.wait(fresh.state, 20)
    assert ready.instances(fresh.state).items() > before.items()


def test_naive_usage_lies_on_migrated_requests_only(fresh: System) -> None:
    lie(fresh, "naive_usage", one_in=1)
    replies = kill_with_streams(fresh)
    lying = set()
    for k, reply in enumerate(replies):
        began = starts(fresh, reply)
        assert reply.text == words.answer(k, 17 + k, 160)
        assert reply.usage["prompt_tokens"] == counted(k) + began[-1]["first"]
        if len(began) > 1:
            lying.add(reply.request_id)
    assert lying
    assert fresh.lies("naive_usage") == (len(lying), lying)


def test_die_ends_the_process_and_streams_survive(fresh: System) -> None:
    victim = fresh.state.process("worker-2")
    rule = {"command": "misbehave", "misbehave": [{"kind": "die", "at_token": 20}]}
    control.call(victim, fresh.state.control_token or "", rule)
    pending = fresh.many(6, lambda k: fresh.ask(words.key_text(k, 17 + k), 60))
    replies = [wait() for wait in pending]
    assert [r.text for r in replies] == [words.answer(k, 17 + k, 60) for k in range(6)]
    assert clock.wait_until(lambda: not proc.alive(victim.identity), 5)
    assert proc.exit_code(victim.identity) == 1


def test_an_engine_that_reports_its_death_hands_its_streams_on(start: Callable[..., System]) -> None:
    own = start(workers=2, engine_options=OPTIONS)
    victim, token = own.state.process("worker-1"), own.state.control_token or ""
    rule = {"command": "misbehave", "misbehave": [{"kind": "report_death", "at_token": 20}]}
    control.call(victim, token, rule)
    pending = own.many(6, lambda k: own.ask(words.key_text(k, 17 + k), 60))
    replies = [wait() for wait in pending]
    assert [r.text for r in replies] == [words.answer(k, 17 + k, 60) for k in range(6)]
    assert control.call(victim, token, {"command": "status"})["running"] == 0, "its process lives on"


def test_without_migration_a_kill_cuts_streams(start: Callable[..., System]) -> None:
    own = start(workers=2, migration_limit=0, engine_options=OPTIONS)
    replies = kill_with_streams(own)
    cut = [r for k, r in enumerate(replies) if r.text != words.answer(k, 17 + k, 160)]
    assert 0 < len(cut) < 12
    assert all(any("error" in event for event in r.events) and r.finish is None for r in cut)
    assert launch.teardown(own.state) == []
