"""Answers that aren't streamed: the same judgement of the same words, one arrival, no gaps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import ID, MODEL, token, usage, witness, word
from test_traffic_client import Make, go, key_of, make  # noqa: F401 (a fixture)
from test_traffic_integrity import COUNT, KEY, WANT, N, answer

from harness.core.config import Cancel, UserClass
from harness.traffic.transcript import Expectation, Findings

WHOLE = replace(WANT, stream=False)
WHOLE_COUNT = replace(COUNT, stream=False)
TOKENS = [word(KEY, i) for i in range(N)]


def body(text: str, route: str = "chat", finish: str | None = "length", **more: Any) -> bytes:
    said = {"message": {"role": "assistant", "content": text}} if route == "chat" else {"text": text}
    used = {"prompt_tokens": 30, "completion_tokens": text.count(" ")}
    return json.dumps(
        {"id": ID, "model": MODEL, "choices": [{"index": 0, "finish_reason": finish, **said}], "usage": used, **more}
    ).encode()  # fmt: skip


def whole(*parts: bytes, want: Expectation = WHOLE, **fields: Any) -> Findings:
    return answer(list(parts), want=want, **{"content_type": "application/json", **fields})


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_perfect_answer_arrives_with_its_last_piece(route: str) -> None:
    data = body("".join(TOKENS), route, nvext={"worker_id": {"decode_worker_id": 7}})
    found = whole(data[:40], data[40:90], data[90:])
    assert (found.outcome, found.violations, found.error) == ("ok", [], None)
    assert (found.tokens_received, found.finish_reason, found.response_id) == (N, "length", ID)
    assert (found.usage_prompt_tokens, found.usage_completion_tokens) == (30, N)
    assert found.t_first_ns == found.t_last_ns == 1_020_000_000
    assert (found.gaps_us, found.coalesced, found.engine_worker_id) == ([], 0, "7")


NEGATIVE = {
    "lost_tokens": body("".join(TOKENS[:3] + TOKENS[4:])),
    "duplicated_tokens": body("".join(TOKENS[:3] + TOKENS[2:])),
    "reordered_tokens": body("".join([TOKENS[1], TOKENS[0], *TOKENS[2:]])),
    "foreign_tokens": body("".join([*TOKENS[:3], " zzzz", *TOKENS[3:]])),
    "extra_tokens": body("".join([*TOKENS, word(KEY, N)])),
    "short_stream": body("".join(TOKENS[:-2])),
    "usage_prompt_mismatch": body("".join(TOKENS), usage={"prompt_tokens": 31, "completion_tokens": N}),
    "usage_completion_mismatch": body("".join(TOKENS), usage={"prompt_tokens": 30, "completion_tokens": 1}),
    "malformed_event": b"{nope",
}


@pytest.mark.parametrize("violation", NEGATIVE)
def test_each_violation(violation: str) -> None:
    found = whole(NEGATIVE[violation])
    assert found.outcome == "corrupted"
    assert violation in found.violations
    assert "missing_done" not in found.violations


def test_bad_ends() -> None:
    data = body("".join(TOKENS))
    cut = whole(data[:50], end="closed")
    assert (cut.outcome, cut.t_first_ns, cut.tokens_received) == ("truncated", None, 0)
    assert cut.violations == ["short_stream", "missing_finish"]
    assert whole(body("".join(TOKENS), finish=None)).outcome == "truncated"
    assert whole(end="timeout", status=0).outcome == "timed_out"
    refused = whole(b'{"error":{"message":"gone","code":500}}', status=500)
    assert (refused.outcome, refused.error, refused.violations) == ("http_error", "HTTP 500: gone", [])
    told = whole(b'{"error":{"message":"gone","code":500}}')
    assert (told.outcome, told.error) == ("stream_error", "gone (500)")
    assert whole(data, content_type="text/event-stream").violations == ["wrong_content_type"]
    assert whole(b'{"id":"x"}').outcome == "corrupted"
    streamed = answer(witness(KEY, N), want=WHOLE)
    assert streamed.outcome == "corrupted"
    assert {"wrong_content_type", "malformed_event"} <= set(streamed.violations)


def test_without_the_words_usage_counts() -> None:
    found = whole(body("what ever it says"), want=WHOLE_COUNT)
    assert (found.outcome, found.tokens_received) == ("corrupted", 3)
    assert found.violations == ["short_stream", "usage_completion_mismatch"]
    full = body("x", usage={"prompt_tokens": 30, "completion_tokens": N})
    good = whole(full, want=WHOLE_COUNT)
    assert (good.outcome, good.tokens_received, good.gaps_us) == ("ok", N, [])


@given(st.lists(st.one_of(st.integers(0, N + 2), st.just(4000)), max_size=2 * N))
def test_the_same_words_are_judged_as_in_a_stream(order: list[int]) -> None:
    said = [word(KEY, i) for i in order]
    one = whole(body("".join(said)))
    many = answer(
        [*(token(text) for text in said), token("", "length"), usage(30, len(said)), b"data: [DONE]\n\n"]
    )
    names = ("outcome", "violations", "tokens_received", "lost_tokens", "duplicated_tokens",
             "reordered_tokens", "foreign_tokens", "extra_tokens", "finish_reason")  # fmt: skip
    assert {n: getattr(one, n) for n in names} == {n: getattr(many, n) for n in names}


def reply(spec: UserClass) -> list[bytes]:
    key = key_of(1, spec, 0, 0)
    data = body("".join(word(key, i) for i in range(N)), "completions" if "Comp" in spec.user_class else "chat",
                usage={"prompt_tokens": 40, "completion_tokens": N})  # fmt: skip
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return [head % len(data), data]


@pytest.mark.parametrize("name", ["ChatUser", "CompletionUser"])
def test_a_user_that_does_not_stream(make: Make, name: Any) -> None:  # noqa: F811
    spec = UserClass(user_class=name, count=1, prompt_tokens=40, output_tokens=N, stream=False)
    (one,), _, server = go(make, [reply(spec)], spec)
    assert (one.outcome, one.stream, one.gaps_us, one.violations) == ("ok", False, [], [])
    assert one.t_first_ns == one.t_last_ns
    head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    assert json.loads(sent)["stream"] is False
    assert "stream_options" not in json.loads(sent)
    assert b"Accept: application/json" in head


def test_a_cancel_before_the_answer(make: Make) -> None:  # noqa: F811
    spec = UserClass(
        user_class="CancellingUser", count=1, prompt_tokens=40, output_tokens=N, stream=False,
        cancel=Cancel(after_tokens=0, after_ms=5),
    )  # fmt: skip
    (one,), _, _ = go(make, [["hang"]], spec)
    assert (one.outcome, one.cancel_mode, one.stream) == ("cancelled", "rst", False)
