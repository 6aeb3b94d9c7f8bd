"""What goes over a connection is tested over both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.core.config import Generator
from harness.traffic.engine import HubEngine, Kind


@pytest.fixture(params=["hub", pytest.param("reactor", marks=pytest.mark.reactor)])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The engine's name."""
    wanted: Kind = request.param
    return wanted


@pytest.fixture
def engine(kind: Kind) -> Iterator[HubEngine]:
    made = HubEngine(kind)
    yield made
    made.close()


@pytest.fixture
def generator(kind: Kind) -> Generator:
    """The same as a scenario's section."""
    return Generator(engine=kind)
