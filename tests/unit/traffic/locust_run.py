"""A tiny Locust run against a URL, in a process of its own because Locust patches it.

argv: URL, scenario as JSON, seconds to run, "stop" | "kill". Prints one JSON object.
"""

from __future__ import annotations

from locust.env import Environment

import json
import sys
from types import SimpleNamespace
from typing import Any

import gevent
import msgspec

from harness.core import clock, config, phases
from harness.core.records import RequestRecord
from harness.core.sutfile import SutState
from harness.traffic import open_loop, users
from harness.traffic.context import LiveCounters, TrafficContext
from harness.traffic.measure import Meter


def main() -> None:
    url, tree, run_s, how = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    scenario = config.build(tree, "test")
    state = SutState(sut_id="s", owner="run", oracle="witness", model="m", urls=[url])
    records: list[RequestRecord] = []
    environment: Any = Environment(
        user_classes=[users.ChatUser, users.CompletionUser, users.CancellingUser, open_loop.ArrivalUser]
    )
    runner = environment.create_local_runner()
    users.configure(environment, scenario)
    open_loop.configure(environment, scenario)
    environment.stop_timeout = 0 if how == "kill" else scenario.load.drain_s + 1
    traffic = TrafficContext(
        scenario=scenario, sut=state, run_id="run", anchor=clock.anchor_now(), worker_index=0, worker_count=1,
        sink=records.append, live=LiveCounters(), headers={},
    )  # fmt: skip
    environment.squall = SimpleNamespace(traffic=traffic)
    meter = Meter(traffic)
    total = sum(phases.peak(scenario.load, entry) for entry in scenario.load.users) + open_loop.count(
        scenario
    )
    runner.start(total, spawn_rate=total)
    gevent.sleep(run_s)
    counts = dict(runner.user_classes_count)
    began = clock.now_ns()
    runner.stop()
    stop_s = (clock.now_ns() - began) / clock.NS
    at_stop = len(records)
    generator = meter.end()
    live = traffic.live
    print(json.dumps({
        "records": msgspec.to_builtins(records), "at_stop": at_stop, "users": counts, "stop_s": stop_s,
        "generator": generator, "left": runner.user_count,
        "live": [live.sent, live.ok, live.shed, live.cancelled, live.failed, live.in_flight],
        "stats": {name: [entry.num_requests, entry.num_failures] for (name, _), entry in environment.stats.entries.items()},
        "errors": [str(error.error) for error in environment.stats.errors.values()],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
