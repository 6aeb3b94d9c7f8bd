"""Canaries: the small requests by which a worker checks its own engine, and what they ask.

Pure but for reading the model's files. Payloads are those of Dynamo's backends, token for token; which
one a scenario gets follows from its engine. The environment is the workers' alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.core.config import Canary, Scenario
from harness.core.errors import ScenarioError

Backend = Literal["vllm", "sglang", "trtllm", "unified"]
Form = Literal["tokens", "text"]

MARKER = "_HEALTH_CHECK"  # engines know canaries by it
DEFAULT_BOS = 1
FAKE_BOOTSTRAP_HOST = "2.2.2.2"  # SGLang's word for: no other worker takes part
VARIABLES = (
    "DYN_HEALTH_CHECK_ENABLED", "DYN_CANARY_WAIT_TIME", "DYN_HEALTH_CHECK_REQUEST_TIMEOUT",
    "DYN_HEALTH_CHECK_PAYLOAD",
)  # fmt: skip


def payload(
    backend: Backend, bos: int = DEFAULT_BOS, form: Form = "tokens", disaggregated: bool = False,
    bootstrap_port: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The canary of a backend. Raises ValueError for a form that the backend doesn't have."""
    if form == "text" and backend in ("trtllm", "unified"):
        raise ValueError(f"{backend} has no canary in text form")
    prompt: dict[str, Any] = {"prompt": "Test"} if form == "text" else {"token_ids": [bos]}
    stop = {"max_tokens": 1, "stop": None, "stop_token_ids": None, "include_stop_str_in_output": False,
            "ignore_eos": False}  # fmt: skip
    made: dict[str, Any]
    if backend == "vllm" and form == "text":
        made = {**prompt, "temperature": 0.0, **stop}  # flat, as an OpenAI request
    elif backend == "vllm":
        made = {**prompt, "sampling_options": {"temperature": 0.0}, "stop_conditions": stop}
    elif backend == "sglang":
        made = {
            "stop_conditions": {"max_tokens": 1, "ignore_eos": False},
            "sampling_options": {"temperature": 0.0, "top_p": 1.0, "top_k": -1},
            "eos_token_ids": [], "annotations": [], **prompt,
        }  # fmt: skip
        if disaggregated:
            made["bootstrap_info"] = {
                "bootstrap_host": FAKE_BOOTSTRAP_HOST, "bootstrap_port": bootstrap_port, "bootstrap_room": 0,
            }  # fmt: skip
    elif backend == "trtllm":
        made = {
            **prompt, "stop_conditions": {**stop, "min_tokens": 0},
            "sampling_options": {
                "temperature": 0.0, "top_p": 1.0, "top_k": 1, "repetition_penalty": 1.0,
                "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": None,
            },
        }  # fmt: skip
        if disaggregated:
            made["disaggregated_params"] = {"request_type": "context_and_generation"}
    else:
        made = {**prompt, "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
                "sampling_options": {"temperature": 0.0}}  # fmt: skip
    return {**made, MARKER: True}


def bos_token_id(model_dir: Path) -> int:
    """The id of the token that begins a text, by the model's files; 1 where they say nothing."""
    tokenizer = _json(model_dir / "tokenizer_config.json")
    for said in (
        tokenizer.get("bos_token_id"),
        _id_of(tokenizer.get("bos_token"), model_dir),
        _json(model_dir / "config.json").get("bos_token_id"),
        _json(model_dir / "generation_config.json").get("bos_token_id"),
    ):
        if isinstance(said, int) and not isinstance(said, bool):
            return said
    return DEFAULT_BOS


def env(scenario: Scenario, model_dir: Path) -> dict[str, str]:
    """What a worker's environment says of canaries; empty when they are off."""
    wanted = scenario.sut.canary
    if not wanted.enabled:
        return {}
    return {
        "DYN_HEALTH_CHECK_ENABLED": "true",
        "DYN_CANARY_WAIT_TIME": str(wanted.wait_s),
        "DYN_HEALTH_CHECK_REQUEST_TIMEOUT": str(wanted.timeout_s),
        "DYN_HEALTH_CHECK_PAYLOAD": _payload_text(scenario, wanted, model_dir),
    }


def check(scenario: Scenario, file: str) -> None:
    """Refuse before anything starts: a payload that is no JSON object, variables that are set twice."""
    wanted = scenario.sut.canary
    if not wanted.enabled:
        return
    for name in VARIABLES:
        if name in scenario.sut.env:
            raise ScenarioError(file, f"sut.env.{name}", f"is sut.canary's to set (value {scenario.sut.env[name]!r})",
                                "remove one of the two")  # fmt: skip
    if not isinstance(wanted.payload, str) or wanted.payload == "auto":
        return
    path = Path(wanted.payload.removeprefix("@"))
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ScenarioError(file, "sut.canary.payload", f"{wanted.payload!r} can't be read ({error})",
                            "name a file with a JSON object, `auto`, or write the object itself") from None  # fmt: skip
    if not isinstance(found, dict):
        raise ScenarioError(file, "sut.canary.payload", f"{wanted.payload!r} holds {type(found).__name__}",
                            "Dynamo takes a JSON object only")  # fmt: skip


def _payload_text(scenario: Scenario, wanted: Canary, model_dir: Path) -> str:
    if wanted.payload != "auto":
        given = wanted.payload
        return f"@{Path(given[1:]).resolve()}" if isinstance(given, str) else json.dumps(given)
    backend: Backend = "unified" if scenario.sut.engine == "witness" else scenario.sut.engine_type
    apart = scenario.sut.prefill_workers > 0
    return json.dumps(payload(backend, bos_token_id(model_dir), disaggregated=apart))


def _id_of(token: Any, model_dir: Path) -> int | None:
    """The id of a token that tokenizer_config.json names by its text."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str):
        return None
    tokenizer = _json(model_dir / "tokenizer.json")
    added = {one.get("content"): one.get("id") for one in tokenizer.get("added_tokens") or []}
    vocab = (tokenizer.get("model") or {}).get("vocab")
    found = added.get(text, vocab.get(text) if isinstance(vocab, dict) else None)
    return found if isinstance(found, int) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
