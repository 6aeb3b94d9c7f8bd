"""Canary payloads are those of Dynamo's backends, and reach the workers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core import config
from harness.core.config import Scenario
from harness.core.errors import ScenarioError
from harness.sut import canary, model

MARK = {"_HEALTH_CHECK": True}
STOP = {"max_tokens": 1, "stop": None, "stop_token_ids": None, "include_stop_str_in_output": False,
        "ignore_eos": False}  # fmt: skip
SGLANG = {
    "stop_conditions": {"max_tokens": 1, "ignore_eos": False},
    "sampling_options": {"temperature": 0.0, "top_p": 1.0, "top_k": -1}, "eos_token_ids": [], "annotations": [],
}  # fmt: skip
TRTLLM = {
    "token_ids": [7], "stop_conditions": {**STOP, "min_tokens": 0},
    "sampling_options": {"temperature": 0.0, "top_p": 1.0, "top_k": 1, "repetition_penalty": 1.0,
                         "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": None},
}  # fmt: skip
APART = {"bootstrap_info": {"bootstrap_host": "2.2.2.2", "bootstrap_port": 8998, "bootstrap_room": 0}}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"backend": "vllm"}, {"token_ids": [7], "sampling_options": {"temperature": 0.0}, "stop_conditions": STOP}),
        ({"backend": "vllm", "form": "text"}, {"prompt": "Test", "temperature": 0.0, **STOP}),
        ({"backend": "vllm", "disaggregated": True},
         {"token_ids": [7], "sampling_options": {"temperature": 0.0}, "stop_conditions": STOP}),
        ({"backend": "sglang"}, {**SGLANG, "token_ids": [7]}),
        ({"backend": "sglang", "form": "text"}, {**SGLANG, "prompt": "Test"}),
        ({"backend": "sglang", "disaggregated": True, "bootstrap_port": 8998}, {**SGLANG, "token_ids": [7], **APART}),
        ({"backend": "sglang", "form": "text", "disaggregated": True, "bootstrap_port": 8998},
         {**SGLANG, "prompt": "Test", **APART}),
        ({"backend": "trtllm"}, TRTLLM),
        ({"backend": "trtllm", "disaggregated": True},
         {**TRTLLM, "disaggregated_params": {"request_type": "context_and_generation"}}),
        ({"backend": "unified"}, {"token_ids": [7], "stop_conditions": {"max_tokens": 1, "ignore_eos": True},
                                  "sampling_options": {"temperature": 0.0}}),
    ],
)  # fmt: skip
def test_each_shape(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert canary.payload(bos=7, **given) == {**wanted, **MARK}


@pytest.mark.parametrize("backend", ["trtllm", "unified"])
def test_no_text_form(backend: Any) -> None:
    with pytest.raises(ValueError, match="no canary in text form"):
        canary.payload(backend, form="text")


@pytest.mark.parametrize(
    ("files", "bos"),
    [
        ({}, 1),
        ({"tokenizer_config.json": {"bos_token_id": 5}, "config.json": {"bos_token_id": 6}}, 5),
        ({"config.json": {"bos_token_id": 6}, "generation_config.json": {"bos_token_id": 8}}, 6),
        ({"config.json": {"bos_token_id": None}, "generation_config.json": {"bos_token_id": 8}}, 8),
        ({"config.json": {"bos_token_id": True}}, 1),
        ({"tokenizer_config.json": {"bos_token": "<s>"}, "config.json": {"bos_token_id": 6},
          "tokenizer.json": {"added_tokens": [{"content": "<s>", "id": 9}]}}, 9),
        ({"tokenizer_config.json": {"bos_token": {"content": "<s>"}}, "tokenizer.json": {"model": {"vocab": {"<s>": 3}}}},
         3),
        ({"tokenizer_config.json": {"bos_token": "<s>"}, "config.json": {"bos_token_id": 6}}, 6),
    ],
)  # fmt: skip
def test_the_bos_token(tmp_path: Path, files: dict[str, Any], bos: int) -> None:
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    assert canary.bos_token_id(tmp_path) == bos


def test_a_file_that_is_no_json_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert canary.bos_token_id(tmp_path) == 1


def test_the_generated_models_bos(tmp_path: Path) -> None:
    model.write(tmp_path)
    config_json = json.loads((tmp_path / "config.json").read_bytes())
    assert canary.bos_token_id(tmp_path) == config_json["bos_token_id"] > 1


def scenario(**sut: Any) -> Scenario:
    load = {"duration_s": 1, "users": [{"class": "ChatUser", "count": 1}]}
    return config.build({"schema": 1, "name": "t", "sut": {"dynamo": "1.6.1", **sut}, "load": load}, "t.yaml")


ON = {"enabled": True, "wait_s": 2, "timeout_s": 1}


def test_off_by_default(tmp_path: Path) -> None:
    assert canary.env(scenario(), tmp_path) == {}


def test_the_environment(tmp_path: Path) -> None:
    found = canary.env(scenario(canary=ON), tmp_path)
    assert json.loads(found.pop("DYN_HEALTH_CHECK_PAYLOAD")) == canary.payload("unified", 1)
    assert found == {"DYN_HEALTH_CHECK_ENABLED": "true", "DYN_CANARY_WAIT_TIME": "2", "DYN_HEALTH_CHECK_REQUEST_TIMEOUT": "1"}  # fmt: skip


def text(**sut: Any) -> str:
    return canary.env(scenario(**sut), Path("/nowhere"))["DYN_HEALTH_CHECK_PAYLOAD"]


def test_the_payload_follows_the_engine_or_is_given(tmp_path: Path) -> None:
    for engine_type in ("vllm", "sglang", "trtllm"):
        sut = {"engine": "mocker", "engine_type": engine_type, "canary": ON}
        assert json.loads(text(**sut)) == canary.payload(engine_type, 1)  # type: ignore[arg-type]
        apart = json.loads(text(**sut, prefill_workers=1))
        assert apart == canary.payload(engine_type, 1, disaggregated=True)  # type: ignore[arg-type]
    assert json.loads(text(canary={**ON, "payload": {"token_ids": [4]}})) == {"token_ids": [4]}
    path = tmp_path / "canary.json"
    path.write_text('{"token_ids": [4]}')
    assert text(canary={**ON, "payload": f"@{path}"}) == f"@{path}"


def refused(**sut: Any) -> str:
    with pytest.raises(ScenarioError) as error:
        canary.check(scenario(**sut), "t.yaml")
    return str(error.value)


def test_what_is_refused(tmp_path: Path) -> None:
    canary.check(scenario(env={"DYN_HEALTH_CHECK_ENABLED": "true"}), "t.yaml")
    canary.check(scenario(canary=ON), "t.yaml")
    assert "sut.env.DYN_CANARY_WAIT_TIME: is sut.canary's to set" in refused(
        canary=ON, env={"DYN_CANARY_WAIT_TIME": "1"}
    )
    assert "neither `auto` nor" in refused(canary={**ON, "payload": "none"})
    assert "sut.canary.wait_s: must be 1 or more" in refused(canary={**ON, "wait_s": 0})
    assert "can't be read" in refused(canary={**ON, "payload": f"@{tmp_path / 'absent'}"})
    path = tmp_path / "list.json"
    path.write_text("[1]")
    assert "holds list" in refused(canary={**ON, "payload": f"@{path}"})
