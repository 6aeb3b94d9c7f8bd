"""Where targets live. To add a platform: one file, one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faults.ports import Ports
from harness.core.config import Scenario
from harness.core.errors import ScenarioError
from harness.core.rundir import RunDir
from harness.platforms import local, netns


@dataclass(frozen=True)
class Platform:
    """ports: what it gives to faults on a running system; offers: their names, known from the scenario alone."""

    ports: Callable[[RunDir, float], Ports]
    offers: Callable[[Scenario], frozenset[str]]


PLATFORMS: dict[str, Platform] = {
    "local": Platform(local.ports, local.offers),
    "netns": Platform(netns.ports, netns.offers),
}


def of(scenario: Scenario, file: str) -> Platform:
    """The scenario's platform. Raises ScenarioError for one that this version doesn't have."""
    name = scenario.sut.platform
    if name not in PLATFORMS:
        raise ScenarioError(
            file, "sut.platform", f"{name!r} comes with a later version", f"write `{next(iter(PLATFORMS))}`"
        )
    return PLATFORMS[name]
