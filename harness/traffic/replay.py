"""The trace of a load: its rows, and whether the system and the load's length are fit for them."""

from __future__ import annotations

from pathlib import Path

from harness.core import lengths, trace
from harness.core.config import Scenario
from harness.core.errors import ScenarioError
from harness.core.trace import Row
from harness.sut import model


def rows(scenario: Scenario, file: str) -> list[Row] | None:
    """Of a load that replays a trace, else None. Raises ScenarioError; `file` names the scenario in it."""
    arrivals = scenario.load.arrivals
    if arrivals is None or arrivals.file is None:
        return None
    return trace.read(Path(arrivals.file), arrivals.offset_s, arrivals.length_ratio, arrivals.sha256, file)


def check(scenario: Scenario, file: str) -> None:
    """Raise ScenarioError when a trace ends before the load, or asks for more than a context holds."""
    load = scenario.load
    found = rows(scenario, file)
    if found is not None and load.arrivals is not None:
        lasts_s = found[-1].timestamp_ms / 1000 / load.arrivals.speed_ratio
        wanted_s = load.warmup_s + load.duration_s
        if lasts_s < wanted_s:
            raise ScenarioError(
                file, "load.arrivals.file", f"the trace lasts {lasts_s:g} s from offset_s on, the load {wanted_s:g} s",
                "lower load.duration_s, speed_ratio or offset_s",
            )  # fmt: skip
    if scenario.sut.url is not None or scenario.sut.model_dir is not None:
        return  # nobody knows what their model takes
    ratio = 1.0 if load.arrivals is None else load.arrivals.length_ratio
    most = max((row.input_length + row.output_length for row in found or []), default=0)
    if most > model.CONTEXT_LENGTH:
        raise ScenarioError(
            file, "load.arrivals.length_ratio", f"the trace has a request of {most} tokens, prompt and answer; the "
            f"model's context is {model.CONTEXT_LENGTH}", f"lower it to {0.95 * ratio * model.CONTEXT_LENGTH / most:.2g}",
        )  # fmt: skip
    for n, user in enumerate(load.users):
        if user.conversation is None:
            continue
        turns, prompt, answer = (
            lengths.bounds(one)[1]
            for one in (user.conversation.turns, user.prompt_tokens, user.output_tokens)
        )
        if turns * (prompt + answer) > model.CONTEXT_LENGTH:
            raise ScenarioError(
                file, f"load.users[{n}].conversation.turns", f"{turns} turns of up to {prompt} + {answer} tokens are "
                f"{turns * (prompt + answer)}; the model's context is {model.CONTEXT_LENGTH}", "lower one of them",
            )  # fmt: skip
