"""Whether and when a client asks again: an error status or no answer at all, as a retry policy says.

A stream that has begun is never asked for again, as no client can. Knows the head of an answer, not its
meaning. Full jitter: "Exponential Backoff And Jitter", AWS Architecture Blog; a budget: as gRPC's retry
throttling and Finagle's RetryBudget have it.
"""

from __future__ import annotations

import email.utils
from collections.abc import Set
from dataclasses import dataclass

from harness.core import clock, ids
from harness.core.config import Retry
from harness.traffic.exchange import Exchange

RETRIED = frozenset(
    {408, 409, 425, 429, 500, 502, 503, 504}
)  # what OpenAI's clients ask again after, and 425, 502
UNANSWERED = frozenset({"closed", "reset", "refused", "timeout"})


@dataclass
class Budget:
    """Retries that a process may still send: each request adds `ratio`, each retry takes one."""

    ratio: float
    left: float

    def earn(self) -> None:
        self.left += self.ratio

    def take(self) -> bool:
        """False: nothing is left."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


def wanted(one: Exchange, overload_codes: Set[int]) -> bool:
    """Is this an answer after which clients ask again?"""
    if not one.response.head_complete:
        return one.end in UNANSWERED
    return one.response.status in RETRIED | overload_codes


def wait_s(retry: Retry, one: Exchange, attempt: int, seed: int, *path: str | int) -> float:
    """Seconds to wait after attempt `attempt` (0, 1, ...); random in a stream of its own."""
    said = retry_after_s(one.response.header("retry-after")) if retry.retry_after else None
    if said is not None:
        return said
    most = min(retry.cap_s, retry.base_s * 2.0 ** min(attempt, 60))
    return ids.rng(seed, "retry", *path, attempt).uniform(0, most) if retry.jitter == "full" else most


def retry_after_s(value: str | None) -> float | None:
    """Seconds that the header Retry-After asks for: a number, or a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _until_s(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _until_s(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - clock.wall_ns() / clock.NS)
