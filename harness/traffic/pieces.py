"""What a connection read, piece by piece, and the two questions that make most pieces cheap.

Most pieces of a stream are one whole chunk that holds one event, and most events differ from the one before
in their word only. `whole` finds such chunks, `run` follows the words; what they pass over need be neither
framed nor decoded. The reactor has the same class in C (reactor/capture.c); a property test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple, Protocol, SupportsIndex

from harness.core import words
from harness.traffic import stamps
from harness.traffic.http1 import first_chunk, whole_chunk

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

    def joined(self) -> Sequence[int]: ...


class Pieces(list[stamps.Piece]):
    """What the hub engine keeps: reads, of which some were made pieces of one chunk each."""

    def __init__(self, reads: Iterable[stamps.Piece] = ()) -> None:
        super().__init__(reads)
        self._joined: list[int] = []
        self._since: dict[int, int] = {}  # of a read, by its time

    def came(self, read_ns: int, since_ns: int) -> None:
        """All that is read at `read_ns` came after `since_ns`."""
        self._since[read_ns] = since_ns

    def whole(self, index: int) -> int:
        """How many pieces from `index` on are exactly one chunk each, not the last one of the body.

        A read of several chunks is made as many pieces.
        """
        size, line = 0, b""
        for n in count(index):  # the pieces may become more
            if n == len(self):
                break
            data = self[n][1]
            if len(data) == size and data[:5] == line and data[-2:] == b"\r\n":  # as the one before
                continue
            if not whole_chunk(data):
                if not self._split(n):
                    break
                data = self[n][1]
            size, line = len(data), data[:5]
        return n - index

    def _split(self, index: int) -> bool:
        """Make each chunk with which the read begins a piece of its own; False: it begins with none."""
        ancillary, data, read_ns = self[index]
        parts, at = [], 0
        while size := first_chunk(data, at):
            parts.append(data[at : at + size])
            at += size
        if not parts:
            return False
        rest = data[at:]
        # The last chunk, which is no body, may follow.
        self._joined.extend(range(index, index + len(parts) - (rest[:1] in (b"", b"0"))))
        if rest:
            parts.append(rest)
        self[index : index + 1] = [(ancillary, part, read_ns) for part in parts]
        return True

    def joined(self) -> Sequence[int]:
        """The pieces that more of the same read's body follows, in order."""
        return self._joined

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

    def since(self, index: int) -> int:
        """Before this instant (CLOCK_MONOTONIC ns) nothing of the piece could be read; 0: not known."""
        return self._since.get(self[index][2], 0) if self._since else 0


def _plain(text: bytes) -> bool:
    return text.isascii() and text.decode("ascii").isprintable() and b'"' not in text and b"\\" not in text
