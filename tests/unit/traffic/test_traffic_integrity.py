from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import streams
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import DONE, event, token, usage, witness, word

from harness.core.records import OUTCOMES, VIOLATIONS
from harness.traffic import chunks
from harness.traffic.http1 import Response
from harness.traffic.integrity import judge
from harness.traffic.pieces import Pieces
from harness.traffic.transcript import End, Expectation, Findings, Transcript

KEY = (17, 4001)
N = 12
WANT = Expectation(tokens_expected=N, key=KEY, prompt_tokens=30)
GOOD = witness(KEY, N)
COUNT = Expectation(tokens_expected=N, prompt_tokens=30)


def answer(parts: list[bytes], end: End = "complete", want: Expectation = WANT, **fields: Any) -> Findings:
    """One piece for each part, 10 ms apart, from 1 s on; the request was sent at 0.5 s."""
    bodies = list(enumerate(parts))
    times = [1_000_000_000 + 10_000_000 * k for k in range(len(parts))]
    values: dict[str, Any] = {
        "start_ns": 500_000_000, "end_ns": 9_000_000_000, "end": end, "status": 200,
        "content_type": "text/event-stream", "bodies": bodies, "times": times, "body_complete": end == "complete",
    } | fields  # fmt: skip
    return judge(Transcript(**values), want)


def test_a_perfect_answer() -> None:
    found = answer(GOOD)
    assert (found.outcome, found.violations, found.error) == ("ok", [], None)
    assert (found.tokens_received, found.finish_reason, found.response_id) == (N, "length", streams.ID)
    assert (found.usage_prompt_tokens, found.usage_completion_tokens) == (30, N)
    assert found.gaps_us == [10_000] * (N - 1)
    assert (found.t_first_ns, found.t_last_ns) == (1_000_000_000, 1_000_000_000 + 10_000_000 * (N - 1))
    assert (found.coalesced, found.time_error_us) == (0, None)


def test_completions() -> None:
    found = answer(witness(KEY, N, route="completions"))
    assert (found.outcome, found.tokens_received) == ("ok", N)


def swap(parts: list[bytes], i: int) -> list[bytes]:
    return [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]]


def other(**change: Any) -> bytes:
    value = json.loads(GOOD[3][6:])
    return event(value | change)


NEGATIVE: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "lost_tokens": ([*GOOD[:3], *GOOD[4:N], usage(30, N - 1), DONE], {"lost_tokens": 1}),
    "duplicated_tokens": ([*GOOD[:3], *GOOD[2:N], usage(30, N + 1), DONE], {"duplicated_tokens": 1}),
    "reordered_tokens": (swap(GOOD, 4), {"reordered_tokens": 1, "lost_tokens": 0}),
    "foreign_tokens": (
        [*GOOD[:3], token(" zzzz"), *GOOD[3:N], usage(30, N + 1), DONE],
        {"foreign_tokens": 1},
    ),
    "extra_tokens": ([*GOOD[:N], token(word(KEY, N)), usage(30, N + 1), DONE], {"extra_tokens": 1}),
    "short_stream": (witness(KEY, N - 2), {"tokens_received": N - 2}),
    "missing_done": (GOOD[:-1], {}),
    "data_after_done": ([*GOOD, usage(30, N)], {}),
    "usage_prompt_mismatch": ([*GOOD[:N], usage(31, N), DONE], {"usage_prompt_tokens": 31}),
    "usage_completion_mismatch": ([*GOOD[:N], usage(30, N + 1), DONE], {"usage_completion_tokens": N + 1}),
    "id_changed": ([*GOOD[:3], other(id="chatcmpl-2"), *GOOD[4:]], {}),
    "model_changed": ([*GOOD[:3], other(model="m2"), *GOOD[4:]], {}),
    "malformed_event": ([*GOOD[:3], b"data: {nope\n\n", *GOOD[3:]], {}),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_each_violation_alone(name: str) -> None:
    parts, columns = NEGATIVE[name]
    found = answer(parts)
    assert (found.outcome, found.violations) == ("corrupted", [name])
    assert {column: getattr(found, column) for column in columns} == columns
    assert name in (found.error or "")


def test_missing_finish_is_truncated() -> None:
    parts = [*GOOD[: N - 1], token(word(KEY, N - 1)), usage(30, N), DONE]
    found = answer(parts)
    assert (found.outcome, found.violations) == ("truncated", ["missing_finish"])


