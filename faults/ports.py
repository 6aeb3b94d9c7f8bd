"""The seam between faults and platforms: what a fault is, and what it may ask a platform to do.

Data and protocols only. Faults don't know platforms, platforms don't know faults or schedules; a
platform for netns or Kubernetes implements the same ports. Standard library only.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from faults.cgroupfs import Hierarchy
from harness.core import clock
from harness.core.errors import FaultError
from harness.core.proc import Identity, Stat


@dataclass(frozen=True)
class Target:
    """A planned target, `worker-1`: role and index (from 1), never a pid.

    index 0: known at the injection only, `etcd-leader`; `word` says which.
    """

    role: str
    index: int
    word: str = ""

    @property
    def name(self) -> str:
        return f"{self.role}-{self.word or self.index}"

    def may_be(self, other: Target) -> bool:
        """True when both may turn out to be the same process."""
        return self.role == other.role and (self.index == other.index or 0 in {self.index, other.index})


def named(name: str) -> Target:
    """The target of a name."""
    role, _, last = name.rpartition("-")
    return Target(role, int(last)) if last.isdigit() else Target(role, 0, last)


@dataclass(frozen=True)
class Undo:
    """Everything that undoing needs, as plain data, known before the first side effect.

    ops: operations of faults/undo.py, in order. identity: who the target was. saved: what the fault
    itself wants to remember, JSON values only; `members` in it: names of those whom a target with a
    word turned out to be. effect_s: so long its effect may take to be proven.
    """

    ops: tuple[Mapping[str, Any], ...]
    identity: Identity
    saved: Mapping[str, Any] = field(default_factory=dict)
    effect_s: float = 3.0


@dataclass(frozen=True)
class Evidence:
    """Something that was seen. Not seeing it is a FaultError, never an Evidence.

    proof: one sentence. at_ns: CLOCK_MONOTONIC ns of the first moment at which it held. facts: JSON
    values; names ending in _ns hold CLOCK_MONOTONIC instants (the journal moves them to the run axis).
    since_ns: from when the hold counts, if not from at_ns.
    """

    proof: str
    at_ns: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    since_ns: int | None = None


@dataclass(frozen=True)
class Found:
    """A target's process now: the tree (parents first, empty when gone) and the TCP ports it listens on."""

    identity: Identity
    tree: tuple[Identity, ...]
    ports: tuple[int, ...]
    respawn: Mapping[str, Any] | None  # the spawn operation that starts it again; None: an outside process


@dataclass(frozen=True)
class Serving:
    """Signs that a target does its work. None is unknown or doesn't apply, never a yes."""

    healthy: bool | None = None  # its own /health, body read
    listed: bool | None = None  # a frontend has it among its instances
    requests: float | None = None  # counter of requests that it has taken
    traffic: float | None = None  # counter of requests that the whole system has taken
    countable: bool = True  # False: this target has no counter of requests that anybody could read


@dataclass(frozen=True)
class View:
    """What a server of the control plane says of itself and of those around it, by their names."""

    healthy: bool
    leader: str | None = None  # etcd: whom it takes for the leader; None: it knows none
    members: frozenset[str] = frozenset()  # etcd: the cluster as it lists it
    clients: frozenset[str] = frozenset()  # NATS: processes that are connected to it


class ControlPlane(Protocol):
    """etcd members and NATS servers of the system under test, asked one by one. Raises FaultError."""

    def servers(self, role: str) -> tuple[Target, ...]:
        """All of a role, `etcd` or `nats`, by index."""

    def view(self, target: Target) -> View | None:
        """Ask exactly this server; None when it doesn't answer."""


