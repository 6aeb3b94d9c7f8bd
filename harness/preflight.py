"""Everything that can be refused before anything is changed: exit 2, naming file, path, value, remedy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from faults import targets, timeline
from harness import platforms
from harness.core import arrivals, clock, config, lengths, phases, rundir, strict
from harness.core.config import Scenario
from harness.core.errors import ScenarioError, UsageError
from harness.stats import metrics, runfacts, windows
from harness.sut import launch
from harness.traffic import prompts, replay
from harness.traffic.reactor import native


def load(path: Path, overrides: list[str], seed: int | None) -> Scenario:
    """The scenario after overrides. Raises UsageError."""
    return config.load_scenario(path, overrides, seed)


def check(scenario: Scenario, file: str, baseline: Path | None = None) -> None:
    """Raise UsageError for whatever would stop a run later, and change nothing."""
    config.refuse_expired(scenario, clock.utc_date(clock.wall_ns()), file)
    if scenario.generator.engine == "reactor" and (why := native.why_not()):
        raise ScenarioError(file, "generator.engine", why, "or write `auto` or `hub`")
    metrics.check_gates(scenario, file)
    prompts.check(scenario, file)
    replay.check(scenario, file)
    fault_plan(scenario, file)
    _comparison(scenario, file)
    if baseline is not None and not rundir.open_run(baseline).metrics.exists():
        raise UsageError(f"{baseline}: no metrics.json; --baseline takes the directory of a finished run")
    launch.preflight(scenario, file)


def _comparison(scenario: Scenario, file: str) -> None:
    """Refuse a `compare:` that no comparison of this scenario's runs could be made by."""
    try:
        plan = runfacts.plan_of(scenario)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    for tested in plan.metrics:
        if not windows.exists(scenario, tested.window) and scenario.faults:
            raise ScenarioError(
                file, "compare", f"{tested.window!r} is no window of this scenario",
                strict.nearest(tested.window, windows.names(scenario)),
            )  # fmt: skip


def fault_plan(scenario: Scenario, file: str) -> timeline.Plan:
    """The fault plan, a pure function of scenario and seed. Raises ScenarioError."""
    offers = platforms.of(scenario, file).offers(scenario)
    return timeline.plan(scenario, targets.of_scenario(scenario), file, offers)


def plan_text(scenario: Scenario, file: str, as_json: bool) -> list[str]:
    """What `squall plan` prints: faults in time, load, hashes; as canonical JSON or for people."""
    plan = fault_plan(scenario, file)
    first = [
        prompts.prompt(
            scenario.seed,
            entry,
            n,
            k,
            prompts.shortest(prompts.ROUTES[entry.user_class], prompts.shape(entry)),
        ).text
        for n, entry in enumerate(scenario.load.users)
        for k in range(3)
    ]
    digest = hashlib.sha256(json.dumps(first).encode()).hexdigest()
    hashes = {
        "trace_sha256": config.trace_sha256(scenario),
        "config_sha256": config.config_sha256(scenario),
        "plan_sha256": hashlib.sha256(plan.to_json()).hexdigest(),
        "first_prompts_sha256": digest,
    }
    if as_json:
        whole = {"scenario": config.to_plain(scenario), "faults": json.loads(plan.to_json()), **hashes}
        return [json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)]
    return [*_system_lines(scenario), *_load_lines(scenario), "faults (seconds from the end of warm-up)",
            *(f"  {line}" for line in plan.lines() or ["none"]),
            *(f"{name:<21} {value[:16]}" for name, value in hashes.items())]  # fmt: skip


def _system_lines(scenario: Scenario) -> list[str]:
    sut = scenario.sut
    if sut.url is not None:
        names = ", ".join(f"{t.role} (pid {t.pid})" for t in sut.targets) or "none"
        return [
            f"system   outside, {sut.url}, model {sut.model}, oracle {sut.oracle}; faults may touch: {names}"
        ]
    prefill = f" (decode), {sut.prefill_workers} prefill worker(s)" if sut.prefill_workers else ""
    longest = f" up to {sut.migration_max_seq_len} tokens" if sut.migration_max_seq_len is not None else ""
    apart = ", each process on a host of its own" if sut.platform == "netns" else ""
    return [
        f"system   Dynamo {sut.dynamo}, {sut.frontends} frontend(s), {sut.workers} worker(s){prefill}, "
        f"engine {sut.engine}, migration limit {sut.migration_limit}{longest}{apart}"
    ]


def _load_lines(scenario: Scenario) -> list[str]:
    load = scenario.load
    lines = [
        f"load     {load.warmup_s:g} s warm-up, {load.duration_s:g} s, up to {load.drain_s:g} s drain, seed {scenario.seed}"
    ]
    if (count := scenario.generator.processes) != 1:
        lines.append(f"  from {count or 'as many'} processes{'' if count else ' as there are cores'}")
    if load.arrivals is not None:
        lines.append(
            f"  arrivals {arrivals.shown(load.arrivals)}: {_expected(scenario)} in the measured part"
        )
    lines += [_entry_line(user) for user in load.users]
    for span in phases.spans(load):
        counts = [
            f"{phases.active(user, span.phase)} x {user.user_class}" for user in load.users if user.count
        ]
        shown = f" ({', '.join(counts)})" if counts else ""
        lines.append(
            f"  {span.start_s:8.3f} s  phase {span.phase.duration_s:g} s, {phases.label(span.phase)}{shown}"
        )
    return lines


def _expected(scenario: Scenario) -> str:
    """How many requests the open loop will send."""
    load, rows = scenario.load, replay.rows(scenario, "scenario")
    if rows is None:
        rate = arrivals.Rate(load)
        return f"about {rate.count(load.warmup_s + load.duration_s) - rate.count(load.warmup_s):.0f}"
    due_s = (one.due_s - load.warmup_s for one in arrivals.schedule(load, scenario.seed, rows))
    return str(sum(0 <= at_s < load.duration_s for at_s in due_s))


def _entry_line(user: config.UserClass) -> str:
    prompt, answer = lengths.shown(user.prompt_tokens), lengths.shown(user.output_tokens)
    who = f"{user.count} x" if user.weight is None else f"weight {user.weight:g} of the arrivals:"
    extras = [
        user.conversation and f"conversations of {lengths.shown(user.conversation.turns)} turns",
        user.prefix and f"prefix of {user.prefix.tokens} tokens out of {user.prefix.groups}",
        user.retry and f"up to {user.retry.max_attempts} attempts",
    ]
    more = "".join(f", {extra}" for extra in extras if extra)
    return f"  {who} {user.user_class}: prompt {prompt}, answer {answer} tokens{more}"