def test_error_event() -> None:
    error = event(
        {"error": {"message": "Service temporarily unavailable", "type": "service_unavailable", "code": 503}}
    )
    found = answer([*GOOD[:5], error, DONE])
    assert found.outcome == "stream_error"
    assert found.violations == ["short_stream", "missing_finish", "error_event"]
    assert found.error == "Service temporarily unavailable (service_unavailable, 503)"
    assert found.response_id == streams.ID


@pytest.mark.parametrize("text", [b"event: error\ndata: \"gone\"\n\n", b"event: error\n: gone\n\n", event({"object": "error", "message": "gone"}),
                                  event({"error": "gone"}), event({"id": 5, "error": {"message": "gone"}})])  # fmt: skip
def test_error_events_of_other_servers(text: bytes) -> None:
    found = answer([*GOOD[:5], text])
    assert found.outcome == "stream_error" and "error_event" in found.violations
    assert "gone" in (found.error or "") and "malformed_event" not in found.violations


def test_wrong_content_type() -> None:
    assert answer(GOOD, content_type="text/plain").violations == ["wrong_content_type"]
    assert answer(GOOD, content_type=None).violations == ["wrong_content_type"]
    assert answer(GOOD, content_encoding="gzip").violations == ["wrong_content_type"]
    assert answer(GOOD, content_type="Text/Event-Stream; charset=utf-8").outcome == "ok"
    found = answer([b'{"choices": []}'], content_type="application/json")
    assert found.outcome == "corrupted"
    assert found.violations == ["short_stream", "missing_finish", "missing_done", "wrong_content_type"]


def test_every_violation_has_a_negative_control() -> None:
    others = {"missing_finish", "error_event", "wrong_content_type"}  # the three tests above
    assert set(NEGATIVE) | others == set(VIOLATIONS)


def test_outcomes_in_their_order() -> None:
    error = event({"error": {"message": "x"}})
    cut = GOOD[:5]
    assert answer([*cut, error], "cancelled", status=529).outcome == "cancelled"
    assert answer([b'{"message": "Overloaded"}'], status=529).outcome == "shed"
    assert answer([error], "timeout", status=500).outcome == "http_error"
    assert answer([*cut, error], "timeout").outcome == "stream_error"
    assert answer(cut, "timeout").outcome == "timed_out"
    assert answer([], "timeout", status=0).outcome == "timed_out"
    assert answer(cut, "drain").outcome == "timed_out"
    assert answer([], "reset", status=0).outcome == "transport_error"
    assert answer([], "refused", status=0).outcome == "transport_error"
    assert answer([], "malformed", status=0).outcome == "transport_error"
    assert answer(cut, "reset").outcome == "truncated"
    assert answer(cut, "closed").outcome == "truncated"
    assert answer(cut).outcome == "truncated"
    assert answer(NEGATIVE["lost_tokens"][0]).outcome == "corrupted"
    assert answer(GOOD).outcome == "ok"
    assert answer(GOOD, "closed").outcome == "ok"  # all was said


def test_which_checks_apply() -> None:
    tail = {"short_stream", "missing_finish", "missing_done"}
    for end in ("timeout", "closed", "reset"):
        assert set(answer(GOOD[:5], end).violations) == tail
    assert answer(GOOD[:5], "cancelled").violations == []
    assert answer([*GOOD[:2], *GOOD[4:6]], "cancelled").violations == ["lost_tokens"]
    for status in (503, 500, 404, 302, 204):
        found = answer(NEGATIVE["id_changed"][0], status=status)
        assert found.violations == [] and found.lost_tokens == 0
    assert answer([], "reset", status=0).violations == []
    assert set(answer([*GOOD[:5], b"data: {"], "malformed").violations) == tail | {"malformed_event"}
    assert answer(GOOD, want=replace(WANT, prompt_tokens=None)).outcome == "ok"
    assert answer([*GOOD[:N], usage(99, N), DONE], want=replace(WANT, prompt_tokens=None)).outcome == "ok"


def test_error_texts() -> None:
    assert answer([b'{"error": {"message": "no model"}}'], status=404).error == "HTTP 404: no model"
    assert answer([b"oops"], status=500).error == "HTTP 500: oops"
    assert answer([], status=500).error == "HTTP 500: (no body)"
    assert answer(GOOD[:5], "reset", error="Connection reset by peer").error == "Connection reset by peer"


def test_several_tokens_in_one_event() -> None:
    pair = token(word(KEY, 3) + word(KEY, 4) + word(KEY, 5))
    found = answer([*GOOD[:3], pair, *GOOD[6:]])
    assert (found.outcome, found.tokens_received, found.coalesced) == ("ok", N, 0)
    assert found.gaps_us == [10_000] * 3 + [0, 0] + [10_000] * (N - 6)
    assert len(found.gaps_us) == N - 1
    first = answer([token("".join(word(KEY, i) for i in range(N)), "length"), usage(30, N), DONE])
    assert first.gaps_us == [0] * (N - 1) and first.outcome == "ok"


