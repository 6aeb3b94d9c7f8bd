"""/v1/responses: the same words, in events of other names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import word
from test_traffic_integrity import FIXTURES, REAL, answer, replay

from harness.core.words import Shape
from harness.traffic import responses
from harness.traffic.transcript import Expectation, Findings

KEY, N = (17, 4001), 6
WANT = Expectation(tokens_expected=N, key=KEY, prompt_tokens=30, route="responses")
USAGE = {"input_tokens": 30, "output_tokens": N, "output_tokens_details": {"reasoning_tokens": 0}}
RESPONSE = {"id": "resp_1", "model": "m", "error": None, "usage": None, "status": "in_progress"}


def named(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def whole(kind: str, **fields: Any) -> dict[str, Any]:
    return named(kind, response={**RESPONSE, **fields})


def good(n: int = N) -> list[dict[str, Any]]:
    text = [word(KEY, i) for i in range(n)]
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return [
        whole("response.created"), whole("response.in_progress"),
        named("response.output_item.added", item={"type": "message", "id": "msg_1"}),
        *(named("response.output_text.delta", delta=one, **at) for one in text),
        named("response.output_text.done", text="".join(text), **at),
        named("response.output_item.done", item={"type": "message"}),
        whole("response.incomplete", status="incomplete", usage=USAGE, incomplete_details={"reason": "max_output_tokens"}),
    ]  # fmt: skip


def wire(events: list[dict[str, Any]], numbered: bool = True) -> list[bytes]:
    found = []
    for n, one in enumerate(events):
        tree = {**one, "sequence_number": n} if numbered else one
        found.append(f"event: {one['type']}\ndata: {json.dumps(tree)}\n\n".encode())
    return found


def judged(parts: list[bytes], **fields: Any) -> Findings:
    return answer(parts, want=fields.pop("want", WANT), **fields)


def test_a_perfect_answer_with_and_without_done_and_numbers() -> None:
    for parts in (wire(good()), [*wire(good()), b"data: [DONE]\n\n"], wire(good(), numbered=False)):
        found = judged(parts)
        assert (found.outcome, found.violations, found.error) == ("ok", [], None)
        assert (found.tokens_received, found.finish_reason, found.response_id) == (N, "length", "resp_1")
        assert (found.usage_prompt_tokens, found.usage_completion_tokens) == (30, N)
        assert found.usage_reasoning_tokens == 0 and len(found.gaps_us) == N - 1


def change(at: int, **fields: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda events: [{**one, **fields} if n == at else one for n, one in enumerate(events)]


def answer_of(at: int, **fields: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def spoil(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        at_ = at % len(events)
        return change(at_, response={**events[at_]["response"], **fields})(events)

    return spoil


SPOILED: dict[str, tuple[Callable[[list[dict[str, Any]]], list[dict[str, Any]]], list[str]]] = {
    "a word is lost": (
        lambda e: [*e[:4], *e[5:]],
        ["lost_tokens", "usage_completion_mismatch", "malformed_event"],
    ),
    "a word is altered": (change(4, delta=" zuzu"), ["lost_tokens", "foreign_tokens", "malformed_event"]),
    "the whole differs": (change(3 + N, text="bye"), ["malformed_event"]),
    "the id changes": (answer_of(-1, id="resp_2"), ["id_changed"]),
    "the model changes": (answer_of(-1, model="n"), ["model_changed"]),
    "usage of another length": (
        answer_of(-1, usage={"input_tokens": 31, "output_tokens": N + 1}),
        ["usage_prompt_mismatch", "usage_completion_mismatch"],
    ),
    "no end": (lambda e: e[:-1], ["missing_finish", "missing_done"]),
    "something after the end": (
        lambda e: [*e, named("response.output_text.delta", delta="x")],
        ["foreign_tokens", "data_after_done", "usage_completion_mismatch"],
    ),
    "a delta that is no text": (change(4, delta=5), ["lost_tokens", "malformed_event"]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled(name: str) -> None:
    spoil, violations = SPOILED[name]
    found = judged(wire(spoil(good())))
    assert set(violations) <= set(found.violations)
    assert found.outcome in ("corrupted", "truncated")


def test_events_out_of_turn_and_under_a_wrong_name() -> None:
    parts = wire(good())
    for spoiled in (
        [*parts[:1], *parts[2:]],
        [*parts[:1], parts[2], parts[1], *parts[3:]],
        [parts[0].replace(b"event: response.created", b"event: response.queued"), *parts[1:]],
        [*parts[:2], b"event: response.x\ndata: {nope\n\n", *parts[2:]],
    ):
        assert judged(spoiled).violations == ["malformed_event"]


def test_failures() -> None:
    broken = whole("response.failed", status="failed", error={"code": "server_error", "message": "gone"})
    bare = whole("response.failed", status="failed")
    plain = named("error", code="overloaded", message="gone")
    for last, text in (
        (broken, "gone (server_error)"),
        (bare, "the response failed"),
        (plain, "gone (overloaded)"),
    ):
        found = judged(wire([*good()[:5], last]))
        assert (found.outcome, found.error) == ("stream_error", text)
        assert found.violations == ["short_stream", "missing_finish", "error_event"]


def test_completed_means_stop_and_must_be_as_long_as_promised() -> None:
    short = [*good(3)[:-1], whole("response.completed", status="completed")]
    found = judged(wire(short))
    assert (found.outcome, found.finish_reason, found.violations) == ("corrupted", "stop", ["short_stream"])


@given(st.lists(st.sampled_from(wire(good())), max_size=12), st.binary(max_size=40), st.integers(0, 400))
def test_whatever_comes_is_judged(parts: list[bytes], junk: bytes, cut: int) -> None:
    whole_body = b"".join(parts)
    found = judged([whole_body[:cut], junk, whole_body[cut:]])
    assert found.outcome in ("ok", "corrupted", "truncated", "stream_error")
    assert found.tokens_received >= 0


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["type", "response", "delta", "output", "error", "usage", "sequence_number"]), x)).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_readers_never_fail(data: bytes) -> None:
    responses.Events().read(b"message", data)
    responses.decode_whole(data)


R2 = Shape(reasoning=2)


@pytest.mark.parametrize("version", ["1.6.1", "1.4.2"])
@pytest.mark.parametrize(("name", "n", "shape", "told"), [  # usage, chunks, witness, hidden
    ("responses", 5, Shape(), (5, 5, 5, 0)), ("responses-tool", 5, Shape(call=True), (72, 1, 5, 67)),
    ("responses-migrated", 40, Shape(), (40, 40, 40, 0)),
])  # fmt: skip
def test_dynamos_own_streams(version: str, name: str, n: int, shape: Shape, told: tuple[int, ...]) -> None:
    want = replace(REAL, tokens_expected=n, shape=shape, route="responses")
    found = replay(FIXTURES / f"{version}-{name}.txt", want)
    assert (found.outcome, found.violations) == ("ok", [])
    assert (
        found.usage_completion_tokens,
        found.token_events,
        found.witness_tokens,
        found.hidden_tokens,
    ) == told
    assert found.engine_worker_id is None and (found.response_id or "").startswith("resp_")
    chat = replay(FIXTURES / f"{version}-{name}.txt", replace(want, route="chat"))
    assert chat.outcome == "truncated" and chat.tokens_received == 0  # read as what it isn't


def test_dynamo_keeps_thoughts_to_itself_on_this_route() -> None:
    want = replace(REAL, tokens_expected=5, shape=R2, route="responses")
    found = replay(FIXTURES / "1.6.1-responses-reasoning.txt", want)
    assert (found.outcome, found.violations) == ("ok", [])
    assert (found.tokens_received, found.hidden_tokens, found.usage_completion_tokens) == (3, 17, 20)
    one = replace(want, shape=Shape(reasoning=1))  # and only those that were asked for
    assert replay(FIXTURES / "1.6.1-responses-reasoning.txt", one).lost_tokens == 1


@pytest.mark.parametrize(("name", "n", "outcome", "violations"), [
    ("1.6.1-responses-raise", 6, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("1.4.2-responses-raise", 6, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("1.6.1-responses-cut", 40, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("1.4.2-responses-cut", 40, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("1.6.1-responses-end_early", 6, "corrupted", ["short_stream"]),
    ("1.6.1-responses-repeat", 6, "corrupted", ["duplicated_tokens"]),
    ("1.6.1-responses-chunks", 5, "ok", []),
])  # fmt: skip
def test_dynamos_own_troubles(name: str, n: int, outcome: str, violations: list[str]) -> None:
    found = replay(FIXTURES / f"{name}.txt", replace(REAL, tokens_expected=n, route="responses"))
    assert (found.outcome, found.violations) == (outcome, violations)


def test_a_whole_answer_and_the_mockers_stream() -> None:
    want = replace(REAL, route="responses", stream=False)
    found = replay(FIXTURES / "1.6.1-responses-non-stream.txt", want)
    assert (found.outcome, found.violations, found.tokens_received) == ("ok", [], 5)
    assert found.engine_worker_id == "17580452498322104812" and found.finish_reason == "length"
    longer = replay(FIXTURES / "1.6.1-responses-non-stream.txt", replace(want, tokens_expected=6))
    assert longer.violations == ["short_stream"]
    counted = Expectation(tokens_expected=8, route="responses")
    found = replay(FIXTURES / "1.6.1-mocker-responses.txt", counted)
    assert (found.outcome, found.violations, found.tokens_received) == ("ok", [], 8)
