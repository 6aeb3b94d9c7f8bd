"""What Locust's master and its workers say to each other about squall, as plain data of its messages.

Workers open: `hello` until they are welcome, then, in each test: the master asks for the clock and
gives the plan; a worker says how its load goes, asks for user numbers, ships records if it must, and
closes with a count.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import msgspec

from harness.collect import ship
from harness.core import clock
from harness.core.clock import Anchor
from harness.core.sutfile import SutState
from harness.traffic.totals import Totals

HELLO, WELCOME = "squall_hello", "squall_welcome"
CLOCK, PLAN, HURRY = "squall_clock", "squall_plan", "squall_hurry"
LIVE, NUMBERS, CLOSED, FAILED = "squall_live", "squall_numbers", "squall_closed", "squall_failed"
RECORDS = "squall_records"  # the key in Locust's own report to the master

T = TypeVar("T")


class Hello(msgspec.Struct, frozen=True):
    """Where a worker process runs. Equal `clock`: the same CLOCK_MONOTONIC; equal `pids`: its pid is ours."""

    version: str
    host: str
    pid: int
    boot: str
    clock: str
    pids: str


class Plan(msgspec.Struct, frozen=True):
    """One test, for one worker. Times in ns of the worker's own clock."""

    run_id: str
    run_dir: str  # on the master's host
    boot: str  # of the master's host
    scenario: str  # YAML, resolved
    sut: dict[str, Any]  # what clients need of SutState, no secrets
    anchor: tuple[int, int]  # mono_ns, wall_ns
    worker_index: int
    worker_count: int


class Closed(msgspec.Struct, frozen=True):
    """A worker's last word in a test. `shipped`: its records went by message, the last ones in `chunks`."""

    totals: Totals
    rows: int
    figures: dict[str, int | float | None]
    shipped: int | None = None  # how many chunks in all; None: it wrote its own file
    chunks: list[Any] = []


def hello(version: str, host: str) -> Hello:
    """Of this process."""
    boot = clock.boot_id()
    return Hello(
        version, host, os.getpid(), boot, clock.identity(), f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    )


def plan(
    run_id: str, run_dir: str, scenario: str, state: SutState, anchor: Anchor, index: int, count: int
) -> Plan:
    """For worker `index` of `count`; `anchor` on its clock."""
    return Plan(
        run_id=run_id, run_dir=run_dir, boot=clock.boot_id(), scenario=scenario,
        sut={
            "sut_id": state.sut_id, "owner": state.owner, "oracle": state.oracle, "model": state.model,
            "urls": state.urls, "headers_env": state.headers_env,
        },
        anchor=(anchor.mono_ns, anchor.wall_ns), worker_index=index, worker_count=count,
    )  # fmt: skip


def plain(message: msgspec.Struct) -> Any:
    """For Locust's messages, which are msgpack."""
    return msgspec.to_builtins(message, builtin_types=(bytes,))


def read(data: Any, kind: type[T]) -> T:
    """The reverse of `plain`. Raises msgspec.ValidationError: the other side runs another squall."""
    return msgspec.convert(data, kind)


def last_chunks(closed: Closed) -> list[ship.Chunk]:
    """The chunks that came with a worker's last word."""
    return ship.unpack(closed.chunks)
