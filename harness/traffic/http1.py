"""HTTP/1.1 responses, parsed from the pieces that a socket gave, wherever they were cut.

Owns framing only: status line, header fields, where the body ends (RFC 9112 section 6). Knows nothing
of sockets, of times or of what a body means. No input makes it raise: what can't be read ends in
`error`, and everything read before it stays readable.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Literal

MAX_HEAD = 65_536  # bytes of one head, 1xx heads counted alone
MAX_FIELDS = 256
MAX_CHUNK_LINE = 4_096
MAX_INTERIM = 16  # 1xx responses before the real one

Framing = Literal["head", "chunked", "length", "close", "none"]

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_USUAL_SIZES = {text: size for size in range(1, 2048) for text in (b"%x" % size, b"%X" % size)}


class Response:
    """One response being read. `feed` every piece in order, then `eof` when the peer has closed.

    `complete`: the whole message is here. `error`: it never will be (malformed, or cut by `eof`).
    `surplus`: bytes that came after the message; a connection that has any must not be used again.
    """

    __slots__ = (
        "_buffer", "_crlf", "_interim", "_left", "_skip", "_state", "_trailers", "complete", "error", "framing",
        "headers", "reason", "status", "surplus", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.version = 1  # minor
        self.headers: dict[str, list[str]] = {}
        self.framing: Framing = "head"
        self.complete = False
        self.error: str | None = None
        self.surplus = 0
        self._buffer = b""  # what doesn't make a whole line yet
        self._left = 0  # bytes of the current chunk or of the body that are still to come
        self._crlf = False  # the CRLF after a chunk's data is still to come
        self._trailers = False  # the last chunk was read, trailer fields follow
        self._skip = 0  # bytes of trailers so far
        self._interim = 0

    @property
    def head_complete(self) -> bool:
        return self.framing != "head"

    @property
    def keep_alive(self) -> bool:
        """May the connection carry another request?"""
        if not self.complete or self.error or self.surplus or self.framing == "close":
            return False
        if "transfer-encoding" in self.headers and "content-length" in self.headers:
            return False
        options = {part.strip().lower() for part in ",".join(self.headers.get("connection", [])).split(",")}
        return "close" not in options and (self.version == 1 or "keep-alive" in options)

    @property
    def between_chunks(self) -> bool:
        """Does the next piece begin a chunk of the body?"""
        return self.framing == "chunked" and not (
            self._left
            or self._crlf
            or self._buffer
            or self._trailers
            or self.complete
            or self.error is not None
        )

    def header(self, name: str) -> str | None:
        """A field's value, its lines joined as RFC 9110 section 5.3 says; None when absent."""
        values = self.headers.get(name.lower())
        return None if values is None else ", ".join(values)

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; the bytes of the body that it brought."""
        if self.complete or self.error is not None:
            self.surplus += len(piece)
            return b""
        if self.framing == "chunked":
            return self._chunked(piece)
        if self.framing == "head":
            rest = self._head(self._buffer + piece)
            if rest is None:
                return b""
            self._buffer = b""
            return self.feed(rest) if rest else b""
        if self.framing == "close":
            return piece
        body, extra = piece[: self._left], piece[self._left :]
        self._left -= len(body)
        self.complete = self._left == 0
        self.surplus += len(extra)
        return body

    def eof(self) -> None:
        """The peer sends no more."""
        if self.complete or self.error is not None:
            return
        if self.framing == "close":
            self.complete = True
        elif self.framing == "head":
            self.error = "the connection ended before the response head was complete"
        else:
            self.error = "the connection ended before the body was complete"

    def _head(self, data: bytes) -> bytes | None:
        """Read heads until a final one; what follows it, or None when there is none yet."""
        while True:
            end = _head_end(data)
            if end is None or end > MAX_HEAD:
                if end is not None or len(data) > MAX_HEAD:
                    self.error = f"response head of more than {MAX_HEAD} bytes"
                self._buffer = data
                return None
            self._parse_head(data[:end])
            if self.error is not None:
                return None
            data = data[end:]
            if not 100 <= self.status < 200:
                self._choose_framing()
                return None if self.error is not None else data
            if self.status == 101:
                self.error = "101 Switching Protocols, which nobody asked for"
                return None
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self.error = f"more than {MAX_INTERIM} interim responses"
                return None
            self.status, self.reason, self.headers = 0, "", {}

    def _parse_head(self, head: bytes) -> None:
        lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
        while len(lines) > 1 and not lines[-1]:
            lines.pop()
        match = _STATUS.fullmatch(lines[0])
        if match is None:
            self.error = f"malformed status line {_show(lines[0])}"
            return
        if len(lines) - 1 > MAX_FIELDS:
            self.error = f"more than {MAX_FIELDS} header fields"
            return
        self.version, self.status = int(match[1]), int(match[2])
        self.reason = (match[3] or b"").decode("latin-1")
        fields = _known_fields(tuple(lines[1:]))
        if isinstance(fields, str):
            self.error, self.status = fields, 0
        else:
            self.headers = fields

    def _choose_framing(self) -> None:
        """RFC 9112 section 6.3 for the answer to a POST."""
        codings = [c.strip().lower() for v in self.headers.get("transfer-encoding", []) for c in v.split(",")]
        if self.status in (204, 304):
            self.framing, self.complete = "none", True
        elif codings:
            if codings != ["chunked"]:
                self.error = f"transfer coding {', '.join(codings)!r}, only chunked was asked for"
            self.framing = "chunked"
        elif "content-length" in self.headers:
            lengths = {part.strip() for value in self.headers["content-length"] for part in value.split(",")}
            if len(lengths) != 1 or not _LENGTH.fullmatch(next(iter(lengths)).encode("latin-1")):
                self.error = f"malformed Content-Length {sorted(lengths)}"
                self.framing = "close"
                return
            self._left = int(next(iter(lengths)))
            self.framing, self.complete = "length", self._left == 0
        else:
            self.framing = "close"

    def _chunked(self, piece: bytes) -> bytes:
        if self.between_chunks:
            body = whole_chunk(piece)  # the usual case
            if body:
                return body
        return self._chunks(piece)

    def _chunks(self, piece: bytes) -> bytes:
        data = self._buffer + piece if self._buffer else piece
        self._buffer = b""
        position, found, size = 0, [], len(data)
        while position < size:
            if self._left:
                part = data[position : position + self._left]
                found.append(part)
                position += len(part)
                self._left -= len(part)
                self._crlf = not self._left
                continue
            if self._trailers:
                return self._end_trailers(data[position:], found)
            if self._crlf:
                if size - position < 2 and data[position] == 13:
                    break
                if data[position : position + 2] != b"\r\n":
                    self.error = f"chunk data followed by {_show(data[position : position + 2])}, not by CRLF"
                    return b"".join(found)
                self._crlf = False
                position += 2
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                if size - position > MAX_CHUNK_LINE:
                    self.error = f"chunk size line of more than {MAX_CHUNK_LINE} bytes"
                    return b"".join(found)
                break
            match = _SIZE.fullmatch(data, position, end)
            if match is None:
                self.error = f"malformed chunk size {_show(data[position:end])}"
                return b"".join(found)
            self._left = int(match[1], 16)
            self._trailers = self._left == 0
            position = end + 2
        self._buffer = data[position:]
        return found[0] if len(found) == 1 else b"".join(found)

    def _end_trailers(self, data: bytes, found: list[bytes]) -> bytes:
        """Skip trailer fields up to the empty line that ends the message."""
        body = b"".join(found)
        while True:
            end = data.find(b"\r\n")
            if end < 0:
                if self._skip + len(data) > MAX_HEAD:
                    self.error = f"trailers of more than {MAX_HEAD} bytes"
                self._buffer = data
                return body
            line, data = data[:end], data[end + 2 :]
            if not line:
                self.complete = True
                self.surplus += len(data)
                return body
            self._skip += end
            if isinstance(reason := _parse_fields([line]), str) or self._skip > MAX_HEAD:
                self.error = reason if isinstance(reason, str) else f"trailers of more than {MAX_HEAD} bytes"
                return body


def whole_chunk(data: bytes) -> bytes:
    """What a piece holds that is exactly one chunk of usual size, which isn't the last one; else nothing."""
    line = data[: data.find(b"\r\n", 0, 5)]
    size = _USUAL_SIZES.get(line)
    if size is None or len(data) != len(line) + size + 4 or data[-2:] != b"\r\n":
        return b""
    return data[len(line) + 2 : -2]


