"""Many whole numbers, counted instead of kept: their exact quantiles from little memory.

Knows nothing of what the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.stats.analysis import Ints

DENSE = 1 << 20  # values below are counted one by one; the few others are kept


class Tally:
    """Whole numbers from 0 to 2^31 - 1, added in any order."""

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(0, np.int64)  # of each value below the highest seen
        self._rest: list[NDArray[np.int32]] = []
        self.total = 0

    def add(self, values: NDArray[np.int32]) -> None:
        """Count them."""
        self.total += len(values)
        if not len(values):
            return
        if int(values.max()) >= DENSE:
            large = values >= DENSE
            self._rest.append(values[large])
            values = values[~large]
        counts = np.bincount(values)
        if len(counts) > len(self._counts):
            counts, self._counts = self._counts, counts
        self._counts[: len(counts)] += counts

    def quantiles(self, levels: Sequence[float]) -> list[float]:
        """As np.quantile(values, levels), to the bit. Raises ValueError when there is no value."""
        if not self.total:
            raise ValueError("no values, so no quantile")
        below = np.cumsum(self._counts)
        rest = np.sort(np.concatenate([np.zeros(0, np.int32), *self._rest]))
        dense = int(below[-1]) if len(below) else 0

        def at(rank: int) -> int:
            return (
                int(np.searchsorted(below, rank, side="right")) if rank < dense else int(rest[rank - dense])
            )

        found = []
        for level in levels:
            virtual = (self.total - 1) * level
            low = int(virtual)
            pair = np.array([at(low), at(min(low + 1, self.total - 1))], np.int32)
            found.append(float(np.quantile(pair, virtual - low)))
        return found
