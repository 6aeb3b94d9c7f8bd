"""What the witness makes of token ids: keys, templates, answers so far."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import words
from harness.sut import model
from harness.sut.witness import capacity, chain, lies
from harness.sut.witness.lies import Lies

with patch.dict(sys.modules, {"capacity": capacity, "chain": chain, "lies": lies}):  # as in its own process
    from harness.sut.witness import stream

TOKENIZER = model.tokenizer_json()
VOCAB: dict[str, int] = TOKENIZER["model"]["vocab"]
SPECIAL = {token["content"]: token["id"] for token in TOKENIZER["added_tokens"]}
VOCABULARY = chain.Vocabulary(words, VOCAB, SPECIAL)

KEYS = st.tuples(st.integers(0, words.P - 1), st.integers(1, words.P - 1))


def word(k: int) -> int:
    return VOCAB["Ġ" + words.WORDS[k]]


def key(a: int, b: int, first: str = "Ġke") -> list[int]:
    return [VOCAB[first], VOCAB["y"], VOCAB[":"], word(a), word(b)]


def tail() -> list[int]:
    return [{**VOCAB, **SPECIAL}[token] for token in chain.CHAT_TAIL]


def answer(a: int, b: int, n: int) -> list[int]:
    return [word(words.word_index(a, b, i)) for i in range(n)]


def test_the_chat_tail_is_the_templates_end() -> None:
    text = "".join(token.replace("Ċ", "\n") for token in chain.CHAT_TAIL)
    assert model.render([("user", "")]).endswith(text)
    assert len(chain.CHAT_TAIL) == model.count_text(text)


@given(KEYS, st.integers(0, 200), st.integers(1, 200), st.booleans(), st.sampled_from(["ke", "Ġke"]))
def test_prompt_and_answer_so_far_go_on_where_they_stopped(
    ab: tuple[int, int], done: int, left: int, chat: bool, first: str
) -> None:
    prompt = [word(3), *key(*ab, first), *(tail() if chat else [])]
    job = VOCABULARY.job(prompt + answer(*ab, done), left)
    assert job == chain.Job(*ab, done, done + left, len(prompt), keyed=True)
    assert VOCABULARY.token(job, done) == word(words.word_index(*ab, done))


def test_the_last_valid_key_counts() -> None:
    ids = [*key(1, 2), *key(3, 4), VOCAB["ke"], VOCAB["y"], VOCAB[":"], word(5)]
    assert VOCABULARY.job(ids, 1).a == 3
    invalid = [*key(1, 2), *key(8093, 4), *key(5, 0)]  # a out of range, b = 0
    assert VOCABULARY.job(invalid, 1).a == 1


def test_without_a_key_every_token_is_word_0() -> None:
    for ids in ([], [1], [word(3)] * 5, [VOCAB[":"], word(1), word(2)]):
        job = VOCABULARY.job(ids, 4)
        assert job == chain.Job(0, 0, 0, 4, len(ids), keyed=False)
        assert VOCABULARY.token(job, 3) == word(0)


@pytest.mark.parametrize(
    ("sent", "following"),
    [([0, 1, 3], 4), ([0, 1, 1], 2), ([0, 2, 1], 3), ([0, 1, 8000], 2), ([], 0)],
)
def test_a_spoiled_answer_goes_on_by_the_oracles_rule(sent: list[int], following: int) -> None:
    ids = [*key(10, 7), *(word(words.word_index(10, 7, i)) for i in sent)]
    job = VOCABULARY.job(ids, 50)
    assert (job.first, job.prompt_tokens, job.total) == (following, 5, len(sent) + 50)


def test_text_after_the_key_is_no_answer() -> None:
    ids = [*key(10, 7), VOCAB["."], *tail()]
    assert VOCABULARY.job(ids, 5).prompt_tokens == len(ids)
    assert VOCABULARY.job([*key(10, 7), VOCAB["."]], 5).first == 0


SHAPES = st.builds(words.Shape, st.integers(0, 9), st.booleans())
BYTES = {"Ġ": " ", "Ċ": "\n"}
TEXT = {token: "".join(BYTES.get(char, char) for char in text) for text, token in VOCAB.items()}


def asked(shape: words.Shape) -> list[int]:
    muse = [VOCAB["Ġmuse"], VOCAB[":"], word(shape.reasoning)] if shape.reasoning else []
    return muse + ([VOCAB["Ġvoke"], VOCAB[":"]] if shape.call else [])


def made(job: chain.Job, most: int = 1) -> list[list[int]]:
    """All chunks of a job, as the engine makes them."""
    honest = Lies()
    one = stream.Stream("r", None, job, capacity.Seat(0, 0), 0, {}, job.first, marked=job.marked)  # type: ignore[arg-type]
    found = []
    while one.left():
        assert one.pending or one.plan(VOCABULARY, honest, lambda: [one])
        one.fill(most, VOCABULARY, honest, lambda: [one])
        found.append(one.chunk(most))
    assert one.next_word == job.total
    return found


@given(KEYS, SHAPES, st.integers(10, 30), st.booleans(), st.integers(1, 5))
def test_an_answer_with_marks(ab: tuple[int, int], shape: words.Shape, n: int, chat: bool, most: int) -> None:
    prompt = [word(3), *asked(shape), *key(*ab), *(tail() if chat else [])]
    job = VOCABULARY.job(prompt, n + len(shape.marks))
    assert (job.total, job.prompt_tokens, len(job.marks)) == (n, len(prompt), len(shape.marks))
    text = "".join(TEXT[token] for chunk in made(job, most) for token in chunk)
    r = shape.reasoning
    thoughts = words.THOUGHTS[0] + words.answer(*ab, r) + words.THOUGHTS[1] if r else ""
    rest = words.answer(*ab, n, r)
    assert text == thoughts + (words.CALL[0] + rest + words.CALL[1] if shape.call else rest)


@given(KEYS, SHAPES, st.integers(0, 150), st.booleans())
def test_an_answer_with_marks_goes_on_anywhere(
    ab: tuple[int, int], shape: words.Shape, at: int, chat: bool
) -> None:
    prompt = [word(3), *asked(shape), *key(*ab), *(tail() if chat else [])]
    whole = [token for chunk in made(VOCABULARY.job(prompt, 20 + len(shape.marks))) for token in chunk]
    at = min(at, len(whole) - 1)
    job = VOCABULARY.job(prompt + whole[:at], len(whole) - at)
    assert (job.prompt_tokens, job.total) == (len(prompt), 20)
    assert [token for chunk in made(job) for token in chunk] == whole[at:]


def test_marks_of_another_shape_are_no_answer() -> None:
    job = VOCABULARY.job([*key(10, 7), VOCAB["<"], VOCAB["t"]], 5)
    assert (job.first, job.total, job.prompt_tokens, job.marks) == (0, 5, 7, ())


def test_a_shape_costs_what_prompts_say() -> None:
    for shape in (words.Shape(3), words.Shape(call=True), words.Shape(8, True)):
        text = shape.asked + " " + words.key_text(1, 2)
        assert model.count_text(text) == len(asked(shape)) + 5
