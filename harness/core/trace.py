"""Traces of real traffic in Mooncake's format: when requests came, how long, which prefixes they share.

JSON lines {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}: one id for
each 512 tokens of the prompt, equal ids for equal blocks in equal context (github.com/kvcache-ai/Mooncake).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from harness.core.errors import ScenarioError

BLOCK_TOKENS = 512

Count = Annotated[int, msgspec.Meta(ge=0)]


class Row(msgspec.Struct, frozen=True):
    """One request of a trace. timestamp_ms: since the replay's start, before speed."""

    timestamp_ms: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


class _Line(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Count
    output_length: Count
    hash_ids: list[Count] = []


def parse(lines: Iterable[bytes], offset_s: float = 0, length_ratio: float = 1) -> list[Row]:
    """The rows from offset_s on, in order of time, moved so that the replay begins with 0 at offset_s.

    Raises ValueError naming line, value and remedy. Lengths times length_ratio, at least 1.
    """
    decode = msgspec.json.Decoder(_Line).decode
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"line {number}: {error}") from None
        blocks = -(-one.input_length // BLOCK_TOKENS)
        if len(one.hash_ids) > blocks:
            raise ValueError(
                f"line {number}: {len(one.hash_ids)} hash_ids for {one.input_length} tokens, which are "
                f"{blocks} blocks of {BLOCK_TOKENS}"
            )
        at_ms = one.timestamp - 1000 * offset_s
        if at_ms >= 0:
            found.append(
                Row(at_ms, max(1, round(one.input_length * length_ratio)),
                    max(1, round(one.output_length * length_ratio)), tuple(one.hash_ids))
            )  # fmt: skip
    return sorted(found, key=lambda row: row.timestamp_ms)


def read(path: Path, offset_s: float, length_ratio: float, sha256: str | None, file: str) -> list[Row]:
    """The same, of a file. Raises ScenarioError, also when it isn't the file of that sha256 any more."""
    at = "load.arrivals.file"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScenarioError(
            file, at, f"{path}: {error.strerror}", "name a trace, relative to the scenario"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ScenarioError(file, at, f"{path} has changed since the scenario was loaded", "run it again")
    try:
        rows = parse(data.splitlines(), offset_s, length_ratio)
    except ValueError as error:
        raise ScenarioError(file, at, f"{path}, {error}", "see docs/load.md for the format") from None
    if not rows:
        raise ScenarioError(file, at, f"{path} has no request from {offset_s:g} s on", "lower offset_s")
    return rows
