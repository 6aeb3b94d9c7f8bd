"""What a process of Dynamo shows while it drains: pages, counters, the frontends' lists.

Owns which page or counter says what for a frontend, a worker, and a witness worker. Looks only; knows no
fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from faults.ports import Progress, Target
from harness.core import sutfile
from harness.core.errors import SquallError
from harness.core.rundir import RunDir
from harness.sut import control, ready

GRACE = {  # variable, and its documented default in seconds
    "frontend": ("DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", 5.0),
    "worker": ("DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS", 5.0),
}
_SAMPLE = r"^{name}(?:\{{[^}}]*\}})? (\S+)$"


class DrainView:
    """faults.ports.DrainView for processes that sut.json names."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def grace_s(self, target: Target) -> float | None:
        """How long it gives its streams, by its environment; None for a process that squall didn't start."""
        process = sutfile.load(self.run).process(target.name)
        if not process.argv or process.role not in GRACE:
            return None
        name, default = GRACE[process.role]
        try:
            return float(process.env.get(name, default))
        except ValueError:
            return default  # what it does itself with a value that is no number

    def pages(self, target: Target) -> tuple[int | None, int | None]:
        """HTTP status of /health and of /live, None where there is no answer."""
        state = sutfile.load(self.run)
        process = state.process(target.name)
        if not process.health:
            return None, None
        base = f"http://{urlsplit(process.health[0]).netloc}"
        health, live = (ready.ask(url, state.vantage) for url in (process.health[0], f"{base}/live"))
        return health.status if health else None, live.status if live else None

    def progress(self, target: Target) -> Progress:
        """By the witness's control socket, else by the process's own /metrics."""
        state = sutfile.load(self.run)
        process = state.process(target.name)
        if process.control_port is not None and state.control_token is not None:
            try:
                said = control.call(process, state.control_token, {"command": "status"})
            except SquallError:
                return Progress()
            return Progress(said["requests"], said["tokens"], said["running"] + said["waiting"])
        answer = ready.ask(process.metrics, state.vantage) if process.metrics else None
        if answer is None or answer.status != 200:
            return Progress()
        text = answer.body.decode(errors="replace")
        if process.role == "frontend":
            names = ["requests_started_total", "output_tokens_total", "inflight_requests"]
            return Progress(*(_sum(text, f"dynamo_frontend_{name}") for name in names))
        requests, in_flight = (
            _sum(text, f"dynamo_component_{name}") for name in ("requests_total", "inflight_requests")
        )
        return Progress(requests, None, in_flight)

    def listed_by(self, target: Target) -> Mapping[str, bool]:
        """For each frontend that answers: does it list the target."""
        state = sutfile.load(self.run)
        if target.role != "worker":
            return {}
        views = {one.name: ready.listed_by(one, state) for one in state.role("frontend")}
        return {name: target.name in view for name, view in views.items() if view is not None}


def _sum(text: str, name: str) -> float | None:
    """A metric over all its labels; None while it isn't there."""
    found = re.findall(_SAMPLE.format(name=re.escape(name)), text, re.MULTILINE)
    return sum(float(value) for value in found) if found else None
