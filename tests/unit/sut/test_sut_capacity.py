"""Places and KV blocks, by hand."""

from __future__ import annotations

import asyncio

from harness.sut.witness.capacity import Capacity, Seat


def enter(capacity: Capacity, tokens: int, most: int) -> tuple[Seat, asyncio.Future[bool]]:
    seat, turn = Seat(tokens, most), asyncio.get_running_loop().create_future()
    capacity.enter(seat, turn)
    return seat, turn


def test_blocks_grow_with_tokens_and_come_back() -> None:
    async def play() -> None:
        capacity = Capacity(max_num_seqs=4, total=10, block_size=4)
        seat, turn = enter(capacity, tokens=7, most=13)
        assert turn.done()
        assert (capacity.running, capacity.used) == (1, 2)
        capacity.grow(seat)  # 8 tokens fill two blocks
        assert capacity.used == 2
        capacity.grow(seat)
        assert capacity.used == 3
        capacity.leave(seat)
        capacity.leave(seat)
        assert (capacity.running, capacity.used) == (0, 0)

    asyncio.run(play())


def test_first_come_first_served_by_seats_and_by_blocks() -> None:
    async def play() -> None:
        capacity = Capacity(max_num_seqs=2, total=10, block_size=1)
        first, _ = enter(capacity, 1, 6)
        big, big_turn = enter(capacity, 1, 8)
        small, small_turn = enter(capacity, 1, 1)
        assert not big_turn.done()  # 6 + 8 > 10
        assert not small_turn.done()  # it would fit, but it isn't its turn
        assert (capacity.running, capacity.waiting) == (1, 2)
        capacity.leave(first)
        assert big_turn.result() is True
        assert small_turn.result() is True
        third, third_turn = enter(capacity, 1, 1)
        assert not third_turn.done()  # two seats
        capacity.leave(big)
        assert third_turn.result() is True
        assert small.inside
        assert third.inside

    asyncio.run(play())


def test_a_giant_runs_alone_and_who_leaves_the_queue_is_forgotten() -> None:
    async def play() -> None:
        capacity = Capacity(max_num_seqs=4, total=5, block_size=1)
        giant, turn = enter(capacity, 3, 100)
        assert turn.done()
        for _ in range(20):
            capacity.grow(giant)
        assert capacity.used == 5
        gone, gone_turn = enter(capacity, 1, 1)
        left, left_turn = enter(capacity, 1, 1)
        gone_turn.set_result(False)  # its client left
        capacity.leave(gone)
        assert capacity.waiting == 1
        capacity.leave(giant)
        assert left_turn.result() is True
        assert not gone.inside
        capacity.leave(left)
        assert (capacity.running, capacity.used, capacity.waiting) == (0, 0, 0)

    asyncio.run(play())
