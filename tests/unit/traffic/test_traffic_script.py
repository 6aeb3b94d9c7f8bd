"""What users ask in order: conversations as pure functions, shared beginnings, traces' blocks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.core import words
from harness.core.config import UserClass
from harness.core.trace import Row
from harness.sut import model
from harness.traffic import prompts, script, sharing
from harness.traffic.script import TURNS, Script

BASE = prompts.shortest("chat")


def spec(**more: Any) -> UserClass:
    return msgspec.convert(
        {"class": "ChatUser", "count": 1, "prompt_tokens": 40, "output_tokens": 5, **more}, UserClass
    )


TALK = {"conversation": {"turns": {"uniform": [2, 4]}}}


def test_questions_are_numbered_and_the_same_as_ever() -> None:
    one = Script(1, spec(), 7, BASE)
    assert [one.next() for _ in range(3)] == [(k, prompts.prompt(1, spec(), 7, k, BASE)) for k in range(3)]


def test_a_conversation_grows_by_what_was_said() -> None:
    one = Script(1, spec(conversation={"turns": 3}), 7, BASE)
    first, second, third, other = (one.next() for _ in range(4))
    assert first and second and third and other
    assert [k for k, _ in (first, second, third, other)] == [0, 1, 2, TURNS]
    asked, following = first[1], second[1]
    assert asked.history == () == other[1].history
    answer = words.answer(*asked.key, 5)
    assert following.history == (("user", asked.text), ("assistant", answer))
    assert third[1].history[:2] == following.history and third[1].history[2][1] == following.text
    assert following.tokens == model.count_chat([*following.history, ("user", following.text)]) > asked.tokens
    assert words.find_key(model.render([*following.history, ("user", following.text)])) == following.key
    messages = msgspec.json.decode(prompts.body(third[1], "chat", "m", False))["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]


def test_turn_k_is_a_pure_function_whatever_was_answered() -> None:
    whole, cut = Script(3, spec(**TALK), 9, BASE), Script(3, spec(**TALK), 9, BASE)
    told = {}
    for _ in range(12):
        found = whole.next()
        assert found
        told[found[0]] = found[1]
    for _ in range(5):
        found = cut.next()
        assert found and told.get(found[0], found[1]) == found[1]
        cut.abandon(found[0])
    assert found[0] == 4 * TURNS  # every time at a new conversation's first turn


def test_the_number_of_turns_is_drawn() -> None:
    found = {script.turns(1, spec(**TALK), user, talk) for user in range(5) for talk in range(5)}
    assert found == {2, 3, 4}


def test_once_is_one_question_or_one_conversation() -> None:
    single = Script(1, spec(), 7, BASE, once=True)
    assert single.next() is not None and single.next() is None
    talk = Script(1, spec(conversation={"turns": 2}), 7, BASE, once=True)
    assert [talk.next() is None for _ in range(3)] == [False, False, True]
    given_up = Script(1, spec(conversation={"turns": 2}), 7, BASE, once=True)
    given_up.next()
    given_up.abandon(0)
    assert given_up.next() is None


def test_prefixes_are_shared_within_a_group_only() -> None:
    shared = spec(prefix={"tokens": 20, "groups": 3})
    starts = [tuple(prompts.prompt(1, shared, user, 0, BASE).text.split()[:20]) for user in range(40)]
    assert len(set(starts)) == 3
    assert (
        len({tuple(prompts.prompt(1, spec(), user, 0, BASE).text.split()[:20]) for user in range(40)}) == 40
    )
    asked = prompts.prompt(1, shared, 1, 0, BASE)
    assert asked.tokens == 40 == model.count_chat([("user", asked.text)])


def first_words(row: Row, count: int, block: int = 512) -> list[str]:
    return prompts.prompt(1, spec(), 1, 0, BASE, row, block).text.split()[:count]


def test_a_traces_blocks_are_words_by_their_id() -> None:
    one, two = Row(0, 1100, 30, (46, 47, 48)), Row(5, 900, 30, (46, 50))
    assert first_words(one, 512) == first_words(two, 512)
    assert first_words(one, 600)[512:] != first_words(two, 600)[512:]
    asked = prompts.prompt(1, spec(), 1, 0, BASE, one, 512)
    assert asked.tokens == 1100 == model.count_chat([("user", asked.text)]) and asked.output_tokens == 30


def test_scaled_blocks_are_shared_too() -> None:
    assert sharing.block_words(0.1) == 51
    one, two = Row(0, 110, 3, (46, 47, 48)), Row(5, 90, 3, (46, 50))
    assert first_words(one, 51, 51) == first_words(two, 51, 51) and first_words(one, 60, 51) != first_words(
        two, 60, 51
    )


@pytest.mark.parametrize(
    ("row", "tokens", "output"), [(Row(0, 3, 5), BASE, 5), (Row(0, 50, 9999), 50, words.P)]
)
def test_what_a_trace_asks_is_kept_within_what_can_be(row: Row, tokens: int, output: int) -> None:
    asked = prompts.prompt(1, spec(), 1, 0, BASE, row, 512)
    assert (asked.tokens, asked.output_tokens) == (tokens, output)
