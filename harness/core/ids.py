"""Names and randomness: the only module that makes ids or random generators."""

from __future__ import annotations

import hashlib
import random
import secrets
import uuid
from datetime import UTC, datetime

from harness.core import clock


def seed_of(seed: int, *path: str | int) -> int:
    """A 64-bit seed for one stream of randomness; another path gives an independent stream."""
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def rng(seed: int, *path: str | int) -> random.Random:
    """The generator of the stream named by `path`. Adding a stream never shifts another."""
    return random.Random(seed_of(seed, *path))


def run_id(name: str) -> str:
    """A new run id: UTC time, scenario, four hex digits."""
    stamp = datetime.fromtimestamp(clock.wall_ns() / clock.NS, UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{name}-{secrets.token_hex(2)}"


def request_id(run: str, user: int, k: int, attempt: int = 0) -> str:
    """The id of request k of user `user` in a run, a UUID because Dynamo takes no other form."""
    digest = hashlib.sha256(f"{run}/{user}/{k}/{attempt}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def token() -> str:
    """A secret for a control socket."""
    return secrets.token_urlsafe(24)


def same_secret(given: str, wanted: str) -> bool:
    """Compare two secrets in constant time."""
    return secrets.compare_digest(given.encode(), wanted.encode())
