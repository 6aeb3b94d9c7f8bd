"""The open loop on real Dynamo: what was scheduled is what was sent; a trace's lengths; retries and what
they add up to, held against the frontend's own counter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pipeline import SHORT, Done, run

from harness.core import arrivals, config, strict
from harness.core.arrivals import USERS_FROM
from harness.sut import model

pytestmark = [pytest.mark.sut, pytest.mark.load, pytest.mark.timeout(240)]
CALM = SHORT[-4:]  # how late the generator is says nothing here
NO_FAULTS = ("faults=[]", "gates=[]", "load.duration_s=8", "load.warmup_s=2", "load.drain_s=8")


def scenario_of(done: Done) -> config.Scenario:
    return config.build(strict.parse_yaml((done.dir / "scenario.yaml").read_text(), "run"), "run")


def firsts(rows: pd.DataFrame) -> pd.DataFrame:
    """The first request of each arrival, in order."""
    of_open = rows[rows.user >= USERS_FROM].sort_values("t_due_ns")
    return of_open.groupby("user", as_index=False).first().sort_values("user")


def test_poisson_arrivals_conversations_and_users_by_count(tmp_path: Path) -> None:
    users = (
        "[{class: ChatUser, weight: 3, prompt_tokens: {lognormal: {median: 90, sigma: 0.4}, min: 70}, "
        "output_tokens: {normal: {mean: 30, sd: 10}, min: 3}, prefix: {tokens: 40, groups: 3}, "
        "conversation: {turns: {uniform: [1, 3]}}, think_s: 0.3}, "
        "{class: CompletionUser, weight: 1, prompt_tokens: 40, output_tokens: 20}, "
        "{class: ChatUser, count: 2, prompt_tokens: 40, output_tokens: 20}]"
    )
    arrive = "{process: poisson, rate_per_s: 8}"
    done = run(tmp_path / "run", *NO_FAULTS, *CALM, f"load.users={users}", f"load.arrivals={arrive}")
    assert done.code == 0, done.out + done.err
    rows = done.requests
    assert set(rows.outcome) == {"ok"} and done.invariant("usage_prompt_mismatch")["ok"] is True
    sent = firsts(rows)
    schedule = arrivals.schedule(scenario_of(done).load, 1)
    due_ns = [round(one.due_s * 1e9) for one, _ in zip(schedule, range(len(sent)), strict=False)]
    assert np.abs(sent.t_due_ns.to_numpy() - due_ns).max() < 1_000
    assert list(sent.user) == list(range(USERS_FROM, USERS_FROM + len(sent)))
    turns = rows[rows.user >= USERS_FROM].groupby("user").size()
    assert set(turns) <= {1, 2, 3} and turns.max() > 1
    for _, talk in rows[rows.user >= USERS_FROM].sort_values("t_start_ns").groupby("user"):
        assert talk.prompt_tokens.is_monotonic_increasing  # each turn has all that was said
        assert (np.diff(talk.t_start_ns) >= 0.3e9).all()
    assert done.invariant("load_delivered")["ok"] is True
    assert len(rows[rows.user < USERS_FROM].user.unique()) == 2


def test_a_trace_is_replayed_at_twice_its_speed(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 150 * n, "input_length": 60 + 7 * n, "output_length": 5 + n % 20, "hash_ids": [n % 3]}
        for n in range(160)
    ]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "schema": 1, "name": "replay", "sut": {"dynamo": "1.6.1", "engine_options": {"itl_ms": 5}},
        "load": {
            "duration_s": 8, "warmup_s": 2, "drain_s": 8, "users": [{"class": "ChatUser", "weight": 1}],
            "arrivals": {"process": "trace", "file": "trace.jsonl", "speed_ratio": 2, "offset_s": 1.5,
                         "length_ratio": 0.5},
        },
    }  # fmt: skip
    (tmp_path / "replay.yaml").write_text(json.dumps(tree))
    done = run(tmp_path / "run", *CALM, scenario=tmp_path / "replay.yaml")
    assert done.code == 0, done.out + done.err
    sent = firsts(done.requests)
    assert set(sent.outcome) == {"ok"} and len(sent) >= 130
    of_trace = rows[10 : 10 + len(sent)]
    least = model.count_chat([("user", "key: baba babe")])
    for one, row in zip(sent.itertuples(), of_trace, strict=True):
        assert abs(one.t_due_ns - (row["timestamp"] - 1500) * 1e6 / 2) < 1_000
        assert one.prompt_tokens == one.usage_prompt_tokens == max(least, round(row["input_length"] / 2))
        assert one.tokens_expected == one.tokens_received == max(1, round(row["output_length"] / 2))


def test_retries_are_linked_and_counted_as_the_frontend_counts_them(tmp_path: Path) -> None:
    retry = "{max_attempts: 3, base_s: 0.2, cap_s: 1}"
    users = f"[{{class: ChatUser, weight: 1, prompt_tokens: 100, output_tokens: 100, retry: {retry}}}]"
    done = run(
        tmp_path / "run", *NO_FAULTS, *CALM, f"load.users={users}", "load.arrivals={process: gamma, rate_per_s: 12, burstiness: 0.5}",
        "sut.frontend_args=[--router-mode, kv, --active-decode-blocks-threshold, '0.3']",
        "sut.engine_options.kv_blocks=120",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    rows, metrics = done.requests, done.json("metrics.json")["all"]
    counts = done.json("manifest.json")["counts"]
    assert counts["sent"] == len(rows) == counts["ok"] + counts["shed"] and counts["shed"] > 5
    first = rows.set_index("request_id")
    for one in rows[rows.attempt > 0].itertuples():
        before = first.loc[one.retry_of]
        assert before.attempt == 0 and before.outcome == "shed" and before.user == one.user
        assert one.t_due_ns >= before.t_end_ns and one.prompt_tokens == before.prompt_tokens
    assert metrics["amplification_ratio"] > 1.05 and set(rows.attempt) == {0, 1, 2}
    samples = pd.read_parquet(done.dir / "samples.parquet")
    rejected = samples[samples.metric == "dynamo_frontend_model_rejection_total"]
    seen = rows[(rows.outcome == "shed") & (rows.t_end_ns <= rejected.t_ns.max())]
    assert rejected.groupby("labels").value.max().sum() == pytest.approx(len(seen), abs=3)
