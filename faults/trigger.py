"""When an announced fault may strike: at its time, or once its condition holds after that.

One trigger for all targets of an injection, so that they are hit together. What a condition counts
comes in as a function: nothing here knows traffic. Waiting is on events only (see scheduler).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from harness.core import clock
from harness.core.clock import Anchor
from harness.core.config import When
from harness.core.errors import FaultError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.025  # at what the client sees
ASK_EVERY_S = 0.1  # the system: each look is a request to it


class Trigger:
    """`watch` in one thread, `wait` in one for each target. due_ns: CLOCK_MONOTONIC, not before."""

    def __init__(
        self, when: When | None, due_ns: int, stopping: threading.Event,
        value: Callable[[], float | None], anchor: Anchor,
    ) -> None:  # fmt: skip
        self._when, self._due_ns, self._stopping = when, due_ns, stopping
        self._value, self._anchor = value, anchor
        self._done = threading.Event()
        self._stopped = False
        self._never: str | None = None
        self._held: tuple[int, float] | None = None  # when (run axis, ns) and at what value

    def watch(self) -> None:
        """Return when it holds, never will, or the run is being stopped; then `wait` returns too."""
        try:
            self._stopped = self._stopping.wait(max(0.0, (self._due_ns - clock.now_ns()) / clock.NS))
            if self._when is not None and not self._stopped:
                self._look(self._when)
        except Exception as error:  # edge: unknown is never a reason to strike
            log.exception("trigger")
            self._never = f"not injected: its condition is unknown: {type(error).__name__}: {error}"
        finally:
            self._done.set()

    def wait(self) -> bool:
        """True when the run is being stopped. Raises FaultError when the condition never held."""
        self._done.wait()
        if self._never is not None:
            raise FaultError(self._never)
        return self._stopped

    def why(self) -> dict[str, Any]:
        """For the journal, asked right after the injection: what held, when, and the delay since."""
        if self._when is None or self._held is None:
            return {}
        held_ns, value = self._held
        delay_ms = round((self._anchor.t_ns() - held_ns) / clock.MS, 3)
        return {"when": self._when.text, "held_ns": held_ns, "value": value, "delay_ms": delay_ms}

    def _look(self, when: When) -> None:
        end_ns = self._due_ns + int(when.within_s * clock.NS)
        every_s = ASK_EVERY_S if when.of_system else LOOK_EVERY_S
        highest: float | None = None
        while True:
            value = self._value()
            if value is not None:
                if value >= when.least:
                    self._held = (self._anchor.t_ns(), value)
                    return
                highest = value if highest is None else max(highest, value)
            if clock.now_ns() >= end_ns:
                seen = "it was never known" if highest is None else f"the highest value was {highest:g}"
                self._never = f"not injected: {when.text} never held within {when.within_s:g} s; {seen}"
                return
            if self._stopping.wait(every_s):
                self._stopped = True
                return
