"""Every scenario under configs/scenarios on real Dynamo: it ends as documented and shows its finding.

`make test` runs some of them, `make scenarios` (SQUALL_SCENARIOS=all) all. A new scenario needs a page
docs/scenarios/<name>.md and a row in FINDINGS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline import ROOT, Done, left_over, run, sets, squall

from harness.core import config, sutfile
from harness.core.rundir import RunDir
from tests.conftest import need

SCENARIOS = {path.stem: path for path in sorted((ROOT / "configs" / "scenarios").glob("*.yaml"))}
EVERY = os.environ.get("SQUALL_SCENARIOS") == "all"

Finding = Callable[[Done], None]


def metric(done: Done, name: str, window: str) -> Any:
    return done.json("metrics.json")[window][name]


def failed(done: Done) -> int:
    return int(done.json("manifest.json")["counts"]["failed"])


def evidence(done: Done, fault_id: str, phase: str) -> dict[str, Any]:
    return next(
        line["evidence"] for line in done.journal if (line["fault_id"], line["phase"]) == (fault_id, phase)
    )


def quickstart(done: Done) -> None:
    assert failed(done) == 0
    assert metric(done, "migrations_ledger", "fault:kill") == metric(done, "in_flight_at_fault", "fault:kill")
    assert 5 < metric(done, "silent_s", "fault:pause") <= 8.5


def worker_kill(done: Done) -> None:
    assert failed(done) == 0
    for fault_id in ("first", "second", "third"):
        window = f"fault:{fault_id}"
        in_flight = metric(done, "in_flight_at_fault", window)
        assert in_flight > 0 and metric(done, "migrations_ongoing", window) == in_flight
        assert metric(done, "migrations_ledger", window) == in_flight


def worker_drain(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "all") == 0
    assert evidence(done, "drain", "verified")["exit_code"] == 0


def rolling_restart(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "all") == 0
    assert all(evidence(done, name, "verified")["exit_code"] == 0 for name in ("first", "second", "third"))


def gray_worker(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "fault:gray") > 0
    assert metric(done, "stall_max_ms", "all") < 4_000, "with the stream timeout of 2 s"


def gray_worker_waits(done: Done) -> None:
    assert failed(done) == 0
    assert metric(done, "migrations_ongoing", "all") == 0 < metric(done, "in_flight_at_fault", "fault:gray")
    assert metric(done, "migrations_ledger", "all") == metric(done, "migrations_new", "all"), "after 5 s"
    assert metric(done, "stall_max_ms", "all") > 7_000, "without the stream timeout"
    assert metric(done, "silent_s", "fault:gray") > 5


def gray_worker_past_lease(done: Done) -> None:
    assert [f["recovered_by"] for f in done.json("verdict.json")["faults"]] == ["restart"]
    assert metric(done, "stall_max_ms", "all") > 10_000


def frontend_kill(done: Done) -> None:
    rows = done.requests
    bad = rows[~rows.outcome.isin(["ok", "cancelled"])]
    assert set(bad.outcome) <= {"truncated", "transport_error", "http_error"} and len(bad) > 50
    assert (bad.outcome == "truncated").sum() == 10, "the streams that went through it"
    known = {one["violation"]: one["count"] for one in done.json("verdict.json")["known"]}
    assert known == {"short_stream": 10, "missing_finish": 10, "missing_done": 10}


def nightly(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "fault:kill") > 0
    assert metric(done, "silent_s", "fault:gray") > 3


def cancel_storm(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "cancel_unaborted", "all") == 0
    rows = done.requests[done.requests.outcome == "cancelled"]
    storms = rows.groupby(rows.t_cancel_ns // 8_000_000_000).size()
    assert len(rows) >= 144 and storms.max() == 48, "all streams of the storm's users at once"
    assert metric(done, "cancel_wasted_tokens_p50", "all") <= 5
    assert done.invariant("engine_resources_freed")["ok"] is True


def outside(done: Done) -> None:
    assert failed(done) == 0
    assert metric(done, "stall_max_ms", "fault:pause") > 4_000
    assert done.invariant("lost_tokens")["ok"] is None, "tokens of a foreign engine are counted, not checked"


def disaggregated_prefill_kill(done: Done) -> None:
    bad = done.requests[done.requests.outcome != "ok"]
    assert {name for names in bad.violations for name in names} == {"usage_prompt_mismatch"}
    assert metric(done, "migrations_ongoing", "fault:prefill-kill") == 0
    assert metric(done, "migrations_ongoing", "fault:decode-kill") > 0


def migration_exhausted(done: Done) -> None:
    rows = done.requests
    cut = rows[rows.outcome.isin(["stream_error", "http_error"])]
    assert len(cut) == 4 and set(cut.migrated) == {1}
    assert metric(done, "in_flight_at_fault", "fault:first") == 4
    assert metric(done, "in_flight_at_fault", "fault:second") == 8
    assert metric(done, "migrations_ledger", "fault:first") == 8


def crash_loop(done: Done) -> None:
    assert failed(done) == 0
    identities = evidence(done, "loop", "verified")["identities"]
    assert len({tuple(one) for one in identities}) == 5


def engine_death(done: Done) -> None:
    assert failed(done) == 0 and evidence(done, "death", "verified")["exit_code"] == 1
    window = "fault:death"
    assert metric(done, "migrations_ongoing", window) == metric(done, "in_flight_at_fault", window) > 0


def partition_frontend_worker(done: Done) -> None:
    assert failed(done) == 0
    assert (
        metric(done, "migrations_ongoing", "fault:cut") == metric(done, "in_flight_at_fault", "fault:cut") > 0
    )
    assert metric(done, "silent_s", "fault:cut") > 1, "nobody notices the cut"


def partition_worker_etcd(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "mitigate_s", "fault:cut") == 0
    assert [one["recovered_by"] for one in done.json("verdict.json")["faults"]] == ["restart"]
    assert "the process is gone" in evidence(done, "cut", "recovered")["proof"], "it ended itself"


def etcd_leader_kill(done: Done) -> None:
    verified = evidence(done, "leader", "verified")
    assert failed(done) == 0 and metric(done, "migrations_ledger", "all") == 0
    assert evidence(done, "leader", "intent")["members"] == verified["members"]
    assert verified["new_leader"] not in {None, *verified["members"]}
    assert done.json("verdict.json")["faults"][0]["target"] == "etcd-leader"


def etcd_outage(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "all") == 0
    assert evidence(done, "outage", "intent")["members"] == ["etcd-1"]


def nats_outage(done: Done) -> None:
    assert failed(done) == 0 and metric(done, "migrations_ledger", "all") == 0
    assert "connected again: frontend-1, worker-1, worker-2" in evidence(done, "nats", "recovered")["proof"]
    assert metric(done, "silent_s", "all") > 2, "new requests wait while the frontend is green"
    assert metric(done, "stall_max_ms", "all") < 2_000, "running ones go on"


def overload(done: Done) -> None:
    assert metric(done, "shed_ratio", "phase:standard") == 0 < metric(done, "shed_ratio", "phase:overflow")
    assert set(done.requests[done.requests.outcome == "shed"].status) == {529}
    in_flight = metric(done, "in_flight_at_fault", "fault:kill")
    cut = done.requests[done.requests.outcome == "stream_error"]
    assert len(cut) > 0 and len(cut) + metric(done, "migrations_ledger", "all") == in_flight
    assert cut.error.str.contains("unavailable").all(), "nobody has room for them"
    assert metric(done, "recover_s", "fault:kill") is not None


def retry_storm(done: Done) -> None:
    rows = done.requests
    assert metric(done, "migrations_ledger", "fault:kill") == metric(done, "in_flight_at_fault", "fault:kill")
    assert (
        metric(done, "amplification_ratio", "steady")
        < 1.1
        < metric(done, "amplification_ratio", "fault:kill")
    )
    by_retry = rows[(rows.attempt > 0) & (rows.outcome == "ok")]
    assert len(by_retry) > 0 and set(rows[rows.attempt > 0].retry_of) <= set(
        rows[rows.attempt == 0].request_id
    )
    assert done.invariant("load_delivered")["ok"] is True


# finding, whether `make test` runs it
FINDINGS: dict[str, tuple[Finding, bool]] = {
    "quickstart": (quickstart, False),  # test_run_quickstart.py has a shorter one
    "nightly": (nightly, True),
    "worker-kill": (worker_kill, False),
    "worker-drain": (worker_drain, False),
    "rolling-restart": (rolling_restart, False),
    "gray-worker": (gray_worker, False),
    "gray-worker-past-lease": (gray_worker_past_lease, False),
    "frontend-kill": (frontend_kill, True),
    "cancel-storm": (cancel_storm, True),
    "outside": (outside, True),
    "disaggregated-prefill-kill": (disaggregated_prefill_kill, False),
    "migration-exhausted": (migration_exhausted, False),
    "crash-loop": (crash_loop, False),
    "partition-frontend-worker": (partition_frontend_worker, True),
    "one-way-partition": (partition_frontend_worker, False),
    "partition-worker-etcd": (partition_worker_etcd, False),
    "etcd-leader-kill": (etcd_leader_kill, True),
    "etcd-outage": (etcd_outage, False),
    "nats-outage": (nats_outage, True),
    "engine-death": (engine_death, False),
    "overload": (overload, True),
    "retry-storm": (retry_storm, False),
}
VARIANTS: dict[str, tuple[str, str, Finding]] = {  # what a page says under "Vary it"
    "gray-worker-without-timeout": ("gray-worker", "sut.env={}", gray_worker_waits),
}
NEEDS = {"partition": "netns", "one-way": "netns", "etcd": "etcd", "nats": "nats"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_has_a_page_and_a_row(name: str) -> None:
    page = ROOT / "docs" / "scenarios" / f"{name}.md"
    assert page.exists() and name in FINDINGS
    assert f"scenarios/{name}.md" in (ROOT / "docs" / "scenarios.md").read_text()


@pytest.fixture
def outside_system(tmp_path: Path) -> Iterator[list[str]]:
    """Dynamo with NVIDIA's mocker as a system that squall didn't start; the overrides that name it."""
    up = tmp_path / "up"
    quick = ("sut.engine=mocker", "sut.engine_options={}", "faults=[]", "gates=[]")
    done = squall("up", str(SCENARIOS["quickstart"]), "--out", str(up), *sets(*quick), out=up)
    assert done.code == 0, done.out + done.err
    state = sutfile.load(RunDir(up))
    workers = ", ".join(f"{{role: worker, pid: {one.pid}}}" for one in state.role("worker"))
    metrics = ", ".join(f"{one.metrics}" for one in state.processes)
    try:
        yield [
            f"sut.url={state.urls[0]}", f"sut.model={state.model}", f"sut.targets=[{workers}]",
            f"sut.health=[{state.urls[0]}/health]", f"sut.metrics=[{metrics}]",
        ]  # fmt: skip
    finally:
        assert squall("down", str(up), out=up).code == 0


@pytest.mark.sut
@pytest.mark.load
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [name for name, (_, often) in FINDINGS.items() if often or EVERY])
def test_it_shows_its_finding(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for part, marker in NEEDS.items():
        if part in name:
            need(marker)
    more = request.getfixturevalue("outside_system") if name == "outside" else []
    shows(tmp_path, name, more, FINDINGS[name][0])


@pytest.mark.sut
@pytest.mark.load
@pytest.mark.timeout(400)
@pytest.mark.parametrize("variant", VARIANTS if EVERY else [])
def test_a_variant_shows_its_own(variant: str, tmp_path: Path) -> None:
    name, change, finding = VARIANTS[variant]
    shows(tmp_path, name, [change], finding)


def shows(tmp_path: Path, name: str, more: list[str], finding: Finding) -> None:
    """Run it, and look for its finding."""
    calm = [
        "generator.send_lag_p99_ms=5000",
        "generator.hub_lag_p99_ms=5000",
        "generator.coalesced_max_ratio=1",
        "generator.delivered_min_ratio=0",
    ]
    done = run(tmp_path / "run", *more, *calm, scenario=SCENARIOS[name])
    verdict = done.json("verdict.json")
    assert done.code == 0, done.out + done.err
    struck = {one["fault_id"] for one in verdict["faults"]}
    assert struck == {step.id for step in config.load_scenario(SCENARIOS[name]).faults}, (
        "cancels are no fault"
    )
    assert all(one["verified"] and one["recovered"] for one in verdict["faults"])
    finding(done)
    assert left_over(done.json("manifest.json")["run_id"]) == []
