"""`make bench`: the figures in README.md and ARCHITECTURE.md, each printed with what it was measured on.

No assertion here and none of this in tests: a machine's speed is no property of the code.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import client, comparing, detection, first_request, judging, leak, scale, streams, timing
from harness.core import manifest

BENCHES: dict[str, Callable[[Path], str]] = {
    "first request": first_request.measure,
    "judging": judging.measure,
    "comparing": comparing.measure,
    "scale": scale.measure,
    "detection": detection.measure,
    "client": client.measure,
    "timing": timing.measure,
    "streams": streams.measure,
    "leak": leak.measure,
}


def main() -> int:
    chosen = sys.argv[1:] or list(BENCHES)
    machine = manifest.fingerprint()
    sys.stdout.write(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}\n"
    )
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="squall-bench-") as place:
            sys.stdout.write(f"{name:<16} {BENCHES[name](Path(place))}\n")
            sys.stdout.flush()
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"peak memory of this process: {peak_gib:.2f} GiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
