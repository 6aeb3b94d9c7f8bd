"""Network faults at one time on one host, through plan, scheduler and journal: each ends, nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faults import nft, targets, timeline, undo_network
from faults.scheduler import Hooks, Scheduler
from harness.core import clock
from tests.fixtures import hosts_lab
from tests.fixtures.faults_lab import Lab, scenario, step

pytestmark = [pytest.mark.netns, pytest.mark.slow]

CUT = step("cut", "network.partition", peers="frontend", at_s=0.6, hold_s=2)


def run(lab: Lab, *steps: dict[str, Any]) -> list[str]:
    """What failed."""
    anchor, ports, failed = clock.anchor_now(), lab.ports(8), []
    plan = timeline.plan(scenario(list(steps)), targets.of_system(lab.state), "t.yaml", ports.offers)
    hooks = Hooks(on_failed=lambda one, _, reason: failed.append(f"{one.fault_id}: {reason}"))
    Scheduler(plan, ports, lab.journal(anchor), anchor, 0.0, hooks).run()
    return failed


@pytest.mark.parametrize(
    "other",
    [
        step("other", "network.loss", peers="worker", ratio=0.3, at_s=0.9, hold_s=1),
        step("other", "network.bandwidth", peers="worker", kbit_per_s=512, at_s=0.9, hold_s=4),
        step("other", "process.pause", at_s=0.9, hold_s=4),
    ],
)
def test_two_at_a_time(tmp_path: Path, other: dict[str, Any]) -> None:
    with hosts_lab.system(tmp_path) as lab:
        assert run(lab, CUT, other) == []
        for fault_id in ("cut", "other"):
            assert lab.phases(fault_id)[-1] == "recovered"
            assert lab.line(fault_id, "recovered").evidence["recovered_by"] == "undo"
        tables = undo_network.run(hosts_lab.namespace(lab, "worker-1"), nft.show_all()).out
        assert nft.tables(tables) == []


def test_the_table_bears_the_mark_of_run_fault_and_target(tmp_path: Path) -> None:
    both = {**CUT, "select": {"role": "worker", "index": [1, 2]}}
    with hosts_lab.system(tmp_path) as lab:
        assert run(lab, both) == []
        made = [line.undo["ops"][0]["table"] for line in lab.lines() if line.phase == "intent"]
        assert len({*made}) == 2 and all(name.startswith(nft.PREFIX) and len(name) == 19 for name in made)


def test_a_second_cut_of_the_same_path_is_no_fault(tmp_path: Path) -> None:
    """Each side has its own target, so the plan lets both pass; the second finds the path cut already."""
    back = step("back", "network.partition", peers="worker", at_s=1.5, hold_s=1)
    with hosts_lab.system(tmp_path) as lab:
        (failed,) = run(lab, {**CUT, "hold_s": 4}, {**back, "select": {"role": "frontend", "index": [1]}})
        assert failed.startswith("back: ") and "was cut before the fault" in failed
        assert lab.phases("cut")[-1] == "recovered" and lab.phases("back") == ["failed"]
