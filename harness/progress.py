"""What a person sees while squall works: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from harness.core import clock

PLAIN_EVERY_S = 5.0  # between status lines where no terminal is


class Progress:
    """Writes to one stream; `status` replaces its own line on a terminal and is thinned out elsewhere."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.terminal = self.out.isatty()
        self.title = ""  # before each line, for a run that is one of many
        self._open = False
        self._start_ns = clock.now_ns()
        self._last_ns = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._end_line()
        title = f"{self.title}: " if self.title else ""
        self._write(f"[{(clock.now_ns() - self._start_ns) / clock.NS:6.1f} s] {title}{text}\n")

    def status(self, s: dict[str, Any]) -> None:
        """The state of the load, see harness.session.Session.status for its keys."""
        line = status_line(s)
        if self.terminal:
            self._write(f"\r\x1b[2K{f'{self.title} | ' if self.title else ''}{line}")
            self._open = True
        elif clock.now_ns() - self._last_ns >= PLAIN_EVERY_S * clock.NS:
            self._last_ns = clock.now_ns()
            self.say(line)

    def _end_line(self) -> None:
        if self._open:
            self._write("\n")
            self._open = False

    def _write(self, text: str) -> None:
        try:
            self.out.write(text)
            self.out.flush()
        except (OSError, ValueError):
            self.out = sys.__stderr__ or self.out  # a closed pager must not stop the clean-up


def status_line(s: dict[str, Any]) -> str:
    """One line: phase, time, users, requests, tokens/s, shed, failed, open faults."""
    faults = ", ".join(s["open_faults"]) or "none"
    spread = f" in {s['processes']} processes" if s["processes"] > 1 else ""
    return (
        f"{s['phase']:<8} {s['t_s']:5.0f}/{s['total_s']:.0f} s | users {s['users']}{spread} | requests {s['sent']} "
        f"({s['in_flight']} open) | {s['tokens_per_s']:.0f} tokens/s | shed {s['shed']} | "
        f"failed {s['failed']} | cancelled {s['cancelled']} | faults: {faults}"
    )
