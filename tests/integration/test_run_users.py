"""Every kind of user on real Dynamo, and a system that somebody else runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import NO_FAULTS, QUICKSTART, SHORT, Done, left_over, run, sets, squall

from harness.core import proc

pytestmark = [
    pytest.mark.sut,
    pytest.mark.timeout(240),
    pytest.mark.load,
]
MIX = (
    "load.users=["
    "{class: ChatUser, count: 3, prompt_tokens: {uniform: [30, 60]}, output_tokens: {uniform: [20, 40]}, think_s: 0.2}, "
    "{class: ChatUser, count: 2, prompt_tokens: 40, output_tokens: 15}, "
    "{class: CompletionUser, count: 3, prompt_tokens: 30, output_tokens: 40}, "
    "{class: CancellingUser, count: 2, output_tokens: 100, cancel: {after_tokens: 5, mode: fin}}, "
    "{class: CancellingUser, count: 2, output_tokens: 100, cancel: {after_tokens: 0, mode: rst, after_ms: 15}}]"
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = run(tmp_path_factory.mktemp("users") / "run", *SHORT, *NO_FAULTS, MIX)
    assert done.code == 0, done.out + done.err
    return done


def test_every_class_and_route_is_there_and_exact(mixed: Done) -> None:
    requests = mixed.requests
    assert set(requests.user_class) == {"ChatUser", "CompletionUser", "CancellingUser"}
    assert set(requests[requests.user_class == "CompletionUser"].route) == {"completions"}
    whole = requests[requests.outcome == "ok"]
    assert (whole.tokens_received == whole.tokens_expected).all()
    assert (whole.usage_prompt_tokens == whole.prompt_tokens).all()
    assert (whole.gaps_us.map(len) == whole.tokens_received - 1).all()
    assert {15, 40} <= set(whole.tokens_expected)  # both entries of one class were used


def test_cancels_come_after_k_tokens_or_in_prefill(mixed: Done) -> None:
    cancelled = mixed.requests[mixed.requests.outcome == "cancelled"]
    after = cancelled[cancelled.cancel_after_tokens == 5]
    prefill = cancelled[cancelled.cancel_after_tokens == 0]
    assert set(after.cancel_mode) == {"fin"}
    assert (after.tokens_received >= 5).all()
    assert set(prefill.cancel_mode) == {"rst"}
    assert (prefill.tokens_received == 0).mean() > 0.5  # a machine that stalls may let a token slip in


def test_the_worker_noticed_the_cancels(mixed: Done) -> None:
    lines = [
        json.loads(line)
        for log in (mixed.dir / "logs").glob("*.segments.jsonl")
        for line in log.read_text().splitlines()
    ]
    ends = {line["reason"] for line in lines if line["event"] == "end"}
    assert len(ends - {"length"}) > 0, ends


def test_thinking_users_wait_and_are_due_when_they_should_be(mixed: Done) -> None:
    requests = mixed.requests
    assert (requests.t_start_ns >= requests.t_due_ns).all()


def test_an_outside_system_by_url_with_a_fault_by_pid(
    tmp_path: Path, killing: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    up = squall(
        "up", str(QUICKSTART), "--out", str(tmp_path / "up"), *sets(*SHORT, "faults=[]"), out=tmp_path / "up"
    )
    assert up.code == 0, up.out + up.err
    killing(json.loads((tmp_path / "up" / "manifest.json").read_text())["run_id"])
    state = json.loads((tmp_path / "up" / "sut.json").read_text())
    try:
        pid = next(p["pid"] for p in state["processes"] if p["name"] == "worker-1")
        before = proc.identify(pid)
        url = state["urls"][0]
        monkeypatch.setenv("OUTSIDE_TOKEN", "Bearer x")
        done = run(
            tmp_path / "run", *SHORT, "load.duration_s=20",
            f'sut={{url: "{url}", model: {state["model"]}, oracle: witness, headers_env: {{Authorization: OUTSIDE_TOKEN}}, '
            f'metrics: ["{url}/metrics"], health: ["{url}/health"], targets: [{{role: worker, pid: {pid}}}]}}',
            "faults=[{id: pause, fault: process.pause, select: {role: worker, count: 1}, at_s: 2, hold_s: 2}]",
        )  # fmt: skip
        assert done.code == 0, done.out + done.err
        assert (done.requests.outcome == "ok").any()
        assert done.json("verdict.json")["faults"][0]["verified"] is True
        assert before is not None
        assert proc.alive(before), "an outside process must be as before"
        assert "Bearer" not in (done.dir / "sut.json").read_text()
        assert left_over(done.json("manifest.json")["run_id"]) == []
    finally:
        squall("down", str(tmp_path / "up"), out=tmp_path / "up")
