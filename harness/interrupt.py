"""SIGINT, SIGTERM and SIGHUP of `squall run`: once as an exception, then only noted, so that cleaning up ends."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """One of the three signals, raised where the main thread stands."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP: raised as Interrupted where that is allowed, only noted elsewhere."""

    def __init__(self) -> None:
        self._raise = False
        self._pending = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._raise:
            self._raise = False  # once: cleaning up must end
            raise Interrupted
        self._pending = True
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            sys.stderr.write("\nsquall: cleaning up; a second interrupt changes nothing\n")

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Interrupted may come anywhere inside, once; one that came before comes at once."""
        if self._pending:
            raise Interrupted
        self._raise = True
        try:
            yield
        finally:
            self._raise = False
