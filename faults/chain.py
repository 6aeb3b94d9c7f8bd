"""One fault on one target from prepare to recovered: the five verbs, each written down.

Owns the order of journal lines and side effects and what happens when a verb fails. Doesn't know when
it is due (scheduler) nor what a fault does. Nothing that goes wrong in here ends the run silently.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from faults import undo as undo_ops
from faults.journal import Journal, JournalError, Phase
from faults.ports import GRACE_S, Evidence, Ports, Target, Undo, named
from faults.timeline import Injection
from harness.core import clock
from harness.core.errors import FaultError

log = logging.getLogger(__name__)

Failed = Callable[[Injection, Target, str], None]
Others = Callable[["Chain"], list[str]]


def _alone(_: Chain) -> list[str]:
    return []


class Chain:
    """State of one fault on one target. begin, then run in a thread; release ends the hold.

    others: ids of faults that are on the target as well, so that serving can't be asked for yet.
    """

    def __init__(
        self, injection: Injection, target: Target, ports: Ports, journal: Journal, failed: Failed,
        others: Others = _alone,
    ) -> None:  # fmt: skip
        self.injection, self.target = injection, target
        self.fault = injection.build()
        self.release = threading.Event()  # undo now
        self.settled = threading.Event()  # verified or failed
        self.closed = threading.Event()  # nothing of it is left, or given up
        self.problem: str | None = None  # why it could not be undone
        self.undo: Undo | None = None
        self._ports = dataclasses.replace(ports, mark=_mark(injection, target, journal))
        self._journal, self._failed, self._others = journal, failed, others
        self.struck = False  # it may have had an effect
        self.lifted = False  # undone, perhaps not serving yet
        self._held_ns = 0  # CLOCK_MONOTONIC from which the hold counts
        self._plain_undo: dict[str, Any] = {}

    @property
    def is_open(self) -> bool:
        """Announced and not undone."""
        return self.undo is not None and (not self.closed.is_set() or self.problem is not None)

    def refuse(self, reason: str) -> None:
        """Journal that it was not injected, and close."""
        self._fail(reason)
        self.settled.set()
        self.closed.set()

    def begin(self, due_ns: int, end_ns: int) -> bool:
        """Prepare and write the intent; False when it must not be injected.

        due_ns: when it is to be injected; end_ns: planned end of the run (both CLOCK_MONOTONIC).
        """
        try:
            undo = self.fault.prepare(self._ports, self.target)
            self._write("intent", undo=self._plain(undo, due_ns, end_ns), evidence=self._intent(undo, due_ns))
        except FaultError as error:
            self.refuse(str(error))
            return False
        except Exception as error:  # edge: a fault's bug must not end the run
            log.exception("%s on %s", self.injection.fault_id, self.target.name)
            self.refuse(f"prepare: {type(error).__name__}: {error}")
            return False
        self.undo = undo
        return True

    def run(self, wait: Callable[[], bool], why: Callable[[], dict[str, Any]] = dict) -> None:
        """Inject when `wait` returns False (True: the run is being stopped), verify, hold, undo.

        wait may raise FaultError: nothing is injected. why: what the journal says about the moment.
        """
        undo = self.undo
        assert undo is not None, "begin first"
        proven = False
        try:
            if wait():
                raise FaultError("not injected: the run was stopped before")
            proven = self._strike(undo, why)
        except FaultError as error:
            self._fail(str(error))
        except Exception as error:  # edge: a fault's bug must not end the run
            log.exception("%s on %s", self.injection.fault_id, self.target.name)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.settled.set()
        if proven:
            self._hold()
        try:
            self._recover(undo)
        except Exception as error:  # edge: said, journalled, left to the guardian
            log.exception("undo of %s on %s", self.injection.fault_id, self.target.name)
            self._give_up(f"undo: {type(error).__name__}: {error}")
        finally:
            self.closed.set()

    def _strike(self, undo: Undo, why: Callable[[], dict[str, Any]]) -> bool:
        self.struck = True
        struck_ns = self.fault.inject(self._ports, self.target, undo)
        self._write("injected", evidence=why())
        seen = self.fault.verify(self._ports, self.target, undo)
        if struck_ns is not None:
            since_ns = seen.at_ns if seen.since_ns is None else seen.since_ns
            seen = dataclasses.replace(seen, at_ns=struck_ns, since_ns=since_ns)
        self._held_ns = seen.at_ns if seen.since_ns is None else seen.since_ns
        self._write("verified", evidence=self._evidence(seen, "effective_ns"))
        return True

    def _hold(self) -> None:
        if self.injection.lasts_s is None:
            self.release.wait()
            return
        end = self._held_ns + int(self.injection.lasts_s * clock.NS)
        self.release.wait(max(0.0, (end - clock.now_ns()) / clock.NS))

    def _recover(self, undo: Undo) -> None:
        asked_ns = self._journal.anchor.t_ns()
        self._try_write("recovering", t_ns=asked_ns)
        by, told = "undo", {}
        if not self.struck:
            now_ns = self._journal.anchor.t_ns()
            self._try_write(
                "recovered", evidence={"recovered_by": by, "gone_ns": now_ns, "proof": "never injected"}
            )
            return
        try:
            told = dict(self.fault.recover(self._ports, self.target, undo) or {})
            self.lifted = True
            seen = self._back(undo)
        except FaultError as error:
            log.warning("%s on %s: %s", self.injection.fault_id, self.target.name, error)
            restarted = self._restart(undo, str(error), asked_ns)
            if restarted is None:
                return
            seen, by = restarted, "restart"
        t_ns = self._journal.anchor.t_ns()
        evidence = {"recovered_by": by, **told, **self._evidence(seen, "gone_ns")}
        self._try_write("recovered", evidence=evidence, t_ns=t_ns)

    def _back(self, undo: Undo) -> Evidence:
        """Serving again. While other faults are on the target: undone, and the last of them proves the rest.

        Raises FaultError.
        """
        others = self._others(self)
        if not others:
            try:
                return self.fault.verify_recovered(self._ports, self.target, undo)
            except FaultError:
                others = self._others(self)
                if not others:  # else one began while we waited
                    raise
        if problems := undo_ops.verify(undo.ops):
            raise FaultError("; ".join(problems))
        proof = f"undone; that it serves is for {', '.join(others)} to prove, on the same target"
        return Evidence(proof, clock.now_ns(), {"others": others})

    def _restart(self, undo: Undo, reason: str, asked_ns: int) -> Evidence | None:
        """Undoing alone didn't bring the target back: end it and start it again, and say so."""
        processes = self._ports.processes
        try:
            if others := self._others(self):
                raise FaultError(f"{reason}; not started again, since {', '.join(others)} is on it")
            members = [named(name) for name in undo.saved.get("members", [self.target.name])]
            respawns = [processes.find(one).respawn for one in members]
            ops = [{**one, "stop": True} for one in respawns if one is not None]
            if len(ops) < len(members):
                raise FaultError(f"{reason}; squall can't start a process of an outside system again")
            plain = self._plain_undo | {"ops": [*undo.ops, *ops]}
            self._try_write("recovering", undo=plain, evidence={"restart": reason}, t_ns=asked_ns)
            for op in ops:
                processes.respawn(op)
            seen = self.fault.verify_recovered(self._ports, self.target, undo)
        except FaultError as error:
            self._give_up(str(error))
            return None
        return Evidence(
            f"restarted, since undoing didn't help ({reason}); now: {seen.proof}", seen.at_ns, seen.facts
        )

    def _plain(self, undo: Undo, due_ns: int, end_ns: int) -> dict[str, Any]:
        """Undo as the journal keeps it; the guardian reads ops, deadline_ns and anchor_mono_ns."""
        lasts_s = self.injection.lasts_s
        planned_ns = end_ns if lasts_s is None else due_ns + int(lasts_s * clock.NS)
        waits_s = 0.0 if self.injection.when is None else self.injection.when.within_s
        slack_s = waits_s + undo.effect_s + 2 * self._ports.recover_timeout_s + GRACE_S
        self._plain_undo = {
            "ops": [dict(op) for op in undo.ops],
            "saved": dict(undo.saved),
            "deadline_ns": planned_ns + int(slack_s * clock.NS),
            "anchor_mono_ns": self._journal.anchor.mono_ns,
        }
        return self._plain_undo

    def _intent(self, undo: Undo, due_ns: int) -> dict[str, Any]:
        who = undo.identity
        evidence: dict[str, Any] = {
            "requested_ns": due_ns - self._journal.anchor.mono_ns,
            "identity": {"pid": who.pid, "start_ticks": who.start_ticks},
        }
        evidence |= {key: undo.saved[key] for key in ("note", "members") if key in undo.saved}
        return evidence

    def _evidence(self, seen: Evidence, at_name: str) -> dict[str, Any]:
        """As the journal keeps it: instants move from CLOCK_MONOTONIC to the run axis."""
        base = self._journal.anchor.mono_ns
        facts = {
            name: value - base if name.endswith("_ns") and value is not None else value
            for name, value in seen.facts.items()
        }
        return {**facts, at_name: seen.at_ns - base, "proof": seen.proof}

    def _write(self, phase: Phase, **more: Any) -> None:
        one = self.injection
        self._journal.write(one.fault_id, one.fault, phase, self.target.name, **more)

    def _try_write(self, phase: Phase, **more: Any) -> None:
        """Undoing goes on when the disk is full; the run hears of it."""
        try:
            self._write(phase, **more)
        except JournalError as error:
            self.tell(f"journal of `{phase}`: {error}")

    def _fail(self, reason: str) -> None:
        self._try_write("failed", error=reason)
        self.tell(reason)

    def _give_up(self, reason: str) -> None:
        self.problem = reason
        self._fail(f"not undone: {reason}")

    def tell(self, reason: str) -> None:
        """Let the run know that it can't be judged."""
        try:
            self._failed(self.injection, self.target, reason)
        except Exception:  # edge: a listener's bug must not keep us from undoing
            log.exception("listener of failed faults")


def _mark(injection: Injection, target: Target, journal: Journal) -> str:
    """A name that no other fault, target or run has: for what a fault makes on the host."""
    whole = f"{journal.path.resolve()} {journal.anchor.mono_ns} {injection.fault_id} {target.name}"
    return hashlib.sha256(whole.encode()).hexdigest()[:12]
