"""Is the system ready, who is listed, who took requests: read from the SUT's own HTTP pages.

Ready means usable by a client: every frontend is healthy, lists an instance of every worker and
offers the model, and every worker says so itself. Starts and stops nothing.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from harness.core import clock, fetch, health, proc
from harness.core.errors import ProvisionError
from harness.core.owners import Owners
from harness.core.sutfile import Process, SutState

POLL_S = 0.05
REQUEST_TIMEOUT_S = 1.0

_REQUESTS = re.compile(r"^dynamo_component_requests_total\{([^}]*)\} (\S+)$", re.MULTILINE)


def ask(url: str, vantage: str | None = None) -> fetch.Answer | None:
    """GET a URL from the namespace `vantage` (None: ours), None when there is no answer within a second."""
    try:
        return fetch.get(url, {}, REQUEST_TIMEOUT_S, vantage)
    except (OSError, HTTPException):
        return None


def wait(state: SutState, timeout_s: float) -> None:
    """Return when all of `state` is ready.

    Raises ProvisionError at once when a process ends (name, exit code, last log lines), or after
    `timeout_s` with who isn't ready, what it said last and its log.
    """
    end = clock.now_ns() + int(timeout_s * clock.NS)
    todo: dict[str, str] = {process.name: "not asked yet" for process in state.processes}
    while True:
        for process in state.processes:
            _check_alive(process)
            if process.name in todo:
                why = problem(process, state)
                if why is None:
                    del todo[process.name]
                else:
                    todo[process.name] = why
        if not todo:
            return
        if clock.now_ns() >= end:
            raise _late(state, todo, timeout_s)
        clock.sleep_s(POLL_S)


def problem(process: Process, state: SutState) -> str | None:
    """Why a process isn't ready, None when it is."""
    for url in process.health:
        answer = ask(url, state.vantage)
        if answer is None:
            return f"{url}: no answer"
        port = urlsplit(url).port
        if port not in proc.listening_ports(process.pid):
            return f"{url}: answered by another process than {process.pid}, which doesn't listen there"
        if answer.status != 200 or not health.ready(answer.json()):
            return f"{url}: {answer.status} {_short(answer.body)}"
    return _frontend_problem(process, state) if process.role == "frontend" else None


def _frontend_problem(process: Process, state: SutState) -> str | None:
    listed = listed_by(process, state) or {}
    absent = [worker.name for worker in state.engines() if worker.name not in listed]
    if absent:
        return f"{process.health[0]}: does not list {', '.join(absent)}"
    url = f"http://{urlsplit(process.health[0]).netloc}/v1/models"
    answer = ask(url, state.vantage)
    models = answer.json() if answer else None
    data = models.get("data") if isinstance(models, dict) else None
    names = [one.get("id") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    return None if state.model in names else f"{url}: offers {names or 'no model'}, not {state.model}"


def listed_by(frontend: Process, state: SutState, owners: Owners | None = None) -> dict[str, str] | None:
    """Worker name to instance id, as this frontend lists them now; None when it doesn't answer.

    `owners` remembers what a worker that is stopped meanwhile doesn't say any more.
    """
    answer = ask(frontend.health[0], state.vantage)
    body = answer.json() if answer else None
    if not isinstance(body, dict):
        return None
    owners, engines = owners or Owners(), state.engines()
    found = {}
    for one in body.get("instances") or []:
        if one.get("endpoint") == "generate":
            name = owners.name(engines, str(one["instance_id"]), one.get("transport"), state.vantage)
            if name is not None:
                found[name] = str(one["instance_id"])
    return found


def instances(state: SutState) -> dict[str, str]:
    """Worker name to instance id, for the workers that every answering frontend lists."""
    views = [listed_by(frontend, state) for frontend in state.role("frontend")]
    known = [view for view in views if view is not None]
    if not known:
        return {}
    return {name: ident for name, ident in known[0].items() if all(name in view for view in known)}


def request_count(process: Process, vantage: str | None = None) -> int | None:
    """Requests that a worker has handled, by its own /metrics; None when it doesn't answer.

    0 while the series isn't there: Dynamo makes it with the first request.
    """
    answer = ask(process.metrics, vantage) if process.metrics else None
    if answer is None or answer.status != 200:
        return None
    rows = _REQUESTS.findall(answer.body.decode(errors="replace"))
    return int(sum(float(value) for labels, value in rows if 'dynamo_endpoint="generate"' in labels))


def _check_alive(process: Process) -> None:
    if proc.alive(process.identity):
        return
    code = proc.exit_code(process.identity)
    ended = "ended" if code is None else f"ended with exit code {code}"
    raise ProvisionError(
        f"{process.name} {ended} while starting; its last lines ({process.log}):\n{_tail(process)}"
    )


def _late(state: SutState, todo: dict[str, str], timeout_s: float) -> ProvisionError:
    lines = [f"not ready after {timeout_s:g} s (sut.ready_timeout_s): {', '.join(todo)}"]
    for name, why in todo.items():
        lines += [f"{name}: {why}", _tail(state.process(name))]
    return ProvisionError("\n".join(lines))


def _tail(process: Process) -> str:
    """Last log lines, without those that only say that we asked for its health."""
    if not process.log:
        return "(no log)"
    lines = proc.tail(Path(process.log), lines=200).splitlines()
    return "\n".join([line for line in lines if "tower_http::trace::on_failure" not in line][-15:])


def _short(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    return text if len(text) <= 300 else f"{text[:300]}..."
