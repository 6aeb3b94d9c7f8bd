"""YAML to structs, refusing everything unknown, with errors that name path, value and remedy."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from datetime import date
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from harness.core.errors import ScenarioError, UsageError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping."""


def _mapping(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, "a mapping was said, but not written", node.start_mark
        )
    loader.flatten_mapping(node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool) or key in seen:
            raise yaml.constructor.ConstructorError(
                "while reading a mapping",
                node.start_mark,
                f"key {key!r} is doubled or no text",
                key_node.start_mark,
            )
        seen.add(key)
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)

# Plain decimal numbers only: YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_0 as 10.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?$|[-+]?\.inf$|\.nan$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))


# What PyYAML raises: its own errors, and what leaks from its constructors (`!!int ''`, `!!bool x`, ...).
_NO_YAML = (
    yaml.YAMLError, ValueError, RecursionError, IndexError, KeyError, AttributeError, TypeError, OverflowError,
)  # fmt: skip


def parse_yaml(text: str, file: str) -> dict[str, Any]:
    """The mapping in `text`. Raises ScenarioError with line and column."""
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except _NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ScenarioError(file, where, f"is no YAML: {problem}", "check indentation and quotes") from None
    if not isinstance(tree, dict):
        raise ScenarioError(
            file, "the file", f"must be a mapping, got {type(tree).__name__}", "see README.md"
        )
    return tree


def check_plain(tree: Any, file: str, path: str = "") -> None:
    """Raise ScenarioError for what YAML can say but a scenario can't: sets, bytes, endless numbers."""
    here = path or "the file"
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not isinstance(key, str):
                raise ScenarioError(file, here, f"key {key!r} is no text", f'quote it: "{key}"')
            check_plain(value, file, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for n, value in enumerate(tree):
            check_plain(value, file, f"{path}[{n}]")
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise ScenarioError(file, here, f"{tree} is no finite number", "write one")
    elif not (tree is None or isinstance(tree, str | int | float | date)):
        raise ScenarioError(file, here, f"{tree!r} is no text, number, list or mapping", "remove the tag")


def override(tree: dict[str, Any], item: str) -> None:
    """Apply `a.b.c=value` (a YAML value; list positions as numbers). Raises UsageError."""
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise UsageError(f"--set {item!r}: write a dotted path, =, and a YAML value: --set sut.workers=3")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except _NO_YAML as error:
        raise UsageError(
            f"--set {item!r}: {text!r} is no YAML value ({' '.join(str(error).split())})"
        ) from None
    node: Any = tree
    parts = dotted.split(".")
    for n, part in enumerate(parts):
        last = n == len(parts) - 1
        here = ".".join(parts[: n + 1])
        if isinstance(node, list):
            if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(node):
                has = f"positions 0 to {len(node) - 1}" if node else "no entries"
                raise UsageError(f"--set {item!r}: {here}: the list has {has}")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            else:
                node = node.setdefault(part, {})
        else:
            raise UsageError(f"--set {item!r}: {'.'.join(parts[:n])} is {node!r}, it has no {part!r}")


def convert(tree: Any, kind: type[T], file: str) -> T:
    """`tree` as `kind`. Raises ScenarioError: path, what is wrong, the value, the nearest right name."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise explain(str(error), tree, kind, file) from None


def explain(message: str, tree: Any, kind: Any, file: str) -> ScenarioError:
    """A ValidationError's text (`what - at `$.path``) as a ScenarioError."""
    what, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    value = _at(tree, path)
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        name = unknown[1]
        shown = f"{path}.{name}" if path else name
        given = value.get(name) if isinstance(value, dict) else value
        return ScenarioError(
            file, shown, f"unknown key (value {given!r})", nearest(name, _fields(kind, path))
        )
    missing = re.search(r"missing required field `(.*)`", what)
    if missing:
        return ScenarioError(file, f"{path}.{missing[1]}" if path else missing[1], "is missing", "add it")
    shown = "" if "[...]" in path else f" (value {value!r})"  # msgspec doesn't say which key of a mapping
    return ScenarioError(
        file, path or "the file", f"{what}{shown}", _remedy(what, value, _choices(kind, path))
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy that names the nearest right name, or all of them."""
    names = sorted(names)
    stem = re.sub(r"_?(ns|us|ms|s|seconds|tokens|ratio)$", "", name)
    same_stem = [n for n in names if re.sub(r"_(ns|us|ms|s|tokens|ratio)$", "", n) == stem]
    close = same_stem or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        unit = " (the unit is part of the name)" if same_stem and same_stem[0] != name else ""
        return f"did you mean `{close[0]}`?{unit}"
    return f"known here: {', '.join(names)}" if names else "nothing may stand here"


def _remedy(what: str, value: Any, choices: tuple[Any, ...]) -> str:
    if choices:
        return nearest(str(value), map(str, choices))
    if value is None and what.startswith("Expected `str`"):
        return "quote each value"
    if re.match(r"Expected `str( \| null)?`, got `(float|int)`", what):
        return f'quote it: "{value}"'
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.:_eE+-]*", value):
        return "write a plain decimal number, without quotes"
    if isinstance(value, str) and re.fullmatch(r"[\d.]+ ?(ms|s|m|min|%)", value):
        return "write a plain number; the unit is in the key's name"
    return "see the scenario format in README.md"


_PART = re.compile(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def _at(tree: Any, path: str) -> Any:
    for name, position in _PART.findall(path):
        try:
            tree = tree[int(position)] if position else tree[name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return tree


def _fields(kind: Any, path: str) -> list[str]:
    """Field names of the struct at `path` below `kind`."""
    for name, position in _PART.findall(path):
        if position:
            kind = next((a for a in get_args(kind)), Any)
            continue
        struct = _struct(kind)
        if struct is None:
            return []
        for field in msgspec.structs.fields(struct):
            if field.encode_name == name:
                kind = field.type
    struct = _struct(kind)
    return [field.encode_name for field in msgspec.structs.fields(struct)] if struct else []


def _choices(kind: Any, path: str) -> tuple[Any, ...]:
    """What may stand at `path` below `kind` when that is a closed list, else nothing."""
    for part, position in _PART.findall(path):
        struct = None if position else _struct(kind)
        if struct is not None:
            kind = next((f.type for f in msgspec.structs.fields(struct) if f.encode_name == part), None)
        else:
            kind = next(iter(get_args(kind)), None)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _struct(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) is not list:
        return next(
            (a for a in get_args(kind) if isinstance(a, type) and issubclass(a, msgspec.Struct)), None
        )
    return None
