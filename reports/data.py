"""ReportData: everything a report says, in plain frozen structs that turn into JSON as they are.

Numbers keep their unit in the name and None means unknown, never zero. Nothing here knows HTML,
Markdown, plots or where the numbers come from.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1
MAX_IDS = 20  # request ids named per list; the count stays exact

Json = dict[str, object]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Which run, of what, on what machine."""

    run_id: str
    scenario: str
    seed: int | None = None
    started_at: str | None = None
    duration_s: float | None = None
    warmup_s: float | None = None
    squall_version: str | None = None
    sut_version: str | None = None
    engine: str | None = None
    processes: list[str] = []
    fingerprint_class: str | None = None
    fingerprint: dict[str, str] = {}
    trace_sha256: str | None = None
    config_sha256: str | None = None
    interrupted: bool = False
    restored: bool | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: one word, one reason in plain words, the exit code, then all reasons."""

    status: str  # pass | fail | improvement | regression | inconclusive | invalid
    exit_code: int | None
    why: str
    reasons: list[str] = []


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of the whole run; sent = ok + shed + cancelled + failed + lost."""

    sent: int | None = None
    ok: int | None = None
    shed: int | None = None
    cancelled: int | None = None
    failed: int | None = None
    lost: int | None = None


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What users lost by one fault.

    hurt_user_s sums 0.1 s per hurt client and bin; outage_s is the length of a full outage that hurts as
    much; budget_ratio is its share of a month's 99.9% budget (2592 s of 30 days).
    """

    fault_id: str
    fault: str
    targets: list[str]
    requests_hurt: int | None = None
    hurt_user_s: float | None = None
    outage_s: float | None = None
    silent_s: float | None = None
    budget_ratio: float | None = None
    text: str = ""


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A shaded stretch of the run axis, in seconds since the load began."""

    kind: Literal["warmup", "phase", "fault", "recovery"]
    fault_id: str  # "" where it is no fault's
    label: str
    start_s: float
    end_s: float


class Span(msgspec.Struct, frozen=True):
    """A stretch in one state; `text` says why."""

    start_s: float
    end_s: float
    state: str  # green | red | unknown | hurt | silent
    text: str = ""


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the health plot."""

    label: str
    spans: list[Span]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Series over equal bins; every list has one entry a bin. None: nothing happened there to measure."""

    bin_s: float
    start_s: float = 0.0
    tokens_per_s: list[float | None] = []
    ttft_p50_ms: list[float | None] = []
    ttft_p99_ms: list[float | None] = []
    stall_max_ms: list[float | None] = []  # longest silence that overlaps the bin
    in_flight: list[float | None] = []
    hurt: list[float | None] = []
    outcomes: dict[str, list[int]] = {}  # per bin of t_end; only the kinds that occurred
    bands: list[Band] = []
    strips: list[Strip] = []
    slo_ttft_ms: float | None = None

    @property
    def bins(self) -> int:
        return max(
            [len(self.tokens_per_s), len(self.in_flight), *(len(one) for one in self.outcomes.values())]
        )

    @property
    def end_s(self) -> float:
        return self.start_s + self.bins * self.bin_s


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """Streams in flight at a fault that ended the same way."""

    fate: str
    count: int
    request_ids: list[str] = []
    migrated: dict[str, int] = {}  # how often -> how many of them; empty: unknown


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One ring of proof. ok None: unknown."""

    ring: str
    ok: bool | None
    text: str
    evidence: Json = {}


class FaultOnTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The journal's chain of one fault on one target."""

    target: str
    identity: str | None = None
    undo: Json | None = None
    requested_s: float | None = None
    effective_s: float | None = None
    undo_requested_s: float | None = None
    gone_s: float | None = None
    recovered_s: float | None = None
    verified: bool | None = None
    recovered: bool | None = None
    recovered_by: str | None = None
    error: str | None = None
    proofs: list[Proof] = []


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One sign of a drain. at_s: seconds after the signal, None: not seen, or no moment."""

    name: str
    at_s: float | None = None
    note: str = ""


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended that was asked to."""

    target: str
    signal: str
    grace_s: float | None = None  # that it says it gives its streams
    drain_s: float | None = None
    phases: list[Phase] = []


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, from what was done to what became of each stream."""

    fault_id: str
    fault: str
    what: str  # plain words
    parameters: Json = {}
    targets: list[FaultOnTarget] = []
    detect_s: float | None = None
    mitigate_s: float | None = None
    recover_s: float | None = None
    recover_never: bool = False  # known: the service didn't get as good as steady again
    recover_note: str = ""
    silent_s: float | None = None
    silent_all_s: float | None = None
    not_ready_s: float | None = None
    ready_s: float | None = None
    false_green_s: float | None = None
    false_red_s: float | None = None
    in_flight: int | None = None
    fates: list[Fate] = []
    drains: list[Drain] = []
    felt: str = ""  # the third ring in plain words
    felt_by: int | None = None  # streams that it reached
    ledger_note: str = ""


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """Streams that we cancelled in one way at one stage, by what their engine did then. None: unknown."""

    mode: str
    stage: str
    sent: int
    aborted: int
    unaborted: int
    finished: int
    unseen: int
    unknown: int
    abort_p50_ms: float | None = None
    abort_p99_ms: float | None = None
    abort_max_ms: float | None = None
    wasted_p50: float | None = None
    wasted_max: float | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator was asked to send in a window and what it sent, and what hiding the wait would
    hide: times to first token from sending and from when the request was due. None: unknown."""

    loop: str  # open | closed
    window: str
    unit: str  # requests/s | users
    asked: float | None = None
    delivered: float | None = None
    ratio: float | None = None
    late_ratio: float | None = None
    wait_p99_ms: float | None = None
    wait_max_ms: float | None = None
    unsent: int | None = None
    held: bool = False  # by max_in_flight
    ttft_p99_ms: float | None = None
    ttft_p99_due_ms: float | None = None