class ProcessControl(Protocol):
    """Processes of the system under test, only those that sut.json names. Raises FaultError."""

    def find(self, target: Target) -> Found:
        """Who the target is now."""

    def stat(self, who: Identity) -> Stat | None:
        """What the kernel says about exactly this process, None when it is gone or a zombie."""

    def tree(self, who: Identity) -> tuple[Identity, ...]:
        """It and its living descendants now, parents first; empty when it is gone."""

    def exit_code(self, who: Identity) -> int | None:
        """How this process ended (negative: by a signal), None when nobody can tell."""

    def signal(self, who: Identity, sig: signal.Signals) -> bool:
        """Send a signal to exactly this process; False when it is gone."""

    def refuses(self, target: Target, port: int) -> bool:
        """True when a connection to this port of the target's host is refused."""

    def respawn(self, op: Mapping[str, Any]) -> Identity:
        """Carry out a spawn operation and note the new identity in sut.json."""

    def serving(self, target: Target) -> Serving:
        """Look once, from outside."""


@dataclass(frozen=True)
class Host:
    """Where a target lives on the network: a namespace, known by its inode, and its addresses there."""

    name: str  # of the target; `client` for the load generator's side
    netns: str
    inode: int
    device: str
    addresses: tuple[str, ...]  # of all its devices but loopback, v4 and v6


@dataclass(frozen=True)
class Wire:
    """A target's host, the hosts that a fault puts it apart from, and the side that squall itself uses."""

    target: Host
    peers: tuple[Host, ...]
    client: Host


@dataclass(frozen=True)
class Probe:
    """Something sent from a socket of one host to a socket of another.

    datagrams: `count` of UDP. connect: one TCP handshake. rate: TCP for at most `seconds` or
    `count` bytes. echo: UDP there and back, one after the other, `count` times. kill: a TCP
    connection that stays open while `argv` runs.
    """

    kind: Literal["datagrams", "connect", "rate", "echo", "kill"]
    sender: Host
    receiver: Host
    count: int = 1
    seconds: float = 1.0
    argv: tuple[str, ...] = ()


@dataclass(frozen=True)
class Echo:
    """What became of a probe. Times are CLOCK_MONOTONIC ns."""

    sent: int
    arrived: int
    sent_ns: int  # of the first
    arrived_ns: int | None  # of the first
    answer: str  # connect, kill: accepted | reset | silent
    kbit_per_s: float
    rtt_ms: float | None  # the median


class NetworkControl(Protocol):
    """The network between hosts of the system under test. Raises FaultError."""

    def wire(self, target: Target, peers: Sequence[str]) -> Wire:
        """Who is where. peers: names, roles, `control_plane`, `all`; the client's host is never among them."""

    def queues(self) -> frozenset[str]:
        """Kinds of queues that the kernel has: htb, tbf, netem."""

    def run(self, host: Host, argv: Sequence[str]) -> str:
        """Output of a command on a host."""

    def probe(self, probes: Sequence[Probe]) -> list[Echo]:
        """Send all of them at once, and say what became of each."""

    def connections(self, wire: Wire) -> list[str]:
        """Established TCP connections between the target's host and its peers, as its kernel lists them."""


@dataclass(frozen=True)
class Told:
    """What an engine says about a lie that it was told to tell, and under which tag."""

    count: int  # how often it did, by its own count
    first_ns: int | None  # CLOCK_MONOTONIC of the first time
    in_force: bool  # it goes on


class EngineControl(Protocol):
    """Witness engines, which misbehave on demand. Raises FaultError."""

    def withdrawal(self, target: Target, tag: str) -> Mapping[str, Any]:
        """The undo operation that takes the lie with this tag back."""

    def tell(self, target: Target, who: Identity, tag: str, rule: Mapping[str, Any]) -> None:
        """From now on misbehave like this; FaultError when the target is no longer `who`."""

    def told(self, target: Target, tag: str) -> Told | None:
        """Ask it now; None: it knows nothing of this tag."""

    def wrote(self, target: Target, tag: str) -> bool:
        """True when its log, which outlives it, says that it told this lie."""


@dataclass(frozen=True)
class Progress:
    """How far a process says it has got. None: no channel for it, or no answer."""

    requests: float | None = None  # taken since it started
    tokens: float | None = None  # made since it started
    in_flight: float | None = None


