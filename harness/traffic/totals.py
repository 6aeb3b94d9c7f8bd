"""What one Locust process says of its load while it goes on, and how several add up."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Totals(msgspec.Struct, frozen=True):
    """Requests and tokens since the start of the test; streams that are open now.

    past: for each token that a fault waits for, how many open streams have received more than so many.
    """

    sent: int = 0
    ok: int = 0
    shed: int = 0
    cancelled: int = 0
    failed: int = 0
    tokens: int = 0
    in_flight: int = 0
    past: dict[int, int] = {}


def together(parts: Iterable[Totals]) -> Totals:
    """Of all processes."""
    known = list(parts)
    tokens = sorted({token for one in known for token in one.past})
    return Totals(
        **{name: sum(getattr(one, name) for one in known) for name in Totals.__struct_fields__[:-1]},
        past={token: sum(one.past.get(token, 0) for one in known) for token in tokens},
    )
