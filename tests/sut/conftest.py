"""Real Dynamo systems for tests: started once per module, always ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sutclient import System, scenario_of

from harness.core import ids, proc, rundir
from harness.sut import launch


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., System]]:
    """start(workers=2, ...) gives a ready system; all of them are ended with the module."""
    systems: list[System] = []
    root = Path(tempfile.mkdtemp(prefix="squall-test-"))

    def begin(**sut: Any) -> System:
        run = rundir.create(root / f"run-{len(systems)}")
        sut_id = f"test-{ids.token()}"
        state = launch.provision(scenario_of(**sut), run, "run", sut_id, lambda _line: None)
        systems.append(System(state, run))
        return systems[-1]

    yield begin
    left = [who for system in systems for who in launch.teardown(system.state)]
    marked = [who for system in systems for who in proc.marked(proc.SUT_ENV, system.state.sut_id)]
    shutil.rmtree(root, ignore_errors=True)
    assert left == []
    assert marked == []
