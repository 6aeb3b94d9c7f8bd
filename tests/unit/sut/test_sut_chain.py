"""What the witness makes of token ids: keys, templates, answers so far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import words
from harness.sut import model
from harness.sut.witness import chain

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
