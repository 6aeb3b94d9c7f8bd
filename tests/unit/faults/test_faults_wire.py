"""Parameters of network faults: what is refused before anything is looked at. No kernel."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from faults import FAULTS


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("network.partition", {"peers": "frontend"}, "hold_s"),
        ("network.partition", {"hold_s": 0, "peers": "frontend"}, "hold_s must be above 0 seconds, got 0"),
        ("network.partition", {"hold_s": 1, "peers": []}, "peers must name a role or a target"),
        (
            "network.partition",
            {"hold_s": 1, "peers": ["worker-2", "client"]},
            "squall's own paths are never cut",
        ),
        ("network.partition", {"hold_s": 1, "peers": "client"}, "squall's own paths are never cut"),
        ("network.partition", {"hold_s": 1, "peers": "frontend", "direction": "out"}, "direction"),
        ("network.loss", {"hold_s": 1, "peers": "frontend", "ratio": 0}, "ratio must be 0.001 to 1, got 0"),
        ("network.loss", {"hold_s": 1, "peers": "frontend", "ratio": 30}, "ratio must be 0.001 to 1, got 30"),
        ("network.reset", {"peers": "frontend"}, "hold_s must be above 0 seconds"),
        ("network.reset", {"peers": "frontend", "how": "kill", "hold_s": 1}, "remove hold_s"),
        ("network.reset", {"peers": "frontend", "how": "kill", "direction": "to_peers"}, "direction"),
        ("network.bandwidth", {"hold_s": 1, "peers": "frontend", "kbit_per_s": 1}, "kbit_per_s must be 64"),
        ("network.delay", {"hold_s": 1, "peers": "frontend", "ms": 0}, "ms must be 1 to 60000"),
        (
            "network.delay",
            {"hold_s": 1, "peers": "frontend", "ms": 5, "jitter_ms": 9},
            "jitter_ms must be 0 to ms",
        ),
    ],
)
def test_parameters_that_are_refused(name: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said.replace("(", r"\(")):
        msgspec.convert(params, FAULTS[name])
