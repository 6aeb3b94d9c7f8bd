"""A live line on a terminal, thinned-out plain lines elsewhere."""

from __future__ import annotations

import io

from harness.progress import Progress, status_line

STATUS = {
    "phase": "load", "t_s": 12.3, "total_s": 65.0, "users": 24, "processes": 1, "sent": 100, "in_flight": 20, "shed": 1, "failed": 2,
    "cancelled": 3, "tokens_per_s": 1234.5, "open_faults": ["kill"],
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_has_what_a_person_watches() -> None:
    line = status_line(STATUS)
    for piece in (
        "load",
        "12/65 s",
        "users 24",
        "requests 100",
        "1234 tokens/s",
        "shed 1",
        "failed 2",
        "kill",
    ):
        assert piece in line, (piece, line)


def test_a_terminal_gets_one_line_that_is_replaced() -> None:
    out = Terminal()
    progress = Progress(out)
    progress.status(STATUS)
    progress.status(STATUS)
    assert out.getvalue().count("\n") == 0
    assert out.getvalue().count("\r") == 2
    progress.say("judging")
    assert out.getvalue().count("\n") == 2  # the live line is ended first


def test_elsewhere_lines_are_whole_and_few() -> None:
    out = io.StringIO()
    progress = Progress(out)
    for _ in range(5):
        progress.status(STATUS)
    assert out.getvalue().count("\n") == 1
    assert "\r" not in out.getvalue()


def test_a_closed_stream_does_not_stop_the_run() -> None:
    out = io.StringIO()
    progress = Progress(out)
    out.close()
    progress.say("cleaning up")
    assert progress.out is not out