class Teller(msgspec.Struct, frozen=True, kw_only=True):
    """Who counts cancellations, and how many in the measured part. None: unknown."""

    name: str
    count: float | None = None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of complete answers of one route and class, by each account. None: unknown."""

    route: str
    user_class: str
    streamed: bool = True
    requests: int
    usage: int | None = None
    chunks: int
    witness: int | None = None
    hidden: int | None = None
    thoughts: int = 0
    calls: int = 0
    usage_thoughts: int | None = None
    differ: int | None = None
    several: int = 0
    request_ids: list[str] = []


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric by window. None: unknown; a window that isn't there: not defined in it."""

    name: str
    unit: str
    about: str = ""
    higher_is_better: bool = False
    values: dict[str, float | None] = {}


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics per window."""

    windows: list[str] = []
    rows: list[MetricRow] = []


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and what was measured. ok None: couldn't be judged."""

    metric: str
    window: str
    limit: str
    unit: str = ""
    value: float | None
    ok: bool | None


class Invariant(msgspec.Struct, frozen=True, kw_only=True):
    """state: ok | broken | not_applicable."""

    name: str
    state: str
    count: int = 0
    about: str = ""
    detail: str = ""
    request_ids: list[str] = []


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A broken promise of the protocol, counted over requests."""

    name: str
    count: int
    about: str = ""
    request_ids: list[str] = []


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted violation."""

    violation: str
    window: str
    count: int | None
    max_count: int | None = None
    reason: str = ""
    expires: str = ""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of the load generator itself and its limit. ok None: unknown or without a limit."""

    name: str
    unit: str
    value: float | None
    limit: float | None = None
    ok: bool | None = None
    about: str = ""


class GeneratorProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One of several Locust processes. None: it didn't say. rows: records that it says it wrote."""

    name: str
    host: str = ""
    sent: int | None = None
    rows: int | None = None
    send_lag_p99_ms: float | None = None
    hub_lag_p99_ms: float | None = None
    cpu_s: float | None = None
    cpu_steal_ratio: float | None = None
    clock_error_ms: float | None = None  # of its times, against the master's clock


class ComparedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One judged metric. Ratios are of candidate/baseline - 1; margin_ratio and floor_ratio are for the worse.

    a_values, b_values: one value a pair that counts, in order of pair_ids; None: that run has none.
    """

    metric: str
    window: str
    unit: str = ""
    higher_is_better: bool = False
    status: str = ""  # regression | improvement | pass | inconclusive | observe | absent | ...
    baseline: float | None = None
    candidate: float | None = None
    delta_ratio: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_regression: float | None = None
    mde_ratio: float | None = None
    more_pairs: int | None = None
    margin_ratio: float | None = None
    floor_ratio: float | None = None
    note: str = ""
    a_values: list[float | None] = []
    b_values: list[float | None] = []


class ComparedValue(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of one fault in both arms: medians over the pairs that count."""

    name: str
    unit: str = ""
    baseline: float | None = None
    candidate: float | None = None


class ComparedFault(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault did in both arms."""

    fault_id: str
    fault: str
    values: list[ComparedValue] = []


class DroppedPair(msgspec.Struct, frozen=True):
    """A pair that doesn't count."""

    pair_id: int
    reason: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate B against baseline A over pairs of runs. says: what is worse, how sure, what would make it sure."""

    baseline: str
    candidate: str
    pairs_used: int = 0
    pair_ids: list[int] = []
    looks: list[int] = []
    says: list[str] = []
    metrics: list[ComparedMetric] = []
    faults: list[ComparedFault] = []
    dropped: list[DroppedPair] = []


class Term(msgspec.Struct, frozen=True):
    """A word and its definition."""

    name: str
    about: str


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report, in reading order."""

    schema: int = SCHEMA
    verdict: Verdict
    run: Run
    comparison: Comparison | None = None
    counts: Counts = Counts()
    losses: list[Loss] = []
    timeline: Timeline | None = None
    faults: list[Fault] = []
    cancels: list[Cancel] = []
    cancel_tellers: list[Teller] = []
    accounts: list[Account] = []
    sent: list[Sent] = []
    metrics: Metrics = Metrics()
    gates: list[Gate] = []
    invariants: list[Invariant] = []
    violations: list[Violation] = []
    known: list[Known] = []
    quality: list[Quality] = []
    generators: list[GeneratorProcess] = []
    warnings: list[str] = []
    command: str = ""
    scenario_yaml: str = ""
    glossary: list[Term] = []
