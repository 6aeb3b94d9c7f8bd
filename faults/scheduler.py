"""Runs a plan: each injection at its time, several at once where targets differ, all undone at stop.

Threads only through `threading`, waiting only on events, so that under gevent's monkey patch these
are greenlets. Knows no platform, no Locust; what a run does around a fault comes in as Hooks.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from faults.chain import Chain
from faults.journal import Journal
from faults.ports import GRACE_S, Ports, Target
from faults.timeline import Injection, Plan, compatible
from faults.trigger import Trigger
from harness.core import clock
from harness.core.clock import Anchor

log = logging.getLogger(__name__)

LEAD_S = 0.5  # prepare, intent and the scrape before come so much earlier than the fault itself


def _nothing(_: Injection) -> None:
    return None


def _unheard(_injection: Injection, _target: Target, _reason: str) -> None:
    return None


def _steady() -> str | None:
    return None


def _unseen(_: Injection) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What the run does around a fault. Exceptions in them are logged and told as failures."""

    before: Callable[[Injection], None] = _nothing  # after the intent, before the injection
    after: Callable[[Injection], None] = _nothing  # when verified (or failed) on all targets
    on_failed: Callable[[Injection, Target, str], None] = _unheard
    value: Callable[[Injection], float | None] = _unseen  # what its condition counts, now; None: unknown
    steady: Callable[[], str | None] = _steady  # asked once; a reason: nothing is injected in this run


class Scheduler:
    """Call `run` in a thread or greenlet and `stop` from another, at the latest when the load ends."""

    def __init__(
        self,
        plan: Plan,
        ports: Ports,
        journal: Journal,
        anchor: Anchor,
        warmup_s: float,
        hooks: Hooks | None = None,
    ) -> None:
        self.plan, self.journal, self.hooks = plan, journal, hooks or Hooks()
        self._zero_ns = anchor.mono_ns + int(warmup_s * clock.NS)
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._chains: list[Chain] = []  # by intent
        self._unsteady: str | None = None
        self._steady_lock = threading.Lock()
        self._asked = False
        self._started = False
        self._ports = dataclasses.replace(ports, rest=self._stopping.wait)

    def run(self) -> None:
        """Until every injection is undone: a fault without an end waits for `stop`."""
        with self._lock:
            self._started = True
        threads = []
        try:
            for injection in self.plan.injections:
                due_ns = self._zero_ns + int(injection.at_s * clock.NS)
                if self._wait_until(due_ns - int(LEAD_S * clock.NS)):
                    break
                thread = threading.Thread(target=self._inject, args=(injection, due_ns), daemon=True)
                thread.start()
                threads.append(thread)
            for thread in threads:
                thread.join()
        finally:
            self._finished.set()

    def stop(self, reason: str = "the run ended") -> list[str]:
        """No new faults; undo the open ones, newest first, each within a limit. What is left is returned.

        Safe from any thread and more than once; every call returns when all is done.
        """
        log.info("faults: stop: %s", reason)
        self._stopping.set()
        limit_s = 2 * self._ports.recover_timeout_s + 2 * GRACE_S
        with self._lock:
            chains = list(self._chains)
        for chain in reversed(chains):
            chain.release.set()
            if not chain.closed.wait(limit_s):
                chain.problem = f"still being undone after {limit_s:g} s"
        if self._started:
            self._finished.wait(limit_s)
        with self._lock:
            chains = list(self._chains)
        return [f"{c.injection.fault_id} on {c.target.name}: {c.problem}" for c in chains if c.problem]

    def open_ids(self) -> list[str]:
        """Faults announced and not undone, oldest first."""
        with self._lock:
            return list(dict.fromkeys(c.injection.fault_id for c in self._chains if c.is_open))

    def _wait_until(self, at_ns: int) -> bool:
        """True when the run is being stopped."""
        return self._stopping.wait(max(0.0, (at_ns - clock.now_ns()) / clock.NS))

    def _inject(self, injection: Injection, due_ns: int) -> None:
        """One injection on all of its targets."""
        chains = [
            Chain(injection, target, self._ports, self.journal, self.hooks.on_failed, self._others)
            for target in injection.targets
        ]
        end_ns = self._zero_ns + int(self.plan.duration_s * clock.NS)
        begun = [chain for chain in chains if self._begin(chain, due_ns, end_ns)]
        if begun:
            self._hook("before", self.hooks.before, begun[0])
            trigger = Trigger(
                injection.when,
                due_ns,
                self._stopping,
                lambda: self.hooks.value(injection),
                self.journal.anchor,
            )
            threads = [
                threading.Thread(target=chain.run, args=(trigger.wait, trigger.why), daemon=True)
                for chain in begun
            ]
            for thread in threads:
                thread.start()
            trigger.watch()
            for chain in begun:
                chain.settled.wait()
            self._hook("after", self.hooks.after, begun[0])
            for thread in threads:
                thread.join()

    def _begin(self, chain: Chain, due_ns: int, end_ns: int) -> bool:
        """Write the intent, unless the system isn't steady or the target is taken."""
        reason = self._ask_steady()
        with self._lock:
            if self._stopping.is_set():
                return False
            taken = next((other for other in self._chains if _collide(other, chain)), None)
            if reason is None and taken is not None:
                reason = f"{chain.target.name} is still under {taken.injection.fault_id}"
            if reason is None:
                self._chains.append(chain)
        if reason is not None:
            chain.refuse(reason)
            return False
        return chain.begin(due_ns, end_ns)

    def _others(self, chain: Chain) -> list[str]:
        """Faults on the chain's target that still hold it; of those undone, the oldest proves that it serves."""
        with self._lock:
            chains = list(self._chains)
        mine = chains.index(chain)
        return [
            other.injection.fault_id
            for n, other in enumerate(chains)
            if other.target == chain.target and n != mine and other.struck and not other.closed.is_set()
            and (n < mine or not other.lifted)
        ]  # fmt: skip

    def _ask_steady(self) -> str | None:
        """Before the first injection only: a run that isn't steady by then injects nothing at all."""
        with self._steady_lock:
            if not self._asked:
                self._asked = True
                try:
                    self._unsteady = self.hooks.steady()
                except Exception as error:  # edge: unknown is never steady
                    log.exception("steady")
                    self._unsteady = f"unknown: {type(error).__name__}: {error}"
        return f"nothing injected, no steady state: {self._unsteady}" if self._unsteady else None

    def _hook(self, name: str, hook: Callable[[Injection], None], chain: Chain) -> None:
        try:
            hook(chain.injection)
        except Exception as error:  # edge: a listener's bug must not keep us from undoing
            log.exception("hook %s", name)
            chain.tell(f"{name}: {type(error).__name__}: {error}")


def _collide(other: Chain, chain: Chain) -> bool:
    """True when `other` still has the target of `chain`, or could never give it back."""
    if not other.target.may_be(chain.target) or not (other.is_open or not other.closed.is_set()):
        return False
    return not compatible(other.injection, chain.injection)
