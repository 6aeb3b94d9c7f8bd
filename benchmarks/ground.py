"""The ground under client benchmarks: the C server that knows when it sent each token, and CPU by the kernel.

Server and clients all run at the priority that a load generator gives itself, where that is allowed. CPU is that of a client's whole process tree (children that ended, start-up included), from getrusage.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.clients import answers
from harness.core import clock, proc, rundir
from harness.sut.ports import reserved

NICE = -10  # harness.generator's
HERE = Path(__file__).resolve().parent
START_TIMEOUT_S, CLIENT_TIMEOUT_S = 10.0, 1200.0


@dataclass(frozen=True)
class Load:
    """So many streams, each `rounds` requests of `tokens` tokens, one each `gap_ms`."""

    streams: int = 200
    rounds: int = 1
    tokens: int = 200
    gap_ms: float = 20.0
    first_ms: float = 50.0
    step: bool = False  # all on one grid, as an engine's batch steps are; else each at a phase of its own

    @property
    def chunks(self) -> int:
        return self.streams * self.rounds * self.tokens


@dataclass(frozen=True)
class Measured:
    """What one client did."""

    cpu_s: float
    wall_s: float
    truth: dict[str, answers.Answer] = field(repr=False)
    out: str = field(repr=False)


def build(place: Path) -> str | None:
    """Compile server and floor into `place`; why it can't be done, None when it is."""
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        return "no C compiler"
    for name in ("server", "floor"):
        done = proc.run([cc, "-O2", "-Wall", "-o", str(place / name), str(HERE / "c" / f"{name}.c")])
        if done.code:
            raise RuntimeError(done.err)
    return None


@contextlib.contextmanager
def server(place: Path, load: Load) -> Iterator[tuple[int, Path]]:
    """A running server: its port and where it leaves the truth when it ends."""
    truth, log = place / "truth", place / "server.log"
    truth.unlink(missing_ok=True)
    with reserved(1) as (port,):
        argv = [str(place / "server"), "-p", str(port), "-n", str(load.tokens), "-i", str(int(load.gap_ms * 1000)),
                "-f", str(int(load.first_ms * 1000)), "-t", str(truth), "-s" if load.step else "-j"]  # fmt: skip
        log.write_bytes(b"")
        child = proc.spawn(argv, dict(os.environ), log)
        _prefer(child.pid)
        try:
            end_ns = clock.now_ns() + int(START_TIMEOUT_S * clock.NS)
            while b"ready" not in log.read_bytes():
                if clock.now_ns() > end_ns or child.poll() is not None:
                    raise RuntimeError(f"the server did not start: {log.read_text()}")
                clock.sleep_s(0.01)
            yield port, truth
        finally:
            child.terminate()
            child.wait(START_TIMEOUT_S)


def measure(place: Path, load: Load, argv: Sequence[str], env: dict[str, str] | None = None) -> Measured:
    """Run a client against a server of its own; {port} in argv is the server's. Raises RuntimeError."""
    with server(place, load) as (port, truth):
        _prefer(0)  # and so the client
        before, began = _cpu_s(), clock.now_ns()
        done = proc.run(
            [word.replace("{port}", str(port)) for word in argv], env={**os.environ, **(env or {})},
            timeout_s=CLIENT_TIMEOUT_S, cwd=rundir.project_root(),
        )  # fmt: skip
        cpu_s, wall_s = _cpu_s() - before, (clock.now_ns() - began) / clock.NS
        if done.code:
            raise RuntimeError(f"{argv[0]} ended with {done.code}: {(done.err or done.out)[-2000:]}")
    return Measured(cpu_s, wall_s, {one.request_id: one for one in answers.read(truth)}, done.out)


def _prefer(pid: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
