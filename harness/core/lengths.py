"""How many tokens: a number, or a distribution that a request's own randomness draws from.

Drawing is a pure function of the generator that it is given. Whole numbers throughout: what is drawn is
rounded and kept within `min` and `max`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec

from harness.core.errors import ScenarioError

DEFAULT_MIN = 1
SIGMAS = 6  # a normal's or lognormal's bounds where none are given: beyond is one draw in a billion


class Normal(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of this mean and standard deviation, before it is kept within the bounds."""

    mean: float
    sd: float


class Lognormal(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """exp of a normal with mean ln(median) and standard deviation sigma: few long ones, many short ones."""

    median: float
    sigma: float


class Distribution(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """Exactly one of the first four. uniform: lo..hi, both included; file: one number a line (or a JSON
    list), each equally likely, read when the scenario is loaded and kept as `values`."""

    uniform: tuple[int, int] | None = None
    normal: Normal | None = None
    lognormal: Lognormal | None = None
    file: str | None = None
    values: list[int] = []
    min: int | None = None  # of normal and lognormal
    max: int | None = None


Length = int | Distribution


def bounds(length: Length) -> tuple[int, int]:
    """The least and the most that can be drawn."""
    if isinstance(length, int):
        return length, length
    if length.uniform is not None:
        return length.uniform
    if length.values:
        return min(length.values), max(length.values)
    low = DEFAULT_MIN if length.min is None else length.min
    if length.max is not None:
        return low, length.max
    if length.normal is not None:
        return low, max(low, round(length.normal.mean + SIGMAS * length.normal.sd))
    assert length.lognormal is not None
    return low, max(
        low, round(length.lognormal.median * 2.718281828459045 ** (SIGMAS * length.lognormal.sigma))
    )


def draw(length: Length, r: random.Random) -> int:
    """One length."""
    if isinstance(length, int):
        return length
    if length.uniform is not None:
        return r.randint(*length.uniform)
    if length.values:
        return length.values[r.randrange(len(length.values))]
    low, high = bounds(length)
    if length.normal is not None:
        value = r.normalvariate(length.normal.mean, length.normal.sd)
    else:
        assert length.lognormal is not None
        value = length.lognormal.median * r.lognormvariate(0, length.lognormal.sigma)
    return max(low, min(high, round(value)))


def shown(length: Length) -> str:
    """For people."""
    low, high = bounds(length)
    if isinstance(length, int):
        return str(length)
    if length.normal is not None:
        return f"normal {length.normal.mean:g} +- {length.normal.sd:g} ({low}-{high})"
    if length.lognormal is not None:
        return f"lognormal, median {length.lognormal.median:g} ({low}-{high})"
    return f"{low}-{high}" + (f" ({len(length.values)} values)" if length.values else "")


def problem(length: Length) -> tuple[str, str] | None:
    """What is wrong with it and what to do, None when nothing is."""
    if isinstance(length, int):
        return None if length >= 1 else (f"{length}..{length} is no range of token counts", "1 or more")
    laws = [name for name in ("uniform", "normal", "lognormal", "file") if getattr(length, name) is not None]
    if not (laws == [] and length.values) and len(laws) != 1:
        return (f"needs exactly one of uniform, normal, lognormal and file, got {', '.join(laws) or 'none'}",
                "for example {uniform: [50, 200]}")  # fmt: skip
    if laws == ["file"] and not length.values:
        return f"{length.file} has no values", "one whole number a line"
    if laws in (["uniform"], ["file"]) and (length.min, length.max) != (None, None):
        return f"min and max don't go with {laws[0]}", "remove them"
    if length.normal is not None and not length.normal.sd >= 0:
        return f"sd {length.normal.sd:g} is no spread", "0 or more"
    if length.lognormal is not None and not (
        length.lognormal.median > 0 and 0 <= length.lognormal.sigma <= 10
    ):
        return f"{length.lognormal} is no lognormal", "median above 0, sigma 0 to 10"
    low, high = bounds(length)
    return (
        None if 1 <= low <= high else (f"{low}..{high} is no range of token counts", "lo <= hi, both above 0")
    )


def read_values(path: Path, file: str, at: str) -> list[int]:
    """The numbers in a file: a JSON list, or one a line (# begins a comment). Raises ScenarioError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(file, at, f"{path} can't be read ({error})", "name a text file") from None
    words = [line.partition("#")[0].strip() for line in text.splitlines()]
    try:
        numbers = json.loads(text) if text.lstrip().startswith("[") else [int(word) for word in words if word]
        if not numbers or not all(type(one) is int and one >= 1 for one in numbers):
            raise ValueError("nothing but whole numbers above 0 may be in it")
    except ValueError as error:
        raise ScenarioError(file, at, f"{path}: {error}", "one whole number a line, or a JSON list") from None
    return [int(one) for one in numbers]