def test_coalesced_events_have_an_error_bound() -> None:
    parts = [GOOD[0], b"".join(GOOD[1:4]), *GOOD[4:]]
    found = answer(parts)
    assert (found.coalesced, found.time_error_us, found.coalesced_late) == (2, 10_000, 2)
    assert found.gaps_us[:3] == [10_000, 0, 0]
    early = answer([b"".join(GOOD[:2]), *GOOD[2:]])
    assert (early.coalesced, early.time_error_us) == (1, 500_000)  # since the request was sent
    tail = answer([*GOOD[: N - 1], b"".join(GOOD[N - 1 :])])
    # Usage and [DONE] are no tokens, but the read has their time.
    assert (tail.coalesced, tail.time_error_us, tail.coalesced_late) == (0, 10_000, 0)
    half = answer([*GOOD[:3], GOOD[3] + GOOD[4][:9], GOOD[4][9:], *GOOD[5:]])
    assert (half.coalesced, half.time_error_us) == (0, 10_000)

    close = answer(parts, times=[10**9, 10**9 + 1500, *range(2 * 10**9, 2 * 10**9 + len(parts) - 2)])
    assert (close.time_error_us, close.coalesced_late) == (2, 0)


def test_what_could_not_be_read_before_can_not_have_come_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pieces, "since", lambda self, index: 1_010_000_000 - 700_000 if index == 1 else 0)
    found = answer([GOOD[0], b"".join(GOOD[1:4]), *GOOD[4:]])
    assert (found.coalesced, found.time_error_us, found.coalesced_late) == (2, 700, 0)


def test_an_event_cut_in_two_arrives_with_its_end() -> None:
    half = len(GOOD[1]) // 2
    found = answer([GOOD[0], GOOD[1][:half], GOOD[1][half:] + GOOD[2], *GOOD[3:]])
    assert found.gaps_us[:2] == [20_000, 0] and found.coalesced == 1 and found.outcome == "ok"


def test_counting_oracle() -> None:
    def said(tokens: int, finish: str | None, told: int | None) -> Findings:
        body = [token(f"x{k}") for k in range(tokens)]
        body += [event({"id": streams.ID, "choices": [{"delta": {}, "finish_reason": finish}]})]
        body += [usage(30, told)] if told is not None else []
        return answer([*body, DONE], want=COUNT)

    assert said(N, "length", N).outcome == "ok"
    assert said(5, "stop", 5).outcome == "ok"
    assert said(5, "length", N).outcome == "ok"  # several tokens an event
    assert said(5, "length", None).outcome == "ok"  # can't be told
    assert said(5, "length", 5).violations == ["short_stream", "usage_completion_mismatch"]
    assert said(N + 3, "length", N + 3).violations == ["extra_tokens", "usage_completion_mismatch"]
    assert said(N + 3, "length", N + 3).extra_tokens == 3
    assert said(6, "stop", 5).violations == ["usage_completion_mismatch"]
    assert said(5, None, None).violations == ["short_stream", "missing_finish"]
    found = said(N, "length", N)
    assert (found.lost_tokens, found.foreign_tokens) == (0, 0)


