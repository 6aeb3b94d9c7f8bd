"""The strict reader alone: doubled keys, positions, nearest names, paths of nested structs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import strict
from harness.core.errors import ScenarioError, UsageError


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    hold_s: float = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: Inner | None = None
    many: list[Inner] = []
    by_name: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("a: 1\na: 2", "line 2, column 1", "key 'a' is doubled"),
        ("a: {b: 1, b: 2}", "line 1, column 11", "key 'b' is doubled"),
        ("a: [1", "line 1, column 6", "is no YAML"),
        ("a:\n\t- 1", "line 2, column 1", "is no YAML"),
        ("- a", "the file", "must be a mapping, got list"),
        ("", "the file", "must be a mapping, got NoneType"),
        ("just text", "the file", "must be a mapping, got str"),
        (
            "a: !!python/object/apply:os.system [true]",
            "line 1, column 4",
            "could not determine a constructor",
        ),
        ("a: 1\n---\nb: 2", "line 2, column 1", "is no YAML"),
        ("a: !!int ''", "the file", "is no YAML"),
        ("a: !!map [b]", "line 1, column 4", "a mapping was said"),
    ],
)
def test_text_that_is_no_mapping_is_refused_with_its_place(text: str, path: str, what: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        strict.parse_yaml(text, "f")
    assert caught.value.path == path
    assert what in caught.value.what


def test_anchors_and_merges_are_read() -> None:
    assert strict.parse_yaml("a: &x {b: 1}\nc: *x\n", "f") == {"a": {"b": 1}, "c": {"b": 1}}
    assert strict.parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}\n", "f")["c"] == {"b": 1, "d": 2}


@pytest.mark.parametrize(
    ("tree", "path", "remedy"),
    [
        ({"name": "n", "inner": {"hold": 1}}, "inner.hold", "`hold_s`"),
        (
            {"name": "n", "many": [{}, {"hold_ms": 1}]},
            "many[1].hold_ms",
            "`hold_s`? (the unit is part of the name)",
        ),
        ({"name": "n", "by_name": {"x": {"held_s": 1}}}, "by_name[...].held_s", ""),
        ({"inner": None}, "name", "add it"),
        ({"name": 1.5}, "name", 'quote it: "1.5"'),
        ({"name": "n", "inner": {"hold_s": "8 s"}}, "inner.hold_s", "write a plain number"),
        ([], "the file", ""),
    ],
)
def test_conversion_errors_name_path_and_remedy(tree: object, path: str, remedy: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        strict.convert(tree, Outer, "f")
    assert caught.value.path == path
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "names", "remedy"),
    [
        ("workrs", ["workers", "frontends"], "did you mean `workers`?"),
        ("hold", ["hold_s", "at_s"], "did you mean `hold_s`? (the unit is part of the name)"),
        ("hold_ms", ["hold_s"], "did you mean `hold_s`? (the unit is part of the name)"),
        ("zzz", ["b", "a"], "known here: a, b"),
        ("zzz", [], "nothing may stand here"),
    ],
)
def test_nearest(name: str, names: list[str], remedy: str) -> None:
    assert strict.nearest(name, names) == remedy


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": float("nan")}, "a"),
        ({"a": [0, {"b": float("inf")}]}, "a[1].b"),
        ({"a": {1: 2}}, "a"),
        ({True: 2}, "the file"),
        ({"a": {"x"}}, "a"),
        ({"a": [b"x"]}, "a[0]"),
    ],
)
def test_what_yaml_can_say_but_a_scenario_cannot(tree: object, path: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        strict.check_plain(tree, "f")
    assert caught.value.path == path


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_a_mapping_or_a_scenario_error(text: str) -> None:
    try:
        assert isinstance(strict.parse_yaml(text, "f"), dict)
    except ScenarioError as error:
        assert str(error).startswith("f: ")


TAGS = [
    "int",
    "bool",
    "float",
    "timestamp",
    "binary",
    "set",
    "omap",
    "pairs",
    "null",
    "map",
    "seq",
    "str",
    "value",
    "merge",
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TAGS),
    st.sampled_from(["''", "x", "[a]", "{a: 1}", "é", "1:99:99", "<<", "=", "2020-13-01", "[[a, b]]"]),
)
def test_any_tag_on_any_node_is_a_mapping_or_a_scenario_error(tag: str, node: str) -> None:
    for text in (f"a: !!{tag} {node}", f"!!{tag} {node}", f"? !!{tag} {node}\n: 1"):
        try:
            tree = strict.parse_yaml(text, "f")
            strict.check_plain(tree, "f")
        except ScenarioError as error:
            assert str(error).startswith("f: ")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_override_changes_the_tree_or_is_a_usage_error(item: str) -> None:
    tree = {"a": [1, {"b": 2}], "c": {"d": 3}, "e": None}
    try:
        strict.override(tree, item)
    except UsageError as error:
        assert str(error).startswith("--set ")


def test_override_sets_nested_values_and_makes_mappings() -> None:
    tree = {"a": [1, {"b": 2}], "c": {}}
    for item in ("a.1.b=[x, 2]", "a.0=~", "c.d.e=1.5", "f=g=h"):
        strict.override(tree, item)
    assert tree == {"a": [None, {"b": ["x", 2]}], "c": {"d": {"e": 1.5}}, "f": "g=h"}
