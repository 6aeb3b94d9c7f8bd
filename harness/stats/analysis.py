"""What an analysis of one run holds: plain frozen data, made by analyse.py and read by reports.

Times are ns or s on the run axis (0 = start of load); None is always "unknown", never zero. Nothing
here computes, renders or knows a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from harness.stats.load import RunData

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[int, int]
FATES = (
    "migrated_exact", "finished_there", "hit_again", "cut", "corrupted", "timed_out", "cancelled", "shed",
    "lost",
)  # fmt: skip


@dataclass(frozen=True)
class Window:
    """A stretch of the run: `intervals` are half-open [start, end) in ns, sorted, disjoint."""

    name: str  # all | steady | phase:<name> | fault:<id> | recovery:<id>
    kind: Literal["all", "steady", "phase", "fault", "recovery"]
    fault_id: str | None
    intervals: tuple[Interval, ...]

    @property
    def length_ns(self) -> int:
        return sum(end - start for start, end in self.intervals)

    @property
    def start_ns(self) -> int | None:
        return self.intervals[0][0] if self.intervals else None

    @property
    def end_ns(self) -> int | None:
        return self.intervals[-1][1] if self.intervals else None


@dataclass(frozen=True)
class FaultEvent:
    """One fault on one target, as the journal tells it. Times None: that phase never came."""

    fault_id: str
    fault: str  # process.kill, ...
    target: str  # worker-1, ..., etcd-leader
    intent_ns: int | None
    requested_ns: int | None
    injected_ns: int | None
    effective_ns: int | None
    undo_requested_ns: int | None
    gone_ns: int | None
    recovered_ns: int | None  # serving again
    end_ns: int | None  # of the fault window: undo requested, or the end of the restart
    verified: bool
    recovered: bool
    recovered_by: str | None  # undo | restart | guardian | ...
    proof: str | None  # how its effect was seen
    recovered_proof: str | None  # how its end was seen
    error: str | None
    failed_recovering: bool  # the journal says that undoing it failed
    took_request: bool | None = None  # the recovery saw it take a request
    members: tuple[str, ...] = ()  # whom the target turned out to be, where it is no process's name

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of the processes that it was on."""
        return self.members or (self.target,)


@dataclass(frozen=True)
class LedgerEntry:
    """What became of the streams in flight on one target when one fault took effect.

    `applicable` False: nobody can tell which streams were there (`why`); the rest is then empty.
    fates maps each of FATES to request ids. migrated: how often each of these streams went on elsewhere in
    its life, by the engines. exhausted: those that were cut after as many migrations as the limit allows.
    attempts_(low|high) bound what the SUT's counter of ongoing migrations may have grown by, from segments;
    counter_ongoing and counter_new are what it did grow by. moved: requests that the frontend sent again
    before any engine had them, and that an engine then made; refused: failed ones that no engine ever had.
    """

    fault_id: str
    target: str
    applicable: bool
    why: str
    in_flight: int | None = None
    fates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""  # segments | engine_worker_id
    migrations: int | None = None  # segments that continued a stream elsewhere, during the fault
    attempts_low: int | None = None
    attempts_high: int | None = None
    counter_ongoing: float | None = None
    counter_new: float | None = None
    agrees: bool | None = None  # None: one side is unknown
    migrated: Mapping[str, int] = field(default_factory=dict)
    exhausted: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    agrees_new: bool | None = None

    @property
    def closes(self) -> bool | None:
        """Every stream has exactly one fate, and none is lost."""
        if not self.applicable or self.in_flight is None:
            return None
        told = sum(len(ids) for ids in self.fates.values())
        return told == self.in_flight and not self.fates.get("lost")


@dataclass(frozen=True)
class Readiness:
    """How right the target's own readiness was about a fault. Seconds; None: unknown or never."""

    not_ready_s: float | None = None  # effective -> first red
    ready_s: float | None = None  # undo requested -> lasting green
    false_green_s: float | None = None  # it couldn't serve and said that it was ready
    false_red_s: float | None = None  # it served and said that it wasn't


@dataclass(frozen=True)
class Service:
    """What users and operators saw of one fault id (all its targets together). Seconds; None: unknown or never."""

    fault_id: str
    detect_s: float | None  # effective -> first red probe of the target
    mitigate_s: float | None  # effective -> users no longer hurt; 0 nobody was hurt
    recover_s: float | None  # undo requested -> as good as steady
    recover_known: bool  # False: too little load after the undo, or no steady state, to tell
    recover_note: str
    silent_s: float | None  # in the fault's window: hurt while the readiness signals were green
    silent_all_s: float | None  # hurt while every health check was green
    readiness: Readiness = Readiness()


@dataclass(frozen=True)
class Loss:
    """What users lost to one fault, from its effect until it was recovered and users no longer hurt.

    requests_hurt: requests with at least one hurt 100 ms bin. hurt_user_s: sum over bins of 0.1 s x hurt
    clients. outage_s: sum over bins of 0.1 s x (hurt clients / clients in flight), that is, the length of a
    full outage that hurts as much. budget_ratio: outage_s / 2592 s, the share that one such fault takes of
    the downtime that 99.9% allows in a month of 30 days.
    """

    fault_id: str
    fault: str
    targets: tuple[str, ...]
    requests_hurt: int
    request_ids: tuple[str, ...]  # at most 20
    hurt_user_s: float
    outage_s: float
    budget_ratio: float
    text: str  # the three figures in one sentence


