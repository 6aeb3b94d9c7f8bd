"""Which instances a frontend lists: changes only, unknown is not gone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.collect.instances import METRIC, NAMED_WITHIN_NS, Listed
from harness.core.records import Sample

BODY = {
    "status": "healthy",
    "endpoints": ["dyn://dynamo.backend.generate"],
    "instances": [
        {"component": "backend", "endpoint": "generate", "namespace": "dynamo", "instance_id": 14217030593788753338,
         "transport": {"tcp": "127.0.0.1:4711/c54d09ffffa3b5ba/generate"}},
        {"component": "backend", "endpoint": "generate", "namespace": "dynamo", "instance_id": 5,
         "transport": {"nats_tcp": "dynamo_backend.generate-5"}},
    ],
}  # fmt: skip


def listed() -> Listed:
    return Listed("frontend-1", lambda _id, transport: "worker-1" if "4711" in str(transport) else None)


def view(rows: list[Sample]) -> set[tuple[str, str, float]]:
    assert all(row.metric == METRIC and row.process == "frontend-1" for row in rows)
    labels = [json.loads(row.labels) for row in rows]
    return {(one["instance_id"], one["worker"], row.value) for one, row in zip(labels, rows, strict=True)}


def test_appearing_and_leaving() -> None:
    seen = listed()
    assert view(seen.changes(1, BODY)) == {("14217030593788753338", "worker-1", 1), ("5", "", 1)}
    assert seen.changes(2, BODY) == []
    less = {**BODY, "instances": BODY["instances"][1:]}
    [gone] = seen.changes(3, less)
    assert (gone.t_ns, gone.value) == (3, 0)
    assert view([gone]) == {("14217030593788753338", "worker-1", 0)}  # its name stays known
    assert view(seen.changes(4, BODY)) == {("14217030593788753338", "worker-1", 1)}
    assert view(seen.changes(5, {"instances": []})) == {("14217030593788753338", "worker-1", 0), ("5", "", 0)}


def test_one_that_came_before_its_target_was_known_is_named_later() -> None:
    known: list[str] = []
    seen = Listed(
        "frontend-1", lambda _id, transport: known[0] if known and "4711" in str(transport) else None
    )
    first = view(seen.changes(1, BODY))
    assert first == {("14217030593788753338", "", 1), ("5", "", 1)}
    assert seen.changes(2, BODY) == []
    known.append("worker-2")
    [named] = seen.changes(3, BODY)
    assert (named.t_ns, view([named])) == (1, {("14217030593788753338", "worker-2", 1)})
    assert seen.changes(4, BODY) == []
    assert view(seen.changes(5, {"instances": []})) == {("14217030593788753338", "worker-2", 0), ("5", "", 0)}


def test_nobody_is_asked_for_ever() -> None:
    asked: list[str] = []
    seen = Listed("frontend-1", lambda instance_id, _: asked.append(instance_id))
    for t_ns in (0, NAMED_WITHIN_NS, NAMED_WITHIN_NS + 1, 2 * NAMED_WITHIN_NS):
        seen.changes(t_ns, {"instances": BODY["instances"][1:]})
    assert asked == ["5", "5"]


def test_a_probe_without_an_answer_changes_nothing() -> None:
    seen = listed()
    seen.changes(1, BODY)
    for body in (None, "x", [], {}, {"status": "ready"}, {"instances": None}, {"instances": {}}):
        assert seen.changes(2, body) == []
    assert seen.changes(3, BODY) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
INSTANCE = st.fixed_dictionaries(
    {"instance_id": JSON}, optional={"endpoint": JSON, "transport": JSON | st.just({"tcp": "h:99999999/"})}
)


@settings(max_examples=40)
@given(st.lists(JSON | st.fixed_dictionaries({"instances": st.lists(JSON | INSTANCE)})))
def test_any_bodies_are_read_and_never_counted_twice(bodies: list[Any]) -> None:
    seen, there = listed(), set()
    for body in bodies:
        for row in seen.changes(1, body):
            assert (row.labels in there) == (row.value == 0)
            there ^= {row.labels}
