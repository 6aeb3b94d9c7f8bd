"""ArrivalUser: Locust's handle on the open loop, one a process. Its requests come by load.arrivals."""

from __future__ import annotations

from locust import User

from typing import Any, ClassVar

from harness.core.config import Scenario
from harness.traffic.context import TrafficContext
from harness.traffic.dispatch import Dispatcher
from harness.traffic.users import drain_at_ns, report

NAME = "ArrivalUser"


def configure(environment: Any, scenario: Scenario, processes: int = 1) -> None:
    """One for each process when there are arrivals, else none."""
    for user_class in environment.user_classes:
        if user_class.__name__ == NAME:
            user_class.fixed_count = count(scenario, processes)
            user_class.weight = 0


def count(scenario: Scenario, processes: int = 1) -> int:
    """How many of Locust's users it takes."""
    return 0 if scenario.load.arrivals is None else processes


class ArrivalUser(User):  # type: ignore[misc]
    """Sends what is due, whatever became of what was sent before."""

    squall_dispatcher: Dispatcher | None = None

    def on_start(self) -> None:
        traffic: TrafficContext | None = self.environment.squall.traffic
        if traffic is None:
            raise RuntimeError("a user started outside a test: test_start has made no TrafficContext")
        shares = traffic.worker_count
        index = traffic.numbering.next(NAME) % shares
        self.squall_dispatcher = Dispatcher(traffic, index, shares, lambda record: report(self, record))

    def arrive(self) -> None:
        """All of the schedule, until Locust asks to stop and the last stream has ended."""
        assert self.squall_dispatcher is not None
        self.squall_dispatcher.start()
        self.squall_dispatcher.ended.wait()

    tasks: ClassVar[list[Any]] = [arrive]

    def stop(self, force: bool = False) -> bool:
        if not force and self.squall_dispatcher is not None:
            self.squall_dispatcher.drain(drain_at_ns(self))
        return bool(User.stop(self, force))

    def on_stop(self) -> None:
        if self.squall_dispatcher is not None:
            self.squall_dispatcher.close()
