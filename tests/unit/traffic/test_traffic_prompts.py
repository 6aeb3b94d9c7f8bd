from __future__ import annotations

import json

import msgspec
import pytest

from harness.core import words
from harness.core.config import Cancel, Load, Scenario, Sut, UserClass
from harness.core.errors import ScenarioError
from harness.core.lengths import Distribution
from harness.sut import model
from harness.traffic import prompts

CHAT = UserClass(
    user_class="ChatUser", count=2, prompt_tokens=Distribution((30, 90)), output_tokens=Distribution((5, 9))
)
TEXT = UserClass(user_class="CompletionUser", count=2, prompt_tokens=40)


def count(route: str, text: str) -> int:
    return model.count_chat([("user", text)]) if route == "chat" else model.count_text(text)


@pytest.mark.parametrize(("spec", "route"), [(CHAT, "chat"), (TEXT, "completions")])
def test_exact_length_and_key(spec: UserClass, route: str) -> None:
    base, lengths = prompts.shortest(route), set()
    for user in range(5):
        for k in range(20):
            one = prompts.prompt(1, spec, user, k, base)
            assert count(route, one.text) == one.tokens
            assert words.find_key(one.text) == one.key and one.text.endswith(words.key_text(*one.key))
            lengths.add((one.tokens, one.output_tokens))
    if spec is CHAT:
        assert {t for t, _ in lengths} <= set(range(30, 91)) and len(lengths) > 30
        assert {o for _, o in lengths} == set(range(5, 10))
    else:
        assert lengths == {(40, 150)}


SHAPED = UserClass(user_class="ResponsesUser", count=1, prompt_tokens=Distribution(uniform=(30, 60)), output_tokens=9,
                   reasoning_tokens=3, tool_call=True)  # fmt: skip


@pytest.mark.parametrize(
    "spec", [SHAPED, msgspec.structs.replace(SHAPED, user_class="ChatUser", tool_call=False)]
)
def test_a_shape_stands_before_the_key_and_counts(spec: UserClass) -> None:
    route, wanted = prompts.ROUTES[spec.user_class], prompts.shape(spec)
    base = prompts.shortest(route, wanted)
    for k in range(30):
        one = prompts.prompt(1, spec, 0, k, base)
        assert one.text.endswith(
            f" muse: {words.WORDS[3]}{' voke:' * spec.tool_call} {words.key_text(*one.key)}"
        )
        assert count("chat", one.text) == one.tokens and one.shape == wanted
    body = json.loads(prompts.body(one, route, "m", dynamo=False))
    limit = body.get("max_output_tokens", body.get("max_tokens"))
    assert limit == 9 + len(wanted.marks)
    assert ("tools" in body) == spec.tool_call and ("input" in body) == (route == "responses")
    assert ("stream_options" in body) == (route == "chat")


def test_usage_with_each_chunk_is_asked_for() -> None:
    one = prompts.prompt(1, CHAT, 0, 0, prompts.shortest("chat"))
    body = json.loads(prompts.body(one, "chat", "m", dynamo=False, chunk_usage=True))
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_the_shortest_prompts_are_exact_too() -> None:
    for route, name in (("chat", "ChatUser"), ("completions", "CompletionUser")):
        base = prompts.shortest(route)
        for tokens in (base, base + 1, base + 2):
            one = prompts.prompt(1, UserClass(user_class=name, count=1, prompt_tokens=tokens), 0, 0, base)  # type: ignore[arg-type]
            assert count(route, one.text) == tokens
        with pytest.raises(ValueError, match="at least"):
            prompts.prompt(1, UserClass(user_class=name, count=1, prompt_tokens=base - 1), 0, 0, base)  # type: ignore[arg-type]


def test_a_pure_function_of_seed_class_user_and_k() -> None:
    base = prompts.shortest("chat")
    cancelling = UserClass(user_class="CancellingUser", count=1, prompt_tokens=50, cancel=Cancel())
    fifty = UserClass(user_class="ChatUser", count=1, prompt_tokens=50)
    seen = {
        prompts.prompt(s, spec, u, k, base).text
        for s in (1, 2)
        for u in (0, 1)
        for k in (0, 1)
        for spec in (cancelling, fifty)
    }
    assert len(seen) == 16
    assert prompts.prompt(1, CHAT, 3, 4, base) == prompts.prompt(1, CHAT, 3, 4, base)


def test_bodies() -> None:
    one = prompts.prompt(1, CHAT, 0, 0, prompts.shortest("chat"))
    body = json.loads(prompts.body(one, "chat", "m", dynamo=True))
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": one.text}], "max_tokens": one.output_tokens,
        "stream": True, "stream_options": {"include_usage": True}, "nvext": {"extra_fields": ["worker_id"]},
    }  # fmt: skip
    body = json.loads(prompts.body(one, "completions", "m", dynamo=False))
    assert body["prompt"] == one.text and "nvext" not in body and "messages" not in body


def test_request_bytes() -> None:
    data = prompts.request("http://h:1", "chat", {"Authorization": "Bearer x"}, "id-1", b"{}")
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat/completions HTTP/1.1" and body == b"{}"
    assert {
        b"Host: h:1",
        b"X-Request-Id: id-1",
        b"x-dynamo-request-id: id-1",
        b"Authorization: Bearer x",
        b"Content-Length: 2",
    } <= set(lines)
    for url, path in (
        ("http://h/v1", "/v1"),
        ("http://h/v1/", "/v1"),
        ("http://h/proxy/", "/proxy/v1"),
        ("http://h/proxy/v1", "/proxy/v1"),
    ):
        assert prompts.request(url, "completions", {}, "i", b"").startswith(
            b"POST %s/completions HTTP" % path.encode()
        )


def test_check_names_the_entry() -> None:
    def scenario(tokens: int) -> Scenario:
        spec = UserClass(user_class="ChatUser", count=1, prompt_tokens=Distribution((tokens, 100)))
        return Scenario(
            schema=1, name="x", sut=Sut(dynamo="1.6.1"), load=Load(duration_s=1, users=[TEXT, spec])
        )

    prompts.check(scenario(prompts.shortest("chat")), "f.yaml")
    with pytest.raises(ScenarioError, match=r"f.yaml: load.users\[1\].prompt_tokens: 3 is too short"):
        prompts.check(scenario(3), "f.yaml")
