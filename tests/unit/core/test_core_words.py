"""The witness words by their definition in the contract, computed here a second time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import words
from harness.core.words import INDEX, WORDS, P

A, B = st.integers(0, P - 1), st.integers(1, P - 1)


def test_words_are_pairs_of_syllables_consonant_outer() -> None:
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    assert len(syllables) == 90
    assert list(WORDS) == [a + b for a in syllables for b in syllables]
    assert (WORDS[0], WORDS[1], WORDS[90], WORDS[8099]) == ("baba", "babe", "beba", "zuzu")
    assert len(INDEX) == len(WORDS) == 8100
    assert P == 8093
    assert all(P % n for n in range(2, 90))  # a prime: 90^2 > P
    assert not any(all(q % n for n in range(2, 90)) for q in range(P + 1, 8100))  # the largest below 8100


@given(A, B)
def test_a_chain_visits_every_index_below_p_once(a: int, b: int) -> None:
    first = [words.word_index(a, b, i) for i in range(200)]
    assert len(set(first)) == 200
    assert max(first) < P


def test_one_whole_chain() -> None:
    assert {words.word_index(17, 4000, i) for i in range(P)} == set(range(P))


@given(A, B, st.integers(0, P - 1))
def test_a_words_position_is_found_again(a: int, b: int, i: int) -> None:
    inverse = words.inverse(b)
    assert b * inverse % P == 1
    assert words.position(words.word_index(a, b, i), a, inverse) == i


@pytest.mark.parametrize("word", range(P, 8100))
def test_words_outside_the_chain_have_no_position(word: int) -> None:
    assert words.position(word, 5, 1) == -1


@given(A, B, st.integers(0, 300), st.integers(0, 300))
def test_an_answer_is_its_tokens_from_any_start(a: int, b: int, n: int, start: int) -> None:
    expected = [WORDS[(a + i * b) % P] for i in range(start, n)]
    text = words.answer(a, b, n, start)
    assert list(words.split_words(text)) == expected
    assert text == "".join(f" {word}" for word in expected)
    assert words.answer(a, b, min(start, n)) + text == words.answer(
        a, b, n
    )  # cut anywhere, it goes on exactly


@given(A, B, st.text())
def test_a_key_is_found_after_any_text(a: int, b: int, before: str) -> None:
    assert words.find_key(before + words.key_text(a, b)) == (a, b)


def test_the_last_valid_key_counts() -> None:
    first, last = words.key_text(1, 2), words.key_text(3, 4)
    assert words.find_key(f"{first} and {last}") == (3, 4)
    assert words.find_key(f"{first} key: zuzu baba") == (1, 2)  # a >= P and b = 0 are none
    assert words.find_key(f"{first} key: aaaa baba") == (1, 2)
    for text in ("", "key: ba ba", "key:  baba babe", "key: baba", f"key: baba {WORDS[0]}"):
        assert words.find_key(text) is None


@pytest.mark.parametrize(("a", "b"), [(-1, 1), (P, 1), (0, 0), (0, P)])
def test_impossible_keys_are_refused(a: int, b: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        words.key_text(a, b)


def test_it_runs_on_the_standard_library_alone() -> None:
    """The engine reads this file by path, in the SUT's own venv."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", words.__file__],
        cwd=Path(words.__file__).parent,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
