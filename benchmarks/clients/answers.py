"""Answers with the times of their chunks, as benchmarks/c/server.c and floor.c write them."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ID_BYTES = 48
_HEAD = struct.Struct(f"{ID_BYTES}sqq")


class Answer(NamedTuple):
    """One request; times are CLOCK_MONOTONIC ns."""

    request_id: str
    start_ns: int
    times: array[int]


def pack(request_id: str, start_ns: int, times: list[int]) -> bytes:
    """One answer as it stands in a file."""
    return _HEAD.pack(request_id.encode(), start_ns, len(times)) + array("q", times).tobytes()


def read(path: Path) -> Iterator[Answer]:
    """All answers of a file."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        name, start_ns, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        times = array("q", data[at : at + 8 * count])
        at += 8 * count
        yield Answer(name.rstrip(b"\0").decode(), start_ns, times)
