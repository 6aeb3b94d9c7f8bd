"""What the load generator says of itself and what no limit of the scenario refuses, but a reader should know."""

from __future__ import annotations

from harness.stats.invariants import generator_figures
from harness.stats.load import RunData

LATE_MS = 2.0  # from here on the generator's own lag can be seen in latencies
STEAL_RATIO = 0.05  # from here on the machine isn't ours


def warnings(data: RunData) -> list[str]:
    """Lags above 2 ms, and CPU time that the machine's host gave to others; of several hosts the worst."""
    figures = generator_figures(data)
    late = [
        f"{name.removesuffix('_ms').replace('_', ' ')} {value:.3g} ms"
        for name in ("send_lag_p99_ms", "hub_lag_p99_ms")
        if (value := figures[name]) is not None and value > LATE_MS
    ]
    found = []
    if late:
        found.append(
            f"the load generator was late ({', '.join(late)}): latencies of that size may be its own"
        )
    said = data.manifest.get("generator")
    steal = said.get("cpu_steal_ratio") if isinstance(said, dict) else None
    if isinstance(steal, float) and steal > STEAL_RATIO:
        found.append(
            f"the machine's host gave {steal:.0%} of its CPU time to others: latencies are theirs, too"
        )
    return found
