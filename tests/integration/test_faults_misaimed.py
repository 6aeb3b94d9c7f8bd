"""For every fault a variant that can't reach its target: nothing proves it, so the run ends invalid (exit 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faults import FAULTS, targets, timeline, undo
from faults.ports import Fault, Ports, Target, Undo
from faults.scheduler import Hooks, Scheduler
from faults.timeline import Injection
from harness.core import clock
from harness.core.errors import Exit
from harness.stats import analyse
from tests.conftest import need
from tests.fixtures import faults_lab
from tests.fixtures.fault_benches import BENCHES, inject_aside
from tests.fixtures.faults_lab import Lab
from tests.fixtures.make_run import plain_parts, record, write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Aside:
    """The real fault, but for `inject`, which hits somebody else."""

    def __init__(self, name: str, real: Fault, hit: list[Undo]) -> None:
        self._name, self._real, self._hit = name, real, hit

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._real, verb)

    def inject(self, p: Ports, _t: Target, _undo: Undo) -> None:
        self._hit.append(inject_aside(self._name, self._real, p))


@pytest.mark.parametrize("aimed", [True, False], ids=["aimed", "misaimed"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_missed_makes_the_run_invalid(
    name: str, aimed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BENCHES[name]
    for marker in row.markers:
        need(marker)
    with row.lab(tmp_path, owner="run") as lab:
        hit: list[Undo] = []
        if not aimed:
            build = Injection.build
            monkeypatch.setattr(Injection, "build", lambda self: Aside(name, build(self), hit))
        try:
            reasons, code = _run(lab, name, tmp_path / "judged")
        finally:
            for one in hit:
                undo.apply(one.ops)
        if aimed:
            assert (reasons, code) == ([], Exit.PASS), lab.lines()
            return
        assert len(hit) == 1 and code == Exit.INVALID
        assert any(reason.startswith("fault f on ") for reason in reasons), reasons
        assert "verified" not in lab.phases("f") and lab.phases("f")[-1] == "recovered"


def _run(lab: Lab, name: str, judged: Path) -> tuple[list[str], int]:
    """One fault by the scheduler, then a run with its journal judged: (why invalid, exit code)."""
    row = BENCHES[name]
    step = faults_lab.step("f", name, at_s=0, **row.select(), **row.params)
    ports, anchor = lab.ports(max(3, row.recover_timeout_s)), clock.anchor_now()
    plan = timeline.plan(faults_lab.scenario([step]), targets.of_system(lab.state), offers=ports.offers)
    heard: list[str] = []
    hooks = Hooks(on_failed=lambda one, target, why: heard.append(f"{one.fault_id} on {target.name}: {why}"))
    journal = lab.journal(anchor)
    Scheduler(plan, ports, journal, anchor, 0.0, hooks).run()
    journal.close()
    parts = plain_parts([record(n) for n in range(60)], faults=[{**step, "at_s": 0}])
    parts.journal = lab.lines()
    parts.manifest["invalid_reasons"] = heard
    analysis = analyse.analyse(write_run(judged, parts))
    return list(analysis.invalid_reasons), analysis.exit_code
