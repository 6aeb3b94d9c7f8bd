"""TLS over memory: the hub reads ciphertext itself, so kernel receive stamps hold for https as well."""

from __future__ import annotations

import ssl


class Tls:
    """A client's TLS session. Ciphertext in, plaintext out, and the reverse; never a socket."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._ready = False
        self._waiting = b""  # plaintext to send once the handshake is over
        self.closed = False  # the peer has said that it sends no more
        self._handshake()

    def send(self, data: bytes) -> bytes:
        """Encrypt; the ciphertext to send (during the handshake, the handshake's)."""
        self._waiting += data
        self._push()
        return self.outgoing()

    def receive(self, data: bytes) -> bytes:
        """Decrypt what arrived. Raises ssl.SSLError. Send `outgoing()` afterwards."""
        self._in.write(data)
        if not self._ready and not self._handshake():
            return b""
        self._push()
        parts: list[bytes] = []
        while True:
            try:
                part = self._session.read(65_536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.closed = True
                break
            if not part:
                self.closed = True
                break
            parts.append(part)
        return b"".join(parts)

    def outgoing(self) -> bytes:
        """Ciphertext that is to be sent now."""
        return self._out.read()

    def _handshake(self) -> bool:
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._ready = True
        return True

    def _push(self) -> None:
        if self._ready and self._waiting:
            self._session.write(self._waiting)
            self._waiting = b""
