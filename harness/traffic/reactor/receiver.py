"""How bytes are received, the reactor's way: a thread of its own reads, frames the usual answer, and wakes
the hub once a stream by an eventfd. It never takes the interpreter's lock.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import gevent

from harness.core import words
from harness.traffic.exchange import Exchange
from harness.traffic.reactor import native
from harness.traffic.receive import Connection
from harness.traffic.sockets import READ

_WORDS = "".join(words.WORDS).encode()


class Reactor:
    """The thread of one process, and the watcher by which the hub hears from it. Raises ImportError, OSError."""

    def __init__(self) -> None:
        self._native = native.load()
        self._thread = self._native.Reactor()
        self._loop: Any = gevent.get_hub().loop
        self._watcher = self._loop.io(self._thread.fileno(), READ)
        self._watcher.start(self._take)

    def receiver(self, connection: Connection, sock: Any) -> ReactorReceiver:
        """Read `sock` from now on. Raises OSError."""
        return ReactorReceiver(self._native, self._thread, connection, sock)

    def close(self) -> None:
        """End the thread."""
        self._watcher.stop()
        self._watcher.close()
        self._thread.close()

    def _take(self) -> None:
        for receiver, events, code in self._thread.take():
            # Not from here: an error in one would stop the watcher, and with it every other.
            self._loop.run_callback(partial(receiver.on, events, code))


class ReactorReceiver:
    """One socket that the thread reads."""

    def __init__(self, module: Any, thread: Any, connection: Connection, sock: Any) -> None:
        self._native, self._connection = module, connection
        self._line = thread.open(sock.fileno(), self)
        self._open = True
        self._one: Exchange | None = None
        self.eager = True  # the thread knows by itself when to look

    def begin(self, one: Exchange) -> bool:
        self._one, capture = one, self._native.Capture(_WORDS, words.P)
        one.pieces = capture
        return bool(self._line.attach(capture, one.watch is not None))

    def end(self) -> None:
        self._one = None
        self._line.detach()

    def stop(self) -> None:
        self._line.pause()

    def close(self) -> None:
        self._open = False
        self._line.close()

    def on(self, events: int, code: int) -> None:
        """What the thread has to say; called in the hub."""
        connection = self._connection
        if self._open and events & self._native.LOOK:
            connection.look()
            while self._open and not self._quiet():
                connection.look()
        if self._open and events & self._native.LOST:
            connection.lost("reset" if code else "closed", os.strerror(code) if code else "")
        if self._open and events & self._native.LOOSE:
            connection.look()

    def _quiet(self) -> bool:
        """Where each piece must be looked at: leave out those that can be foreseen. False: look again now."""
        one = self._one
        if one is None or one.ahead is None or one.cancel_ns is not None or not one.response.between_chunks:
            return True
        like = one.ahead()
        return like is None or bool(self._line.expect(one.fed, like))
