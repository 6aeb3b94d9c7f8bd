"""Fixtures of the integration tests; the functions are in pipeline.py."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness.core import proc


@pytest.fixture
def killing() -> Iterator[Callable[[str], None]]:
    """Register run ids whose processes must not outlive the test, also when it fails."""
    from pipeline import left_over

    known: list[str] = []
    yield known.append
    for run_id in known:
        for pid in left_over(run_id):
            who = proc.identify(pid)
            if who is not None:
                proc.send(who, signal.SIGKILL)
