"""Our own client inside Locust's runner, with Locust's statistics, the oracle and the records file.

argv: URL, streams, requests a stream, tokens an answer, directory, engine.
"""

from __future__ import annotations

from locust import User
from locust.env import Environment
from locust.exception import StopUser

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.collect.sink import Sink
from harness.core import clock, config, rundir
from harness.core.sutfile import SutState
from harness.traffic import users
from harness.traffic.context import LiveCounters, TrafficContext
from harness.traffic.measure import Meter

PROMPT_TOKENS = 40
MARKS = 10  # how often memory is looked at, evenly over the requests
asked = 0  # by all users


def loop(user: Any) -> None:
    """So many requests, one after the other."""
    global asked  # noqa: PLW0603
    for _ in range(int(sys.argv[3])):
        user.squall_client.ask()
        asked += 1
    raise StopUser


class ChatUser(User):  # type: ignore[misc]
    """harness.traffic.users.ChatUser with an end."""

    tasks = (loop,)
    squall_client: Any = None
    on_start = users.start

    def on_stop(self) -> None:
        users.finish(self)


def _rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    url, streams, tokens, place, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6]  # fmt: skip
    one = {"class": "ChatUser", "count": streams, "prompt_tokens": PROMPT_TOKENS, "output_tokens": tokens}
    tree = {"schema": 1, "name": "bench", "sut": {"dynamo": "1.6.1"}, "load": {"duration_s": 600, "timeout_s": 60, "users": [one]},
            "generator": {"engine": engine}}  # fmt: skip
    scenario = config.build(tree, "bench")
    run = rundir.create(place)
    sink = Sink(run, 0)
    environment: Any = Environment(user_classes=[ChatUser])
    runner = environment.create_local_runner()
    ChatUser.fixed_count = streams
    anchor = clock.anchor_now()
    traffic = TrafficContext(
        scenario=scenario, sut=SutState(sut_id="s", owner="run", oracle="witness", model="m", urls=[url]), run_id="bench",
        anchor=anchor, worker_index=0, worker_count=1, sink=sink.write, live=LiveCounters(), headers={},
    )  # fmt: skip
    environment.squall = SimpleNamespace(traffic=traffic)
    meter = Meter(traffic)
    runner.start(streams, spawn_rate=streams)
    wanted, rss_mib = streams * int(sys.argv[3]), []
    while asked < wanted:
        traffic.engine.timer.wait_until(clock.now_ns() + 50 * clock.MS)
        if asked * MARKS >= wanted * (len(rss_mib) + 1):
            rss_mib.append(_rss_mib())
    runner.stop()
    generator = meter.end()
    rows = sink.close()
    live = traffic.live
    (place / "bench.json").write_text(json.dumps({
        "anchor_ns": anchor.mono_ns, "rows": rows, "sent": live.sent, "ok": live.ok, "generator": generator, "engine": traffic.engine.kind,
        "rss_mib": rss_mib,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
