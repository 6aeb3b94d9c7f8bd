"""squall's listeners on Locust's events; what they do is in session.py and, in workers, worker.py.

Locust swallows exceptions of listeners, so each of ours is wrapped once here: logged, the run marked
broken, exit code 4, stop.
"""

from __future__ import annotations

from locust import events
from locust.env import Environment

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core import rundir
from harness.core.errors import Exit, SquallError, UsageError
from harness.session import Session
from harness.worker import Worker

log = logging.getLogger(__name__)


def register() -> None:
    """Attach squall to Locust; called by the locustfile."""
    events.init_command_line_parser.add_listener(add_arguments)
    events.init.add_listener(on_init)


def add_arguments(parser: Any, **_: Any) -> None:
    """--run-dir, and a web UI that listens on loopback unless asked otherwise."""
    parser.add_argument(
        "--run-dir", metavar="DIR", default=None, env_var="SQUALL_RUN_DIR", include_in_web_ui=False,
        help="run directory that `squall up` or `squall run` made (sut.json says where the system is)",
    )  # fmt: skip
    parser.set_defaults(web_host="127.0.0.1")


def on_init(environment: Environment, **_: Any) -> None:
    """Make what squall is in this process and hang it on the environment."""
    options = environment.parsed_options
    assert options is not None
    try:
        session = _worker(environment) if options.worker else _session(environment)
    except SquallError as error:
        log.error("%s", error)
        raise SystemExit(int(Exit.USAGE)) from None
    environment.squall = session
    for event, listener in (
        (environment.events.test_start, session.start),
        (environment.events.test_stopping, session.heal),
        (environment.events.test_stop, session.close),
        (environment.events.quitting, session.quit),
        (environment.events.quit, session.judge),
    ):
        event.add_listener(guarded(listener, session))

    def on_user_error(exception: Exception, **_: Any) -> None:
        session.broken(f"a user: {exception}")

    environment.events.user_error.add_listener(on_user_error)


def _session(environment: Environment) -> Session:
    """Of a run with one process, or of the master of several. Raises UsageError."""
    options = environment.parsed_options
    if not options.run_dir:
        raise UsageError(
            "--run-dir is missing: start a system with `squall up SCENARIO`, it prints the command"
        )
    session = Session(environment, rundir.open_run(Path(options.run_dir)))
    wanted = sum(user_class.fixed_count for user_class in environment.user_classes)
    options.num_users = options.num_users or wanted  # also what the web UI's form shows
    options.spawn_rate = options.spawn_rate or wanted
    return session


def _worker(environment: Environment) -> Worker:
    """A worker's run directory, if any, only says that it may write into its master's."""
    return Worker(environment, may_write=bool(environment.parsed_options.run_dir))


def guarded(listener: Callable[[], None], session: Session | Worker) -> Callable[..., None]:
    """`listener` for Locust: takes its keyword arguments, never lets an exception vanish."""

    @functools.wraps(listener)
    def call(**_: Any) -> None:
        try:
            listener()
        except Exception as error:
            log.exception("squall: %s failed", listener.__name__)
            session.broken(f"{listener.__name__}: {error}")

    return call