def first_chunk(data: bytes, at: int = 0) -> int:
    """The size of the whole chunk that begins at `at`, if it is as above, with all around it; else 0."""
    line = data[at : data.find(b"\r\n", at, at + 5)]
    size = _USUAL_SIZES.get(line, 0) and len(line) + _USUAL_SIZES[line] + 4
    return size if data[at + size - 2 : at + size] == b"\r\n" else 0


def _head_end(data: bytes) -> int | None:
    """Position after the empty line that ends a head; a lone LF counts as a line end (section 2.2)."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    return min(ends) if ends else None


@functools.lru_cache(maxsize=32)
def _known_fields(lines: tuple[bytes, ...]) -> dict[str, list[str]] | str:
    """The same fields come with every answer of a second; nobody changes the result."""
    return _parse_fields(lines)


def _parse_fields(lines: Sequence[bytes]) -> dict[str, list[str]] | str:
    """Field lines as lower-case name to values, or why they can't be read."""
    fields: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in lines:
        if line[:1] in (b" ", b"\t") and last is not None:  # obsolete folding, section 5.2
            last[-1] = f"{last[-1]} {line.strip().decode('latin-1')}".strip()
            continue
        match = _FIELD.fullmatch(line)
        if match is None or b"\0" in line or b"\r" in line:
            return f"malformed header field {_show(line)}"
        last = fields.setdefault(match[1].decode("latin-1").lower(), [])
        last.append(match[2].decode("latin-1"))
    return fields


def _show(data: bytes) -> str:
    return repr(data[:60])[1:]
