"""Files that a scenario names: found beside it, read or fingerprinted when it is loaded.

Lists of lengths become part of the scenario; a trace stays where it is, with its sha256 in the scenario, so
that what was sent can be told later, and that another file under its name is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from harness.core import lengths
from harness.core.errors import ScenarioError


def resolve(tree: Any, scenario: Path) -> None:
    """Replace the names of files in the scenario's plain data. Raises ScenarioError."""
    load = tree.get("load") if isinstance(tree, dict) else None
    if not isinstance(load, dict):
        return  # what is wrong with it is said by the types
    for n, user in enumerate(_listed(load.get("users"))):
        for owner, key, at in _lengths(user, f"load.users[{n}]"):
            given = owner[key]
            if isinstance(given, dict) and isinstance(given.get("file"), str) and "values" not in given:
                found = lengths.read_values(_beside(scenario, given["file"]), str(scenario), f"{at}.file")
                rest = {name: value for name, value in given.items() if name != "file"}
                owner[key] = {**rest, "values": found}
    arrivals = load.get("arrivals")
    if isinstance(arrivals, dict) and isinstance(arrivals.get("file"), str):
        path = _beside(scenario, arrivals["file"])
        try:
            found_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ScenarioError(
                str(scenario), "load.arrivals.file", f"{path}: {error.strerror}", "name a trace, relative to the scenario"
            ) from None  # fmt: skip
        arrivals |= {"file": str(path), "sha256": found_sha256}


def _lengths(user: Any, at: str) -> list[tuple[Any, str, str]]:
    """Where an entry may hold a distribution."""
    if not isinstance(user, dict):
        return []
    found = [(user, key, f"{at}.{key}") for key in ("prompt_tokens", "output_tokens") if key in user]
    talk = user.get("conversation")
    if isinstance(talk, dict) and "turns" in talk:
        found.append((talk, "turns", f"{at}.conversation.turns"))
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _beside(scenario: Path, name: str) -> Path:
    return (scenario.parent / name).resolve()
