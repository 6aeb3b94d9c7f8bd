"""Who counts how many tokens: /v1/responses, thoughts, tool calls and chunks of several tokens on real Dynamo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline import NO_FAULTS, SHORT, Done, run

from harness.core import words

pytestmark = [pytest.mark.sut, pytest.mark.timeout(240), pytest.mark.load]
PARSERS = ("sut.engine_options.reasoning_parser=qwen3", "sut.engine_options.tool_call_parser=hermes")
MIX = (
    "load.users=["
    "{class: ResponsesUser, count: 3, prompt_tokens: {uniform: [40, 60]}, output_tokens: 40}, "
    "{class: ResponsesUser, count: 1, prompt_tokens: 50, output_tokens: 30, reasoning_tokens: 10}, "
    "{class: ResponsesUser, count: 1, prompt_tokens: 50, output_tokens: 30, tool_call: true}, "
    "{class: ResponsesUser, count: 1, prompt_tokens: 50, output_tokens: 30, stream: false}, "
    "{class: ChatUser, count: 2, prompt_tokens: 50, output_tokens: 30, reasoning_tokens: 10}, "
    "{class: ChatUser, count: 1, prompt_tokens: 50, output_tokens: 30, tool_call: true}, "
    "{class: ChatUser, count: 1, prompt_tokens: 50, output_tokens: 30, reasoning_tokens: 10, tool_call: true}, "
    "{class: ChatUser, count: 1, prompt_tokens: 50, output_tokens: 30, chunk_usage: true}, "
    "{class: CancellingUser, count: 1, prompt_tokens: 50, output_tokens: 60, reasoning_tokens: 30, cancel: {after_tokens: 5, mode: rst}}]"
)
MARKS = {
    shape: len(shape.marks) for shape in (words.Shape(10), words.Shape(call=True), words.Shape(10, True))
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = run(tmp_path_factory.mktemp("accounts") / "run", *SHORT, *NO_FAULTS, *PARSERS, MIX)
    assert done.code == 0, done.out + done.err
    return done


def test_every_route_and_shape_is_exact(mixed: Done) -> None:
    requests = mixed.requests
    whole = requests[requests.outcome == "ok"]
    assert set(whole.route) == {"chat", "responses"} and set(requests.outcome) == {"ok", "cancelled"}
    assert (whole.usage_prompt_tokens == whole.prompt_tokens).all()
    assert (whole.usage_completion_tokens == whole.witness_tokens + whole.hidden_tokens).all()
    assert (whole.tokens_received == whole.witness_tokens).all()
    hidden = set(whole[whole.route == "chat"].hidden_tokens)
    assert hidden == {0, *MARKS.values()}
    responses = whole[whole.route == "responses"]
    assert set(responses.hidden_tokens) == {0, 10 + MARKS[words.Shape(10)], MARKS[words.Shape(call=True)]}
    assert (responses.reasoning_tokens == 0).all()  # this route keeps them to itself
    assert set(whole[whole.route == "chat"].reasoning_tokens) == {0, 10}


def test_a_call_comes_in_one_chunk(mixed: Done) -> None:
    whole = mixed.requests[mixed.requests.outcome == "ok"]
    called = whole[(whole.tool_tokens > 0) & (whole.reasoning_tokens == 0)]
    assert len(called) and (called.token_events == 1).all() and (called.tool_tokens == 30).all()
    assert (called.gaps_us.map(lambda gaps: list(gaps) == [0] * 29)).all()


def test_the_report_sets_the_accounts_side_by_side(mixed: Done) -> None:
    rows = mixed.json("report/report.json")["accounts"]
    assert {row["route"] for row in rows} == {"chat", "responses"} and all(row["differ"] == 0 for row in rows)
    page, comment = (mixed.dir / "report" / name for name in ("report.html", "report.md"))
    assert (
        "Tokens, by three accounts" in page.read_text() and "Tokens, by three accounts" in comment.read_text()
    )


def test_thoughts_and_responses_migrate_word_for_word(tmp_path: Path) -> None:
    done = run(
        tmp_path / "run", *SHORT, *PARSERS, "sut.engine_options.tokens_per_chunk=3", "load.duration_s=14",
        "load.users=[{class: ResponsesUser, count: 4, prompt_tokens: 50, output_tokens: 120}, "
        "{class: ChatUser, count: 4, prompt_tokens: 50, output_tokens: 120, reasoning_tokens: 60}]",
        "faults=[{id: kill, fault: process.kill, select: {role: worker, count: 1}, at_s: 3, restart_after_s: 1}]",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    moved = done.requests[done.requests.migrated.fillna(0) > 0]
    assert set(moved.outcome) == {"ok"} and set(moved.route) == {"chat", "responses"}
    whole = done.requests[done.requests.outcome == "ok"]
    assert (whole.token_events * 2 < whole.tokens_received).all()  # three tokens a chunk, about


@pytest.mark.parametrize("kind", ["repeat", "drop", "corrupt", "end_early", "raise"])
def test_a_lie_is_found_on_every_route_and_shape(kind: str, tmp_path: Path) -> None:
    lie = f"sut.engine_options.misbehave=[{{kind: {kind}, one_in: {5 if kind in ('end_early', 'raise') else 90}}}]"
    users = MIX.replace(
        "{class: CancellingUser", "{class: ChatUser, count: 1, output_tokens: 30}, {class: CancellingUser"
    )
    done = run(tmp_path / "run", *SHORT, *NO_FAULTS, *PARSERS, users, lie)
    assert done.code == 1, done.out + done.err
    told: set[str] = set()
    for log in (done.dir / "logs").glob("*.segments.jsonl"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        told |= {one["request_id"] for one in lines if one["event"] == "lie"}
    bad = done.requests[~done.requests.outcome.isin(["ok", "cancelled"])]
    hidden = done.requests[
        (done.requests.route == "responses") & (done.requests.hidden_tokens > 0)
    ].request_id
    whole = set(done.requests[done.requests.outcome != "cancelled"].request_id)
    missed = (told & whole) - set(bad.request_id)
    assert set(bad.request_id) <= told and missed <= set(hidden)  # a lie about thoughts that nobody is shown
    assert {"chat", "responses"} <= set(bad.route)
