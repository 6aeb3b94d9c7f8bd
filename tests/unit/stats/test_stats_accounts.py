"""The three accounts of tokens, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures import report_data
from fixtures.make_run import plain_parts, record, write_run

from harness.stats import accounts, load
from harness.stats.analysis import AccountRow
from reports import RENDERERS


def one(n: int, **changes: Any) -> Any:
    usual = {
        "token_events": 5,
        "witness_tokens": 5,
        "hidden_tokens": 0,
        "reasoning_tokens": 0,
        "tool_tokens": 0,
    }
    return record(n, **{**usual, **changes})


def rows(tmp_path: Path, *records: Any) -> tuple[AccountRow, ...]:
    return accounts.build(load.read(write_run(tmp_path / "run", plain_parts(records))))


def test_accounts_that_agree(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, one(0), one(1))
    assert (row.route, row.user_class, row.streamed, row.requests) == ("chat", "ChatUser", True, 2)
    assert (row.usage, row.witness, row.hidden, row.chunks) == (10, 10, 0, 10)
    assert (row.differ, row.several, row.request_ids, row.usage_thoughts) == (0, 0, (), None)


def test_hidden_tokens_explain_usage_and_a_lie_does_not(tmp_path: Path) -> None:
    marked = one(
        0, usage_completion_tokens=20, hidden_tokens=15, reasoning_tokens=2, usage_reasoning_tokens=10
    )
    lied = one(1, usage_completion_tokens=6, usage_reasoning_tokens=0)
    (row,) = rows(tmp_path, marked, lied)
    assert (row.usage, row.hidden, row.thoughts, row.usage_thoughts) == (26, 15, 2, 10)
    assert (row.differ, row.request_ids) == (1, ("r1",))


def test_chunks_of_several_tokens(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, one(0, token_events=2), one(1))
    assert (row.chunks, row.witness, row.several) == (7, 10, 1)


def test_without_a_witness_nothing_can_differ_and_usage_tells_of_several(tmp_path: Path) -> None:
    counted = one(0, witness_tokens=None, hidden_tokens=None, usage_completion_tokens=20)
    (row,) = rows(tmp_path, counted, one(1, witness_tokens=None, hidden_tokens=None))
    assert (row.usage, row.chunks, row.witness, row.hidden) == (25, 10, None, None)
    assert (row.differ, row.several) == (None, 1)


@pytest.mark.parametrize("outcome", ["cancelled", "shed", "stream_error", "timed_out"])
def test_parts_of_answers_have_no_account(tmp_path: Path, outcome: str) -> None:
    assert [row.requests for row in rows(tmp_path, one(0), one(1, outcome=outcome))] == [1]


def test_an_unknown_usage_makes_the_sum_unknown_and_old_runs_have_no_rows(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, one(0, usage_completion_tokens=None), one(1))
    assert (row.usage, row.differ) == (None, 0)
    assert accounts.build(load.read(write_run(tmp_path / "old", plain_parts([record(0)])))) == ()


def test_routes_classes_and_whole_answers_are_rows_of_their_own(tmp_path: Path) -> None:
    more = [one(1, route="responses"), one(2, user_class="Other"), one(3, stream=False, token_events=1)]
    assert [(r.route, r.user_class, r.streamed) for r in rows(tmp_path, one(0), *more)] == [
        ("chat", "ChatUser", False), ("chat", "ChatUser", True), ("chat", "Other", True), ("responses", "ChatUser", True),
    ]  # fmt: skip


def test_every_report_shows_them() -> None:
    for name in ("html", "markdown", "json"):
        page = RENDERERS[name](next(iter(report_data.ALL.values()))())
        assert "accounts" in page, name
        assert "ResponsesUser" in page and ("6,007" in page or name == "json"), name
