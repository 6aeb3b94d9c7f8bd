"""The frontends' log lines about migrations, as Dynamo 1.6.1 writes them."""

from __future__ import annotations

from pathlib import Path

from harness.collect import retries
from harness.collect.retries import Retry
from harness.core import rundir

TAIL = 'method=POST uri=/v1/chat/completions version=HTTP/1.1 x_request_id="other" request_id={} model="m"'
NEW = "2026-11-24T04:06:55.494210Z  WARN http-request: dynamo_llm::migration: Creating new stream, retrying error=Unavailable: TCP connection to 127.0.0.1:32869 failed "
GONE = "2026-11-24T04:06:52.864455Z  WARN http-request:completions:completions_single: dynamo_llm::migration: Stream disconnected, recreating stream error=Unavailable: Stream ended before generation completed "
LIMIT = "2026-11-24T04:06:53.000000Z  WARN http-request: dynamo_llm::migration: Cannot recreate stream error=Migration limit exhausted "


def test_attempts_of_all_frontends_by_time(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "run")
    assert retries.read(run) == []
    run.log("frontend-1").write_text(
        f"{NEW}{TAIL.format('a')}\n{LIMIT}{TAIL.format('b')}\n"
        f"2026-11-24T04:06:50Z  INFO x: request_id=c Creating new stream\nnothing\n{NEW}"
    )
    run.log("frontend-2").write_text(GONE + TAIL.format("b") + "\n")
    run.log("worker-1").write_text(NEW + TAIL.format("d") + "\n")
    base = 1_795_493_212_864_455_000
    assert retries.read(run) == [
        Retry(base, "b", "ongoing_request"), Retry(base + 2_629_755_000, "a", "new_request"),
    ]  # fmt: skip
