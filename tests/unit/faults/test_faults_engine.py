"""Lies as faults, without a system: one for each kind, and what is refused before a run."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest

from faults import FAULTS, engine, timeline
from harness import platforms
from harness.core.config import Misbehave
from harness.core.errors import ScenarioError
from tests.fixtures.faults_lab import scenario


def test_there_is_a_fault_for_each_kind_of_lie() -> None:
    kinds = {*get_args(get_type_hints(Misbehave)["kind"])} - {"report_death"}  # `sut.engine_options` only
    assert {name for name in FAULTS if name.startswith("engine.")} == {f"engine.{kind}" for kind in kinds}
    assert all(dataclasses.fields(FAULTS[f"engine.{kind}"]) for kind in kinds)  # type: ignore[arg-type]


def plan(sut: dict[str, Any], *more: dict[str, Any]) -> timeline.Plan:
    base = {"id": "lie", "fault": "engine.corrupt", "select": {"role": "worker", "index": [1]}, "at_s": 5,
            "hold_s": 3}  # fmt: skip
    made = scenario([{**base, **one} for one in more], sut=sut)
    offers = platforms.of(made, "t.yaml").offers(made)
    return timeline.plan(made, {"worker": 2, "frontend": 1}, "t.yaml", offers)


def refused(sut: dict[str, Any], *more: dict[str, Any]) -> str:
    with pytest.raises(ScenarioError) as error:
        plan(sut, *more)
    return str(error.value)


WITNESS = {"dynamo": "1.6.1"}


def test_what_is_refused_before_the_run() -> None:
    good = {"one_in": 5}
    assert plan(WITNESS, good).injections[0].params == {"hold_s": 3.0, "one_in": 5, "within_s": 10.0}
    outside = {"url": "http://127.0.0.1:1", "model": "m", "targets": [{"role": "worker", "pid": 1}]}
    for sut in ({"dynamo": "1.6.1", "engine": "mocker"}, outside):
        assert "lie of the witness engine, which this system doesn't have" in refused(sut, good)
    assert "aims at engines; a frontend has none" in refused(WITNESS, good | {"select": {"role": "frontend"}})
    for bad in ({}, {"one_in": 5, "at_token": 5}):
        assert "exactly one of one_in and at_token" in refused(WITNESS, bad)
    for bad in ({"one_in": 0}, {"at_token": -1}):
        assert "one_in is 1 or more, at_token 0 or more" in refused(WITNESS, bad)
    assert "within_s must be 0 or more" in refused(WITNESS, good | {"within_s": -1})


def test_two_lies_on_one_engine_are_compatible_and_a_death_is_not() -> None:
    two = [{"one_in": 5}, {"id": "other", "fault": "engine.hang", "at_token": 5}]
    assert len(plan(WITNESS, *two).injections) == 2
    die = {"id": "other", "fault": "engine.die", "at_token": 5, "hold_s": 1}
    assert "overlaps" in refused(WITNESS, {"one_in": 5}, die)
    assert frozenset({"engine.die"}) not in engine.COMPATIBLE
