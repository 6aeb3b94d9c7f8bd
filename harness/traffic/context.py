"""What the users of one process share during one test: what to send, where, and where records go."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sized
from dataclasses import dataclass, field
from typing import Protocol

from harness.core.clock import Anchor
from harness.core.config import Scenario, UserClass
from harness.core.records import FAILED, Outcome, RequestRecord
from harness.core.sutfile import SutState
from harness.traffic.engine import HubEngine, choose
from harness.traffic.exchange import Exchange
from harness.traffic.lag import Lag
from harness.traffic.retry import Budget
from harness.traffic.totals import Totals


@dataclass
class LiveCounters:
    """Totals since the start of the test, for the eye. `tokens` includes those of open streams, about."""

    sent: int = 0
    ok: int = 0
    shed: int = 0
    cancelled: int = 0
    failed: int = 0
    tokens_done: int = 0
    open: Collection[Exchange] = ()

    @property
    def in_flight(self) -> int:
        """Streams open now; answers that wait to be judged don't count."""
        return len(self.open)

    @property
    def tokens(self) -> int:
        return self.tokens_done + sum(_pieces(one.pieces) for one in list(self.open))

    def totals(self) -> Totals:
        """What stands in them now."""
        return Totals(
            sent=self.sent, ok=self.ok, shed=self.shed, cancelled=self.cancelled, failed=self.failed,
            tokens=self.tokens, in_flight=self.in_flight,
        )  # fmt: skip

    def started(self) -> None:
        self.sent += 1

    def ended(self, outcome: Outcome, tokens: int) -> None:
        self.tokens_done += tokens
        if outcome == "ok":
            self.ok += 1
        elif outcome == "shed":
            self.shed += 1
        elif outcome == "cancelled":
            self.cancelled += 1
        elif outcome in FAILED:
            self.failed += 1


def _pieces(pieces: Sized) -> int:
    return max(0, len(pieces) - 1)  # one piece a token, about, after the head


class Numbers(Protocol):
    """Gives users their numbers, each once in a run, whatever process they live in."""

    def next(self, user_class: str) -> int:
        """0, 1, 2, ... for each class; a greenlet may have to wait for it. Raises RuntimeError."""
        ...


@dataclass
class Numbering:
    """The numbers of a run, where they are counted."""

    counts: dict[str, int] = field(default_factory=dict)

    def next(self, user_class: str) -> int:
        """0, 1, 2, ... for each class."""
        number = self.counts.get(user_class, 0)
        self.counts[user_class] = number + 1
        return number


@dataclass(frozen=True)
class TrafficContext:
    """One test of one Locust process. Opens its engine when made; `close` it."""

    scenario: Scenario
    sut: SutState
    run_id: str
    anchor: Anchor
    worker_index: int
    worker_count: int
    sink: Callable[[RequestRecord], object]
    live: LiveCounters
    headers: dict[str, str]
    engine: HubEngine = field(init=False)
    lag: Lag = field(default_factory=Lag)
    numbering: Numbers = field(default_factory=Numbering)
    budgets: dict[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine", HubEngine(choose(self.scenario.generator.engine)))
        self.live.open = self.engine.open

    def budget(self, spec: UserClass) -> Budget:
        """What the users of a class may still send again, here."""
        policy = spec.retry
        if policy is None or policy.budget_ratio is None:
            return Budget(0, math.inf)
        return self.budgets.setdefault(spec.user_class, Budget(policy.budget_ratio, policy.budget_min))

    def close(self) -> None:
        """Finish every record that is still being judged, and release the engine."""
        self.engine.close()
