"""Server-sent events, parsed as the WHATWG HTML standard says (section 9.2.6), wherever the text was cut.

Owns lines, fields and dispatch. Data stay bytes: who reads them decides how strict to be about UTF-8.
Beyond the standard, a block with an event name but no data is delivered too (the standard drops it),
because some servers put an error into the name and a comment only.
"""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
MAX_EVENT = 1024 * 1024  # bytes of one event; beyond it, `overflow` and nothing more is read


class Event(NamedTuple):
    """One dispatched block. `name` is "message" when none was sent; `comment` the comment lines."""

    data: bytes
    name: bytes = b"message"
    comment: bytes = b""


class Parser:
    """Feed it the body's pieces; each call gives the events which that piece completed.

    An event that the body leaves unfinished is never delivered, as the standard says.
    """

    __slots__ = (
        "_block",
        "_comment",
        "_data",
        "_name",
        "_pending",
        "_skip_lf",
        "_start",
        "last_id",
        "overflow",
    )

    def __init__(self) -> None:
        self.last_id = b""
        self.overflow = False
        self._pending = b""  # a line that has no end yet
        self._skip_lf = False  # the last line ended in CR: an LF that follows belongs to it
        self._start = True  # a byte order mark may still come
        self._data: list[bytes] = []
        self._name = b""
        self._comment: list[bytes] = []
        self._block = 0  # bytes of the current block

    @property
    def unfinished(self) -> bool:
        """Is there a part of an event that no empty line has ended?"""
        return bool(self._pending or self._data or self._name)

    @property
    def clean(self) -> bool:
        """Does the next piece begin a block, with nothing left of the one before?"""
        return not (self._block or self._pending or self._skip_lf or self.overflow)

    def single(self, piece: bytes) -> bytes | None:
        """The data of the one unnamed event that the piece is, the usual case; None: `feed` it."""
        if (
            piece[:6] == b"data: "
            and piece[-2:] == b"\n\n"
            and piece.count(b"\n") == 2
            and b"\r" not in piece
            and self.clean
        ):
            self._start = False
            return piece[6:-2]
        return None

    def feed(self, piece: bytes) -> list[Event]:
        """Events completed by this piece, in order."""
        if self.overflow or not piece:
            return []
        data = self._pending + piece if self._pending else piece
        scan = len(self._pending)  # no line end before this position
        position = 0
        if self._skip_lf:
            self._skip_lf = False
            if data[:1] == b"\n":
                position = scan = 1
        if self._start:
            if data[position:] in (_BOM[:1], _BOM[:2]):
                self._pending = data[position:]
                return []
            self._start = False
            if data.startswith(_BOM, position):
                position = scan = position + 3
            else:
                scan = position
        events: list[Event] = []
        carriage = b"\r" in data
        while True:
            end, after = _line_end(data, scan, carriage)
            if end < 0:
                break
            if end == position:
                self._dispatch(events)
            else:
                self._line(data[position:end])
            if after == len(data) == end + 1 and data[end] == 13:
                self._skip_lf = True
            position = scan = after
        self._pending = data[position:]
        if self._block + len(self._pending) > MAX_EVENT:
            self.overflow = True
        return events

    def _line(self, line: bytes) -> None:
        self._block += len(line)
        if line[:1] == b":":
            self._comment.append(line[1:].removeprefix(b" "))
            return
        field, colon, value = line.partition(b":")
        if colon and value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"id" and b"\0" not in value:
            self.last_id = value
        # `retry` and unknown fields are ignored, as the standard says

    def _dispatch(self, events: list[Event]) -> None:
        if self._data or self._name:
            events.append(Event(b"\n".join(self._data), self._name or b"message", b"\n".join(self._comment)))
        self._data, self._name, self._comment, self._block = [], b"", [], 0


def _line_end(data: bytes, start: int, carriage: bool) -> tuple[int, int]:
    """Where the line that contains `start` ends, and where the next begins; (-1, -1) when it doesn't."""
    end = data.find(b"\n", start)
    if carriage:
        cr = data.find(b"\r", start, end if end >= 0 else len(data))
        if cr >= 0:
            return cr, cr + (2 if data[cr + 1 : cr + 2] == b"\n" else 1)
    return (end, end + 1) if end >= 0 else (-1, -1)
