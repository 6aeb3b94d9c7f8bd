"""The generated tokenizer and counting by hand; tests/sut compares with the real tokenizer."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import rundir, words
from harness.core.errors import UsageError
from harness.sut import model

RANK = {tuple(pair): n for n, pair in enumerate(model.tokenizer_json()["model"]["merges"])}


def bpe_count(text: str) -> int:
    """Byte-level BPE by its definition: the lowest-ranked pair first, until none is left."""
    total = 0
    for match in model._PIECE.finditer(text):
        parts = ["Ġ" if c == " " else c for c in match[0]]
        while pairs := [(RANK[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in RANK]:
            i = min(pairs)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        total += len(parts)
    return total


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), (" baba", 1), ("baba", 2), (" baba dodi", 2), (" key:", 3), ("key:", 3), ("\n", 1),
     (" key: baba babe", 5), ("<|im_end|>", 1), (" bababa", 2), (" ba", 1), (" b", 2), ("é", 2)],
)  # fmt: skip
def test_counts_by_hand(text: str, tokens: int) -> None:
    assert model.count_text(text) == tokens


def test_chat_adds_the_template() -> None:
    text = "<|im_start|>user\n baba key: baba babe<|im_end|>\n<|im_start|>assistant"
    assert model.render([("user", " baba key: baba babe")]) == text
    # im_start, u se r, newline, 6 of content, im_end, newline, im_start, a s si s ta n t
    assert model.count_chat([("user", " baba key: baba babe")]) == 1 + 3 + 1 + 6 + 1 + 1 + 1 + 7


@given(st.text(alphabet="abcdefgikeyos :\n.'t09", max_size=60))
def test_counting_equals_byte_pair_encoding(text: str) -> None:
    assert model.count_text(text) == bpe_count(text)


@given(st.lists(st.sampled_from(words.WORDS), max_size=50))
def test_words_after_a_space_are_one_token_each(some: list[str]) -> None:
    assert model.count_text("".join(f" {word}" for word in some)) == len(some)


def test_word_k_has_id_436_plus_k() -> None:
    vocab = model.tokenizer_json()["model"]["vocab"]
    assert len(vocab) == 256 + 90 + 90 + 8100
    assert [vocab["Ġ" + word] for word in words.WORDS] == list(range(436, 436 + 8100))


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model.write(tmp_path / "a")
    model.write(tmp_path / "b")
    for name in model.FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_ensure_by_several_at_once_and_after_a_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "project_root", lambda: tmp_path)
    torn = tmp_path / ".models" / f"{model.MODEL_NAME}-{model.VERSION}"
    torn.mkdir(parents=True)
    (torn / "config.json").write_text("{}")
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(model.ensure(lambda _: None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [torn] * 3
    assert [p.name for p in (tmp_path / ".models").iterdir() if p.is_dir()] == [torn.name]
    model.check(torn, witness=True)


def test_check_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json: No such file"):
        model.check(tmp_path, witness=False)
    model.write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer\.json: no JSON"):
        model.check(tmp_path, witness=False)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    model.check(tmp_path, witness=False)
    with pytest.raises(UsageError, match="needs the generated tokenizer"):
        model.check(tmp_path, witness=True)
