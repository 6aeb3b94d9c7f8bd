"""Thoughts, tool calls, chunks of several tokens: what counts as a token, by whom, from recorded bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import DONE, ID, MODEL, event, usage, word
from test_traffic_integrity import COUNT, FIXTURES, REAL, answer, replay

from harness.core import words
from harness.core.words import Shape
from harness.traffic.calls import Arguments
from harness.traffic.chain import Chain
from harness.traffic.transcript import Expectation, Findings

KEY, N = (17, 4001), 12
THINK, CALL, BOTH = Shape(reasoning=4), Shape(call=True), Shape(reasoning=4, call=True)


def want(shape: Shape, **more: Any) -> Expectation:
    return Expectation(tokens_expected=N, key=KEY, prompt_tokens=30, shape=shape, **more)


def said(first: int, stop: int) -> str:
    return "".join(word(KEY, i) for i in range(first, stop))


def delta(finish: str | None = None, **content: Any) -> bytes:
    return event(
        {"id": ID, "model": MODEL, "choices": [{"index": 0, "delta": content, "finish_reason": finish}]}
    )


def thoughts(first: int, stop: int) -> list[bytes]:
    return [delta(reasoning_content=said(i, i + 1)) for i in range(first, stop)]


def texts(first: int, stop: int) -> list[bytes]:
    return [delta("length" if i == N - 1 else None, content=said(i, i + 1)) for i in range(first, stop)]


def fragment(text: str, finish: str | None = None, index: int = 0) -> bytes:
    return delta(finish, tool_calls=[{"index": index, "function": {"arguments": text}}])


def arguments(first: int, stop: int) -> str:
    return json.dumps({"text": said(first, stop)})


def end(shape: Shape) -> list[bytes]:
    return [usage(30, N + len(shape.marks)), DONE]


def accounts(found: Findings) -> tuple[int | None, ...]:
    """usage, chunks, witness, hidden, thoughts, arguments."""
    return (
        found.usage_completion_tokens, found.token_events, found.witness_tokens, found.hidden_tokens,
        found.reasoning_tokens, found.tool_tokens,
    )  # fmt: skip


def test_thoughts_are_words_of_the_chain() -> None:
    found = answer([*thoughts(0, 4), *texts(4, N), *end(THINK)], want=want(THINK))
    assert (found.outcome, found.violations) == ("ok", [])
    assert accounts(found) == (N + 15, N, N, 15, 4, 0)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_under_either_name_and_beside_text(name: str) -> None:
    both = delta(**{name: said(0, 4), "content": said(4, 6)})
    found = answer([both, *texts(6, N), *end(THINK)], want=want(THINK))
    assert (found.outcome, found.tokens_received, found.reasoning_tokens) == ("ok", N, 4)
    assert found.gaps_us[:5] == [0] * 5


@pytest.mark.parametrize(
    ("parts", "violations"),
    [
        ([*thoughts(0, 3), *texts(3, N)], ["lost_tokens", "foreign_tokens"]),  # a thought that is shown as text
        ([*thoughts(0, 5), *texts(5, N)], ["lost_tokens", "foreign_tokens"]),  # text that is hidden as a thought
        ([*thoughts(0, 3), *texts(4, N)], ["lost_tokens", "usage_completion_mismatch"]),
        ([*thoughts(0, 4), *thoughts(3, 4), *texts(4, N)], ["duplicated_tokens", "usage_completion_mismatch"]),
        ([*texts(4, N)], ["lost_tokens", "usage_completion_mismatch"]),  # chat hides no thoughts
    ],
)  # fmt: skip
def test_what_a_parser_may_spoil(parts: list[bytes], violations: list[str]) -> None:
    found = answer([*parts, *end(THINK)], want=want(THINK))
    assert (found.outcome, found.violations) == ("corrupted", violations)


def test_thoughts_nobody_asked_for_are_foreign() -> None:
    found = answer([*thoughts(0, 4), *texts(4, N), usage(30, N), DONE], want=want(Shape()))
    assert (found.outcome, found.foreign_tokens, found.lost_tokens) == ("corrupted", 4, 4)


@given(st.lists(st.integers(0, 90), max_size=12), st.booleans())
def test_a_call_is_read_however_it_is_cut(cuts: list[int], thinking: bool) -> None:
    shape = BOTH if thinking else CALL
    whole = arguments(shape.reasoning, N)
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    parts = [fragment(whole[a:b]) for a, b in pairwise(at)]
    called = [*thoughts(0, shape.reasoning), *parts, delta("tool_calls")]
    found = answer([*called, *end(shape)], want=want(shape))
    assert (found.outcome, found.violations, found.tokens_received) == ("ok", [], N)
    assert (found.reasoning_tokens, found.tool_tokens) == (shape.reasoning, N - shape.reasoning)
    assert len(found.gaps_us) == N - 1


@pytest.mark.parametrize(
    ("fragments", "violations"),
    [
        ([arguments(0, N)[:-1]], ["malformed_event"]),
        ([arguments(0, 3) + arguments(3, N)], ["short_stream", "usage_completion_mismatch", "malformed_event"]),
        ([json.dumps({"text": said(0, 3) + said(4, N)})], ["lost_tokens", "usage_completion_mismatch"]),
        (['{"words": "' + said(0, N) + '"}'], ["foreign_tokens", "short_stream", "usage_completion_mismatch"]),
        ([json.dumps({"text": said(0, N)[1:]})], ["lost_tokens", "foreign_tokens"]),
    ],
)  # fmt: skip
def test_spoiled_calls(fragments: list[str], violations: list[str]) -> None:
    called = [fragment(one) for one in fragments] + [delta("tool_calls")]
    found = answer([*called, *end(CALL)], want=want(CALL))
    assert (found.outcome, found.violations) == ("corrupted", violations)


def test_text_where_a_call_was_asked_for() -> None:
    found = answer([*texts(0, N), *end(CALL)], want=want(CALL))
    assert (found.foreign_tokens, found.tool_tokens) == (N, 0)
    called = answer([fragment(arguments(0, N)), delta("stop"), usage(30, N), DONE], want=want(Shape()))
    assert called.outcome == "corrupted" and called.foreign_tokens == N


def test_two_calls_are_put_together_apart() -> None:
    parts = [
        fragment('{"a": ', index=0),
        fragment('{"b": ', index=1),
        fragment("1}", index=0),
        fragment("2}", index=1),
    ]
    said_so = [*parts, delta("tool_calls"), usage(30, 6), DONE]
    assert answer(said_so, want=COUNT).violations == []
    assert answer(said_so[:3] + said_so[4:], want=COUNT).violations == ["malformed_event"]
    cut = [*parts[:1], delta("length"), usage(30, 12), DONE]
    assert answer(cut, want=COUNT).violations == []  # at a limit the arguments may be cut


def test_a_cut_stream_owes_no_marks() -> None:
    found = answer(thoughts(0, 3), "reset", want(THINK))
    assert (found.outcome, found.hidden_tokens, found.tokens_received) == ("truncated", None, 3)
    part = delta(content=said(4, 5))
    told = json.loads(part[6:]) | {"usage": {"prompt_tokens": 30, "completion_tokens": 20}}
    found = answer([*thoughts(0, 4), event(told)], "cancelled", want(THINK), cancel_ns=10**9)
    assert (found.outcome, found.violations) == ("cancelled", [])


def test_usage_with_each_chunk_counts_tokens_where_no_word_can_be_read() -> None:
    def chunk(text: str, so_far: int, finish: str | None = None) -> bytes:
        tree = json.loads(delta(finish, content=text)[6:])
        return event(tree | {"usage": {"prompt_tokens": 30, "completion_tokens": so_far}})

    parts = [chunk("a b c", 3), chunk("d", 4), chunk("e f g h i j k l", N, "length"), usage(30, N), DONE]
    found = answer(parts, want=COUNT)
    assert (found.outcome, found.tokens_received, found.token_events) == ("ok", N, 3)
    assert found.gaps_us == [0, 0, 10_000, 10_000, *[0] * 7]
    blind = [delta("length" if n == 2 else None, content="a b c d") for n in range(3)]
    found = answer([*blind, usage(30, N), DONE], want=COUNT)
    assert (found.outcome, found.tokens_received, found.usage_completion_tokens) == ("ok", 3, N)


@given(st.text(alphabet='{"text": babcd\\}', max_size=60), st.integers(0, 60))
def test_arguments_never_fail_and_cuts_change_nothing(text: str, cut: int) -> None:
    one, two = Arguments(), Arguments()
    whole = one.add(text)
    parts = two.add(text[:cut]) + two.add(text[cut:])
    assert (one.text, one.has_value, one.is_json) == (two.text, two.has_value, two.is_json)
    if one.has_value:
        assert whole == parts


def test_withheld_words_are_not_lost_and_come_once_only() -> None:
    chain = Chain(*KEY, N)
    chain.withhold(4)
    assert chain.take(said(4, N)) == N - 4
    assert (chain.lost, chain.short, chain.withheld) == (0, False, 4)
    chain.take(said(2, 3))
    assert chain.duplicated == 1


def recorded(name: str, n: int, shape: Shape = words.PLAIN, **more: Any) -> Findings:
    return replay(Path(FIXTURES / f"{name}.txt"), replace(REAL, tokens_expected=n, shape=shape, **more))


R2, R2C = Shape(reasoning=2), Shape(reasoning=2, call=True)


@pytest.mark.parametrize(
    ("name", "n", "shape", "stream", "told"),
    [  # told: usage, chunks, witness, hidden, thoughts, arguments
        ("1.6.1-chat-reasoning", 5, R2, True, (20, 5, 5, 15, 2, 0)),
        ("1.4.2-chat-reasoning", 5, R2, True, (20, 5, 5, 15, 2, 0)),
        ("1.6.1-chat-reasoning-migrated", 40, Shape(reasoning=20), True, (55, 40, 40, 15, 20, 0)),
        ("1.4.2-chat-reasoning-migrated", 40, Shape(reasoning=20), True, (55, 40, 40, 15, 20, 0)),
        ("1.6.1-chat-tool", 5, CALL, True, (72, 1, 5, 67, 0, 5)),
        ("1.4.2-chat-tool", 5, CALL, True, (72, 1, 5, 67, 0, 5)),
        ("1.6.1-chat-reasoning-tool", 5, R2C, True, (87, 3, 5, 82, 2, 3)),
        ("1.6.1-chat-reasoning-non-stream", 5, R2, False, (20, 1, 5, 15, 2, 0)),
        ("1.6.1-chat-tool-non-stream", 5, CALL, False, (72, 1, 5, 67, 0, 5)),
        ("1.6.1-chat-chunk-usage", 5, words.PLAIN, True, (5, 2, 5, 0, 0, 0)),
        ("1.6.1-completions-chunk-usage", 5, words.PLAIN, True, (5, 2, 5, 0, 0, 0)),
        ("1.4.2-completions-chunk-usage", 5, words.PLAIN, True, (5, 2, 5, 0, 0, 0)),
    ],
)  # fmt: skip
def test_dynamos_own_shapes(name: str, n: int, shape: Shape, stream: bool, told: tuple[int, ...]) -> None:
    found = recorded(name, n, shape, stream=stream)
    assert (found.outcome, found.violations) == ("ok", [])
    assert accounts(found) == told
    other = recorded(name, n, Shape() if shape.marks else R2, stream=stream)
    assert other.outcome == "corrupted"  # the same bytes for somebody who asked for another shape


@pytest.mark.parametrize("name", ["chat-reasoning", "chat-reasoning-tool", "chat-tool"])
def test_altered_bytes_of_dynamo(name: str, tmp_path: Path) -> None:
    shape = {"chat-reasoning": R2, "chat-reasoning-tool": R2C, "chat-tool": CALL}[name]
    data = (FIXTURES / f"1.6.1-{name}.txt").read_bytes()
    assert data.count(b" badi") == 1
    (tmp_path / "altered.txt").write_bytes(data.replace(b" badi", b" baba"))
    found = replay(tmp_path / "altered.txt", replace(REAL, tokens_expected=5, shape=shape))
    assert (found.outcome, found.lost_tokens, found.foreign_tokens) == ("corrupted", 1, 1)


def test_without_a_witness_chunks_count_and_usage_tells_the_rest() -> None:
    for name, chunks, told in (("chat-reasoning", 5, 20), ("chat-tool", 1, 72), ("mocker-chat", 8, 8)):
        found = replay(FIXTURES / f"1.6.1-{name}.txt", Expectation(tokens_expected=told))
        assert (found.outcome, found.violations) == ("ok", [])
        assert (found.tokens_received, found.usage_completion_tokens) == (chunks, told)
        assert (found.witness_tokens, found.hidden_tokens) == (None, None)
    found = replay(FIXTURES / "1.6.1-chat-chunk-usage.txt", Expectation(tokens_expected=5))
    assert (found.outcome, found.tokens_received, found.token_events) == ("ok", 5, 2)


def test_what_dynamo_says_of_its_thoughts() -> None:
    assert recorded("1.6.1-chat-reasoning", 5, R2).usage_reasoning_tokens == 10  # two words and the end mark
    assert recorded("1.6.1-chat-tool", 5, CALL).usage_reasoning_tokens == 0
    assert recorded("1.4.2-chat-reasoning", 5, R2).usage_reasoning_tokens is None


def test_pieces_alike_are_never_taken_for_thoughts() -> None:
    """Reading many alike pieces at once is for text: thoughts and what follows them are read one by one."""
    from harness.traffic.reading import Reader

    reader = Reader(want(THINK))
    for index, part in enumerate([delta(role="assistant"), *thoughts(0, 4)]):
        reader.feed(index, part)
        assert reader.like() is None
    reader.feed(6, texts(4, 5)[0])
    like = reader.like()
    assert like is not None and like.limit == N - 5
