"""Sequences and KV blocks: who runs, who waits, how full the engine is.

First come, first served. A request is let in when its prompt and its whole answer fit, so nobody is
ever preempted; what is published as used grows with the tokens made. Standard library only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(eq=False)
class Seat:
    """One request's claim. `tokens` are in its KV cache now, `most` will be at the end."""

    tokens: int
    most: int
    inside: bool = False
    blocks: int = 0
    reserved: int = 0


class Capacity:
    """At most `max_num_seqs` requests and `total` blocks of `block_size` tokens at once."""

    def __init__(self, max_num_seqs: int, total: int, block_size: int) -> None:
        self.max_num_seqs, self.total, self.block_size = max_num_seqs, total, block_size
        self.running = 0
        self.used = 0
        self._reserved = 0
        self._queue: deque[tuple[Seat, asyncio.Future[bool]]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that were not let in yet."""
        return len(self._queue)

    def enter(self, seat: Seat, turn: asyncio.Future[bool]) -> None:
        """Line up; `turn` gets True as soon as there is room."""
        seat.reserved = min(self._blocks(seat.most), self.total)  # a giant runs alone
        self._queue.append((seat, turn))
        self._admit()

    def grow(self, seat: Seat) -> None:
        """One more token in the cache."""
        seat.tokens += 1
        if (seat.tokens - 1) % self.block_size == 0 and seat.blocks < seat.reserved:
            seat.blocks += 1
            self.used += 1

    def leave(self, seat: Seat) -> None:
        """Give everything back, in the queue or inside; twice is harmless."""
        if seat.inside:
            seat.inside = False
            self.running -= 1
            self.used -= seat.blocks
            self._reserved -= seat.reserved
        else:
            self._queue = deque(entry for entry in self._queue if entry[0] is not seat)
        self._admit()

    def _admit(self) -> None:
        while self._queue and self.running < self.max_num_seqs:
            seat, turn = self._queue[0]
            if self._reserved + seat.reserved > self.total:
                return
            self._queue.popleft()
            if turn.done():  # gave up while it waited
                continue
            seat.inside = True
            seat.blocks = min(self._blocks(seat.tokens), seat.reserved)
            self.running += 1
            self.used += seat.blocks
            self._reserved += seat.reserved
            turn.set_result(True)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)