def test_reasoning_and_tool_calls_are_output() -> None:
    parts = [event({"choices": [{"delta": d}]}) for d in ({"role": "assistant", "content": ""}, {"reasoning_content": "a"},
             {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, {"content": "b"})]  # fmt: skip
    assert answer(parts, want=COUNT).tokens_received == 3
    assert answer(parts).foreign_tokens == 3


def test_engine_worker_id() -> None:
    found = answer([other(nvext={"worker_id": {"decode_worker_id": 2**63 + 5}})])
    assert found.engine_worker_id == str(2**63 + 5)
    for nvext in (None, 1, {}, {"worker_id": 3}, {"worker_id": {"decode_worker_id": True}}):
        assert answer([other(nvext=nvext)]).engine_worker_id is None


def test_annotations_are_no_events_of_ours() -> None:
    note = b"event: llm_metrics\ndata: not json\n\n"
    assert answer([GOOD[0], note, b": ping\n\n", *GOOD[1:]]).outcome == "ok"


def test_an_incomplete_last_event_does_not_count() -> None:
    found = answer([*GOOD[:-1], b"data: [DONE]\n"])
    assert found.violations == ["missing_done"]


WITHOUT_TIME = ("t_first_ns", "t_last_ns", "gaps_us", "coalesced", "time_error_us", "coalesced_late")


def untimed(found: Findings) -> dict[str, Any]:
    columns = msgspec.structs.asdict(found)
    return {name: value for name, value in columns.items() if name not in WITHOUT_TIME}


@settings(max_examples=60)
@given(st.sampled_from(["good", *NEGATIVE]), st.data())
def test_cuts_change_nothing(name: str, data: st.DataObject) -> None:
    parts = GOOD if name == "good" else NEGATIVE[name][0]
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert untimed(answer(pieces)) == untimed(answer(parts))


lies = st.sampled_from([*GOOD, DONE, b"data: {}\n\n", b"data: null\n\n", b"data: []\n\n", b"\n", b"data: ", b"\xff",
                        event({"choices": "x"}), event({"choices": [{"delta": {"content": 3}}]}), event({"id": 1}),
                        event({"usage": {"prompt_tokens": 10**30}, "choices": []}), event({"error": [1]}),
                        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n', b"data: " + b"[" * 5000 + b"\n\n",
                        event({"usage": {"prompt_tokens": -1}}), event({"choices": [{"finish_reason": ""}]}),
                        event({"choices": [{"delta": {"content": " \u2028 x\n y"}}]})])  # fmt: skip


@given(st.lists(lies | st.binary(max_size=30), max_size=15), st.sampled_from(["complete", "reset", "timeout", "cancelled"]),
       st.sampled_from([0, 200, 200, 200, 503, 500]), st.sampled_from([WANT, COUNT]))  # fmt: skip
def test_any_body_is_judged(parts: list[bytes], end: End, status: int, want: Expectation) -> None:
    found = answer(parts, end, want, status=status)
    assert found.outcome in OUTCOMES
    assert set(found.violations) <= set(VIOLATIONS)
    assert (found.outcome == "ok") <= (not found.violations)
    assert (found.outcome == "corrupted") <= bool(found.violations)
    assert len(found.gaps_us) == max(0, found.tokens_received - 1)
    msgspec.json.encode(found)


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b"3", b'"x"', b'{"id": 3}', b'{"choices": 1}', b"\xff", b'{"id": "\xff"}', b"[" * 100_000],
)
def test_no_chunk(data: bytes) -> None:
    assert chunks.decode(data) is None


FIXTURES = Path(__file__).parents[2] / "fixtures" / "sse"
REAL = Expectation(tokens_expected=5, key=(5, 7))


def replay(path: Path, want: Expectation, cut: int = 997) -> Findings:
    """A recorded response, framing included, read in pieces of `cut` bytes."""
    data, response, bodies = path.read_bytes(), Response(), []
    for index, at in enumerate(range(0, len(data), cut)):
        bodies.append((index, response.feed(data[at : at + cut])))
    response.eof()
    assert response.complete and response.error is None and response.surplus == 0
    kind = response.header("content-type")
    return judge(Transcript(0, 10**9, "complete", response.status, kind, None, bodies, [0] * len(bodies), None, True), want)  # fmt: skip


@pytest.mark.parametrize("version", ["1.6.1", "1.4.2"])
@pytest.mark.parametrize(("name", "n", "outcome", "violations"), [
    ("chat", 5, "ok", []), ("completions", 5, "ok", []), ("chat-migrated", 40, "ok", []),
    ("chat-cut", 40, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("chat-raise", 6, "stream_error", ["short_stream", "missing_finish", "error_event"]),
    ("chat-end_early", 6, "truncated", ["short_stream", "missing_finish"]),
    ("chat-repeat", 6, "corrupted", ["duplicated_tokens"]),
    ("chat-non-stream", 5, "corrupted", ["short_stream", "missing_finish", "missing_done", "wrong_content_type"]),
    ("no-worker", 5, "shed", []), ("wrong-model", 5, "http_error", []), ("bad-json", 5, "http_error", []),
])  # fmt: skip
def test_dynamos_own_bytes(version: str, name: str, n: int, outcome: str, violations: list[str]) -> None:
    found = replay(FIXTURES / f"{version}-{name}.txt", replace(REAL, tokens_expected=n))
    assert (found.outcome, found.violations) == (outcome, violations)
    if outcome == "ok":
        assert found.tokens_received == n == found.usage_completion_tokens
        assert (found.response_id or "").partition("-")[2] == "0d5e1c1e-4c1d-4d0a-9b1e-5c0ffee00001"
        assert (found.engine_worker_id or "").isdigit()
    one = untimed(replay(FIXTURES / f"{version}-{name}.txt", replace(REAL, tokens_expected=n), 1))
    assert one == untimed(found)
