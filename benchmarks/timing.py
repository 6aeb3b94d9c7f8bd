"""How wrong a client's times are, against the server's own: both engines and the floor, streams at random
phases and all in step. Whole microseconds, as records have them; arrival itself takes some three.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import client, errors, ground
from benchmarks.ground import Load

LOADS = (
    Load(streams=50, tokens=200), Load(streams=50, tokens=200, step=True), Load(streams=200, tokens=200),
    Load(streams=200, tokens=200, step=True), Load(streams=1000, tokens=80, gap_ms=50.0),
    Load(streams=1000, tokens=80, gap_ms=50.0, step=True),
)  # fmt: skip
CLIENTS: dict[str, client.Argv] = {
    "floor (C, epoll, recv, clock)": client.floor("clock"),
    # What no client can know better: from the server's look at its clock to the kernel's stamp.
    "floor, kernel stamps": client.floor("kernel"),
    "squall, reactor": client.CLIENTS["squall, reactor"],
    "squall, hub": client.CLIENTS["squall, hub"],
}


def measure(place: Path) -> str:
    """The table, as text."""
    why = ground.build(place)
    if why is not None:
        return f"skipped: {why}"
    lines = [
        "microseconds, p50/p99/p99.9/max; `coalesced`: tokens that arrived with another behind them; `beyond`: requests "
        "with a time that is off by 1 ms more than they say",
        f"{'streams':<16} {'client':<31} {'TTFT error':<30} {'gap error':<30} {'coalesced':>9} {'beyond':>7} {'missing':>8}",
    ]  # fmt: skip
    for number, load in enumerate(LOADS):
        for column, (name, argv) in enumerate(CLIENTS.items()):
            out = place / f"timing-{number}-{column}"
            measured = ground.measure(place, load, argv(load, out))
            seen = client.seen(name, out, load.tokens)
            found = errors.compare(seen, measured.truth)
            lines.append(
                f"{load.streams:>5} {'in step' if load.step else 'random':<10} {name:<31} {_show(found.ttft_us):<30} "
                f"{_show(found.gap_us):<30} {found.coalesced:>9.3%} {found.beyond:>7} {found.missing:>8}"
            )
    return "\n".join(lines)


def _show(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in values)
