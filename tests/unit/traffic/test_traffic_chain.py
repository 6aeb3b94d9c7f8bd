from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import words
from harness.traffic.chain import Chain

A, B = 4321, 77


def word(i: int) -> str:
    return " " + words.WORDS[(A + i * B) % words.P]


def walk(n: int, texts: list[str]) -> dict[str, int]:
    chain = Chain(A, B, n)
    received = sum(chain.take(text) for text in texts)
    return {"dup": chain.duplicated, "reo": chain.reordered, "for": chain.foreign, "ext": chain.extra,
            "lost": chain.lost, "short": int(chain.short), "got": received}  # fmt: skip


def counts(got: int, **given: int) -> dict[str, int]:
    return {"dup": 0, "reo": 0, "for": 0, "ext": 0, "lost": 0, "short": 0, "got": got} | given


def reference(n: int, tokens: list[str]) -> dict[str, int]:
    """DESIGN section 7 read literally: positions by search, sets, no arithmetic."""
    where = {words.WORDS[(A + i * B) % words.P]: i for i in range(words.P)}
    seen: set[int] = set()
    e = dup = reo = foreign = extra = 0
    for token in tokens:
        i = where.get(token[1:]) if token.startswith(" ") else None
        if i is not None and i in seen:
            dup += 1
        elif i is not None and e <= i < n and i - e <= 64:
            seen.add(i)
            e = i + 1
        elif i is not None and i < e:
            reo += 1
            seen.add(i)
        elif i is not None and i >= n and i == n + extra and n - 1 in seen:
            extra += 1
            seen.add(i)
        else:
            foreign += 1
    lost = len([i for i in range(e) if i not in seen])
    return {"dup": dup, "reo": reo, "for": foreign, "ext": extra, "lost": lost, "short": int(e < n), "got": len(tokens)}  # fmt: skip


GOOD = [word(i) for i in range(10)]


@pytest.mark.parametrize(("texts", "want"), [
    (GOOD, counts(10)),
    (["".join(GOOD[:4]), "".join(GOOD[4:])], counts(10)),
    (GOOD[:3] + GOOD[4:], counts(9, lost=1)),
    (GOOD[:3] + GOOD[2:], counts(11, dup=1)),
    ([*GOOD[:3], GOOD[4], GOOD[3], *GOOD[5:]], counts(10, reo=1)),
    ([*GOOD[:3], " zzzz", *GOOD[4:]], counts(10, **{"for": 1, "lost": 1})),
    ([*GOOD[:9], " zzzz"], counts(10, **{"for": 1, "short": 1})),
    (GOOD[:7], counts(7, short=1)),
    ([], counts(0, short=1)),
    ([*GOOD, word(10), word(11)], counts(12, ext=2)),
    ([*GOOD, word(10), word(10)], counts(12, ext=1, dup=1)),
    ([*GOOD, word(11)], counts(11, **{"for": 1})),
    ([*GOOD[:9], word(10)], counts(10, **{"for": 1, "short": 1})),  # extra only after the last one
    ([GOOD[0][1:], *GOOD[1:]], counts(10, **{"for": 1, "lost": 1})),  # no space: no token of ours
    ([GOOD[0][:3], GOOD[0][3:], *GOOD[1:]], counts(11, **{"for": 2, "lost": 1})),
    ([GOOD[0] + " ", *GOOD[1:]], counts(11, **{"for": 1})),
    ([" " + GOOD[0], *GOOD[1:]], counts(11, **{"for": 1})),
    (["\n", *GOOD], counts(11, **{"for": 1})),
    (["", *GOOD], counts(10)),
    ([*GOOD, " " + words.WORDS[8095]], counts(11, **{"for": 1})),  # a word outside the chain
])  # fmt: skip
def test_classes(texts: list[str], want: dict[str, int]) -> None:
    assert walk(10, texts) == want


def test_window() -> None:
    assert walk(200, [word(0), word(65)])["lost"] == 64
    assert walk(200, [word(0), word(66)])["for"] == 1


def test_whole_chain_then_it_repeats() -> None:
    texts = [word(i) for i in range(words.P + 1)]
    assert walk(words.P, texts) == counts(words.P + 1, dup=1)


@given(st.integers(1, 120), st.data())
def test_injected_errors_are_counted_exactly(n: int, data: st.DataObject) -> None:
    tokens = [word(i) for i in range(n)]
    for kind in data.draw(
        st.lists(st.sampled_from(["drop", "repeat", "swap", "corrupt", "cross", "extra", "jump"]), max_size=6)
    ):
        at = data.draw(st.integers(0, len(tokens)))
        if kind == "drop":
            del tokens[at : at + data.draw(st.integers(1, 70))]
        elif kind == "repeat":
            tokens[at:at] = tokens[max(0, at - data.draw(st.integers(1, 5))) : at]
        elif kind == "swap":
            tokens[at : at + 2] = reversed(tokens[at : at + 2])
        elif kind == "corrupt":
            tokens[at : at + 1] = [" qqqq"]
        elif kind == "cross":
            tokens[at : at + 1] = [" " + data.draw(st.sampled_from(words.WORDS))]
        elif kind == "extra":
            tokens.append(word(n + data.draw(st.integers(0, 2))))
        else:
            tokens[at:at] = [word(data.draw(st.integers(0, n + 80)))]
    want = reference(n, tokens)
    assert walk(n, tokens) == want
    pairs = ["".join(tokens[k : k + 3]) for k in range(0, len(tokens), 3)]  # several tokens an event
    assert walk(n, pairs) == want


@given(st.text(alphabet=" abdeiouz\n", max_size=40))
def test_any_text_is_judged_and_every_token_counted_once(text: str) -> None:
    chain = Chain(A, B, 5)
    got = chain.take(text)
    accepted = chain.expected - chain.lost - chain.reordered
    assert got == accepted + chain.duplicated + chain.reordered + chain.foreign + chain.extra
