"""What a connection read, piece by piece, and the two questions that make most pieces cheap.

Most pieces of a stream are one whole chunk that holds one event, and most events differ from the one before
in their word only. `whole` finds such chunks, `run` follows the words; what they pass over need be neither
framed nor decoded. The reactor has the same class in C (reactor/capture.c); a property test compares them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, SupportsIndex

from harness.core import words
from harness.traffic import stamps
from harness.traffic.http1 import whole_chunk

_WORDS = tuple(word.encode() for word in words.WORDS)


class Like(NamedTuple):
    """The events that may follow a given one: `before`, then a text, then `after`.

    step > 0: the text is word number (start + i * step) mod P of the witness, for i = 0, 1, ... below
    `limit`. step 0: any text of printable ASCII without quotes and backslashes.
    """

    before: bytes
    after: bytes
    start: int = 0
    step: int = 0
    limit: int = 1 << 62


class Received(Protocol):
    """The pieces of one answer in the order in which they were read: Pieces, or the reactor's Capture."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> stamps.Piece: ...

    def whole(self, index: int, /) -> int: ...

    def body(self, index: int, /) -> bytes: ...

    def run(self, index: int, end: int, like: Like, /) -> int: ...

    def times(self, start_ns: int, offset_start_ns: int, offset_end_ns: int, /) -> list[int]: ...

    def since(self, index: int, /) -> int: ...


class Pieces(list[stamps.Piece]):
    """What the hub engine keeps."""

    def whole(self, index: int) -> int:
        """How many pieces from `index` on are exactly one chunk each, not the last one of the body."""
        count, size, line = len(self), 0, b""
        for n in range(index, count):
            data = self[n][1]
            if len(data) == size and data[:5] == line and data[-2:] == b"\r\n":  # as the one before
                continue
            if not whole_chunk(data):
                return n - index
            size, line = len(data), data[:5]
        return count - index

    def body(self, index: int) -> bytes:
        """What the chunk of a whole piece holds."""
        return whole_chunk(self[index][1])

    def run(self, index: int, end: int, like: Like) -> int:
        """How many of the whole pieces from `index` up to `end` hold one event each, as `like` says."""
        head, tail = b"data: " + like.before, like.after + b"\n\n\r\n"
        if like.step == 0:
            return self._any(index, end, head, tail)
        size = len(head) + 4 + len(tail) - 2
        lower, upper = b"%x\r\n%s" % (size, head), b"%X\r\n%s" % (size, head)
        at, step, upto = like.start, like.step, min(end, index + like.limit)
        for n in range(index, upto):
            data, rest = self[n][1], _WORDS[at] + tail
            if data != lower + rest:
                if data != upper + rest:
                    return n - index
                lower, upper = upper, lower  # tried first from now on
            at = (at + step) % words.P
        return max(0, upto - index)

    def _any(self, index: int, end: int, head: bytes, tail: bytes) -> int:
        upto = -len(tail) + 2
        for n in range(index, end):
            body = whole_chunk(self[n][1])
            text = body[len(head) : upto]
            if not (text and body.startswith(head) and body[upto:] == tail[:-2] and _plain(text)):
                return n - index
        return max(0, end - index)

    def times(self, start_ns: int, offset_start_ns: int, offset_end_ns: int) -> list[int]:
        """Receive times; see stamps.resolve."""
        return stamps.resolve(self, start_ns, offset_start_ns, offset_end_ns)

    def since(self, index: int) -> int:  # noqa: ARG002
        """Before this instant (CLOCK_MONOTONIC ns) nothing of the piece could be read; 0: not known."""
        return 0


def _plain(text: bytes) -> bool:
    return text.isascii() and text.decode("ascii").isprintable() and b'"' not in text and b"\\" not in text
