"""How far open streams have come, looked at from outside: nothing is added to what a token costs.

Counts events of server-sent event streams in what has arrived. It may count too few (an event whose
beginning was split over two reads), never too many.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from harness.traffic.exchange import Exchange

EVENT = b"data: {"
DELTA = b"event: response.output_text.delta\n"  # of /v1/responses, where most other events hold no token
NOT_TOKENS = 3  # events of a stream that need not hold a token: role, finish reason, usage


@dataclass
class Progress:
    """Remembers what it has read of each open stream, so that a look costs only what is new."""

    _seen: dict[Exchange, tuple[int, int, int]] = field(default_factory=dict)  # list, pieces read, events

    def past(self, streams: Collection[Exchange], token: int) -> int:
        """How many of them have surely received more than `token` tokens."""
        self._seen = {one: self._read(one) for one in list(streams)}
        return sum(events - NOT_TOKENS > token for _, _, events in self._seen.values())

    def _read(self, one: Exchange) -> tuple[int, int, int]:
        pieces = one.pieces
        which, read, events = self._seen.get(one, (id(pieces), 0, 0))
        if which != id(pieces) or read > len(pieces):  # begun anew
            read, events = 0, 0
        upto = len(pieces)
        mark = DELTA if b"/v1/responses " in one.request.partition(b"\r\n")[0] else EVENT
        return id(pieces), upto, events + sum(pieces[n][1].count(mark) for n in range(read, upto))