class DrainView(Protocol):
    """What a process that is ending shows from outside. Each method is one channel. Raises FaultError."""

    def grace_s(self, target: Target) -> float | None:
        """How long it says it gives its streams, None when unknown."""

    def pages(self, target: Target) -> tuple[int | None, int | None]:
        """HTTP status of its /health and of its /live, None where there is no answer."""

    def progress(self, target: Target) -> Progress:
        """Its own counters."""

    def listed_by(self, target: Target) -> Mapping[str, bool]:
        """For each frontend that answers: does it list the target."""


def _rest(seconds: float) -> bool:
    clock.sleep_s(seconds)
    return False


@dataclass(frozen=True)
class Ports:
    """What a platform offers to faults; None: this one doesn't. A new port joins here and in PORTS."""

    processes: ProcessControl
    recover_timeout_s: float = 15
    rest: Callable[[float], bool] = _rest  # wait so long; True at once when the run is being stopped
    cgroups: Mapping[str, Hierarchy] | None = (
        None  # by controller: where limits can be set on the targets' host
    )
    drains: DrainView | None = None  # None: a drain is seen by its ports and its end only
    mark: str = ""  # names what a fault makes on the host: unique for run, fault and target
    network: NetworkControl | None = None
    engines: EngineControl | None = None
    control_plane: ControlPlane | None = None

    @property
    def plane(self) -> ControlPlane:
        """The control plane. Raises FaultError when there is none."""
        if self.control_plane is None:
            raise FaultError("this system has no etcd and no NATS of its own")
        return self.control_plane

    @property
    def offers(self) -> frozenset[str]:
        """Names of the ports that are there, and what the kernel has of CAPABILITIES."""
        queues = frozenset() if self.network is None else self.network.queues()
        return (queues & {*CAPABILITIES}) | {name for name in PORTS if getattr(self, name, None) is not None}


PORTS = ("processes", "cgroups", "network", "control_plane", "engines", "gpus")
CAPABILITIES = ("netem",)  # what a port may or may not be able to do; a fault `needs` it like a port
GRACE_S = 5.0  # after which the guardian takes a fault out of the run's hands


class Fault(Protocol):
    """A frozen dataclass whose fields are the YAML parameters. Five verbs, each raises FaultError.

    Its first docstring line says what it does; those of verify, recover and verify_recovered say what
    the proof is, how it is undone and when it counts as undone: `squall faults` and docs/faults.md.
    """

    # optional ClassVars: `role: str`, the only one that `select` may name; `finds: Target`, taken without
    # a `select` (with a word: never with one)
    needs: ClassVar[frozenset[str]]  # ports: processes, network, gpus, control_plane

    def prepare(self, p: Ports, t: Target) -> Undo:
        """Read only; everything that recover needs, known BEFORE inject."""

    def inject(self, p: Ports, t: Target, undo: Undo) -> int | None:
        """The side effect. May return since when it holds (CLOCK_MONOTONIC ns), once `verify` has proven it.

        A killed process's clients hear of its end before anybody can see it gone.
        """

    def verify(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """By an independent channel, never by our own call's return value. at_ns: effective."""

    def recover(self, p: Ports, t: Target, undo: Undo) -> Mapping[str, Any] | None:
        """Idempotent; right even if inject never ran. May return facts for the journal (`drifted`)."""

    def verify_recovered(self, p: Ports, t: Target, undo: Undo) -> Evidence:
        """Serving again within p.recover_timeout_s. at_ns: the fault itself is gone."""


def tree_plain(tree: Sequence[Identity]) -> list[list[int]]:
    """Identities as JSON."""
    return [[one.pid, one.start_ticks] for one in tree]


def tree_of(plain: Sequence[Sequence[int]]) -> list[Identity]:
    """Back from `tree_plain`."""
    return [Identity(pid, ticks) for pid, ticks in plain]