@dataclass(frozen=True)
class CancelRow:
    """Streams that we cancelled in one way at one stage, by what their engine did (see cancels.py)."""

    mode: str
    stage: str  # queue | prefill | first token | later
    sent: int
    aborted: int
    unaborted: int
    finished: int
    unseen: int
    unknown: int
    abort_p50_ms: float | None
    abort_p99_ms: float | None
    abort_max_ms: float | None
    wasted_p50: float | None  # tokens
    wasted_max: float | None


@dataclass(frozen=True)
class CancelCount:
    """How often something was cancelled in the measured part, by one teller."""

    teller: str
    count: float | None


@dataclass(frozen=True)
class AccountRow:
    """Tokens of complete answers of one route and class by each account (see accounts.py). None: unknown.

    usage: the server's word; witness and hidden: words that the oracle read, and what was made beside them and
    shown to nobody. differ: requests in which the two disagree. several: requests with a chunk of several tokens.
    """

    route: str
    user_class: str
    streamed: bool
    requests: int
    usage: int | None
    chunks: int
    witness: int | None
    hidden: int | None
    thoughts: int  # as counted by us
    calls: int  # tokens of arguments, as counted by us
    usage_thoughts: int | None  # the server's word
    differ: int | None
    several: int
    request_ids: tuple[str, ...]  # of `differ`, at most 20


@dataclass(frozen=True)
class Delivery:
    """What the generator was asked for in a window and what it did (see delivery.py). None: unknown.

    open loop: requests/s; closed loop: users. late_ratio: requests that began more than late_ms after they
    were due; unsent: arrivals (users) that never began; held: the scenario's own limit explains it.
    """

    loop: Literal["open", "closed"]
    window: str
    unit: str
    asked: float | None
    delivered: float
    ratio: float | None
    late_ratio: float | None
    late_ms: float
    wait_p99_ms: float | None  # t_start - t_due
    wait_max_ms: float | None
    unsent: int | None
    held: bool

    @property
    def text(self) -> str:
        """In words, with numbers."""
        asked = "an unknown number of" if self.asked is None else f"{self.asked:.4g}"
        late = (
            ""
            if self.late_ratio is None
            else f", {100 * self.late_ratio:.3g}% began more than {self.late_ms:g} ms late"
        )
        wait = (
            ""
            if self.wait_p99_ms is None
            else f" (p99 {self.wait_p99_ms:.3g} ms, max {self.wait_max_ms:.3g} ms)"
        )
        unsent = f", {self.unsent} never" if self.unsent else ""
        return f"{self.delivered:.4g} of {asked} {self.unit} in {self.window}{late}{wait}{unsent}"


@dataclass(frozen=True)
class Invariant:
    """Something that must hold. ok None: not applicable or unknown (`detail` says which and why)."""

    name: str
    ok: bool | None
    count: int  # tokens for the five token classes, else requests or faults that break it
    request_ids: tuple[str, ...] = ()  # at most 20
    detail: str = ""
    breaks: Literal["fail", "invalid"] = "fail"  # what `ok: False` makes of the run


@dataclass(frozen=True)
class KnownUse:
    """One `known` entry of the scenario and what it excused."""

    violation: str
    window: str
    max_count: int | None
    reason: str
    expires: str
    count: int  # excused
    expired: bool
    note: str  # "" or why it needs attention


@dataclass(frozen=True)
class GateResult:
    """A limit and the value it was held against. ok None: the value is unknown."""

    metric: str
    window: str
    bound: Literal["max", "min"]
    limit: float
    value: float | None
    ok: bool | None


@dataclass(frozen=True)
class Series:
    """Curves for plots. `t_s` are the starts of 1 s bins from 0; `hurt_t_s` of 100 ms bins."""

    t_s: Floats
    tokens_per_s: Floats
    in_flight: Floats  # streams open, mean of the bin
    ttft_p50_ms: Floats  # NaN where no first token came
    ttft_p99_ms: Floats
    outcomes: Mapping[str, Ints]  # requests that ended in the bin, by outcome
    hurt_t_s: Floats
    hurt_clients: Ints
    # stalls: silences that hurt, plus every request's longest gap above 250 ms
    stall_start_s: Floats
    stall_end_s: Floats
    stall_request_ids: tuple[str, ...]
    # health: process -> (start_s, end_s, "green" | "red" | "unknown"), in order, without holes
    health: Mapping[str, tuple[tuple[float, float, str], ...]]


@dataclass(frozen=True)
class Analysis:
    """Everything that can be said about one run from its files."""

    data: RunData
    windows: Mapping[str, Window]
    metrics: Mapping[str, Mapping[str, float | None]]  # window -> metric -> value
    counts: Mapping[str, int]  # sent, ok, shed, cancelled, failed, lost
    events: tuple[FaultEvent, ...]
    services: Mapping[str, Service]  # fault id ->
    ledger: tuple[LedgerEntry, ...]
    losses: tuple[Loss, ...]
    cancels: tuple[CancelRow, ...]
    cancel_counts: tuple[CancelCount, ...]
    accounts: tuple[AccountRow, ...]
    delivery: tuple[Delivery, ...]
    invariants: tuple[Invariant, ...]
    known: tuple[KnownUse, ...]
    gates: tuple[GateResult, ...]
    invalid_reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    series: Series
    verdict: Mapping[str, Any]  # verdict.json

    @property
    def status(self) -> str:
        return str(self.verdict["status"])

    @property
    def exit_code(self) -> int:
        return int(self.verdict["exit_code"])
