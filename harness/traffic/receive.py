"""How bytes are received, the hub's way: recvmsg in a callback of sockets.py, for a connection's life.

A receiver reads one connected socket. `begin` before a request is sent, `end` when its answer is over;
in between every read is kept with the kernel's stamp, and the connection is told to `look` when the answer
may be over, or that it has `lost` the peer. The reactor's way is in reactor/receiver.py.
"""

from __future__ import annotations

import ssl
from typing import Any, Literal, Protocol

from harness.core.clock import now_ns
from harness.traffic import stamps, tls
from harness.traffic.exchange import Exchange
from harness.traffic.pieces import Pieces
from harness.traffic.sockets import EVENT_END, Sockets

READ_BYTES = 16_384
_MARK = len(EVENT_END)


class Connection(Protocol):
    """Whom a receiver tells."""

    def look(self) -> None: ...

    def lost(self, end: Literal["closed", "reset"], reason: str) -> None: ...

    def send(self, data: bytes) -> None: ...


class Receiver(Protocol):
    """One socket's reader."""

    eager: bool  # look after each piece

    def begin(self, one: Exchange) -> bool:
        """Keep what comes in `one.pieces`. False: nothing will come, the peer is gone."""
        ...

    def end(self) -> None:
        """What comes from now on belongs to no answer."""
        ...

    def stop(self) -> None:
        """Read no more."""
        ...

    def close(self) -> None:
        """Release the socket, which may be closed then."""
        ...


class HubReceiver:
    """Reads in the hub's callback."""

    def __init__(self, sockets: Sockets, connection: Connection, sock: Any, session: tls.Tls | None) -> None:
        self._sockets, self._fd = sockets, sock.fileno()
        self._connection = connection
        self._recvmsg = sock.recvmsg
        self._session = session
        self._pieces: Pieces | None = None
        self._more = False  # a read was full: there may have been more already
        self._keep: Any = _discard
        self.eager = True
        sockets.watch(self._fd, self._on_readable if session is None else self._on_cipher)

    def begin(self, one: Exchange) -> bool:
        pieces = one.pieces = self._pieces = Pieces()
        self._keep, self.eager = pieces.append, True
        return True

    def end(self) -> None:
        self._pieces, self._keep, self.eager = None, _discard, True

    def stop(self) -> None:
        if self._fd >= 0:
            self._sockets.forget(self._fd)
            self._fd = -1  # somebody else's soon

    def close(self) -> None:
        self.stop()

    def _on_readable(self) -> bool:
        data: bytes
        try:
            data, ancillary, _, _ = self._recvmsg(READ_BYTES, 32)
        except BlockingIOError:
            return False
        except OSError as error:
            self._connection.lost("reset", error.strerror or str(error))
            return False
        if not data:
            self._connection.lost("closed", "")
            return False
        if data.find(EVENT_END, 0, -1) >= 0 or len(data) == READ_BYTES:
            return self._several(data, ancillary)
        self._keep((ancillary, data, now_ns()))
        # A piece that ends with an event isn't the end of the body, which is an empty chunk.
        if data[-_MARK:] != EVENT_END or self.eager:
            self._connection.look()
        return False

    def _several(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """The same for a read of more than one event, or one that may have left some."""
        read_ns, over = now_ns(), data[-_MARK:] != EVENT_END
        if self._pieces is not None and not self._more:
            self._pieces.came(read_ns, self._sockets.since_ns)
        self._more = len(data) == READ_BYTES
        self._keep((ancillary, data, read_ns))
        if over or self.eager:
            self._connection.look()
        return not over  # the last events do come together

    def _on_cipher(self) -> bool:
        """The same for TLS."""
        session, connection = self._session, self._connection
        assert session is not None
        try:
            data, ancillary, _, _ = self._recvmsg(READ_BYTES, 32)
            plain = session.receive(data) if data else b""
        except BlockingIOError:
            return False
        except ssl.SSLError as error:
            connection.lost("reset", f"TLS: {error.reason or error}")
            return False
        except OSError as error:
            connection.lost("reset", error.strerror or str(error))
            return False
        read_ns = now_ns()
        connection.send(session.outgoing())
        if plain:
            self._keep((ancillary, plain, read_ns))
            connection.look()
        if session.closed or not data:
            connection.lost("closed", "")
        return plain[-_MARK:] == EVENT_END and plain.find(EVENT_END, 0, -1) >= 0


def _discard(_: stamps.Piece) -> None:
    """Bytes outside any exchange."""
