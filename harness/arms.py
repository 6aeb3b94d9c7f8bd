"""What `--a` and `--b` name: a Dynamo version, a file with other settings, a URL, or the accepted baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import baseline
from harness.core import config, strict
from harness.core.config import Scenario
from harness.core.errors import ScenarioError, UsageError
from harness.core.expfile import Arm
from harness.sut import outside, venv

OUTSIDE = ("model", "oracle", "headers_env", "metrics", "health", "targets")  # keys of a system by URL
BASELINE = "baseline"


def resolve(text: str, scenario: Scenario, file: str, runs: Path) -> tuple[Arm, Scenario]:
    """The arm and its scenario. Raises UsageError naming what can't be.

    text: a version (`1.6.1`), a URL, a YAML file whose mapping is merged over the scenario's `sut:`, or
    `baseline`: what `squall baseline accept` accepted for this scenario.
    """
    whole = _tree(scenario)
    sut = whole["sut"]
    if text == BASELINE:
        accepted = baseline.current(runs, scenario.name)
        merged, label = accepted.sut, accepted.label
    else:
        merged, label = _merged(text, sut), Path(text).name if _is_file(text) else text
    built = config.build({**whole, "sut": merged}, text if _is_file(text) else file)
    return Arm(label=label, sut=config.to_plain(built)["sut"]), built


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    """The same scenario with another trace and other victims."""
    return config.build({**_tree(scenario), "seed": seed}, scenario.name)


def _tree(scenario: Scenario) -> dict[str, Any]:
    """The resolved scenario as its file would be read back."""
    return strict.parse_yaml(config.to_yaml(scenario), scenario.name)


def _is_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def _merged(text: str, sut: dict[str, Any]) -> dict[str, Any]:
    if "://" in text:
        return _by_url(text, sut)
    if _is_file(text):
        return _over(sut, _mapping(Path(text)))
    if text in venv.versions():
        return {
            **{key: value for key, value in sut.items() if key not in OUTSIDE},
            "url": None,
            "dynamo": text,
        }
    known = ", ".join(venv.versions())
    raise UsageError(
        f"{text!r} is no system: name a Dynamo version ({known}), a *.yaml file that changes `sut:`, a URL, "
        f"or `{BASELINE}`"
    )


def _mapping(path: Path) -> dict[str, Any]:
    """The file's mapping, with or without `sut:` around it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read ({error}); name a YAML file that changes `sut:`") from None
    tree = strict.parse_yaml(text, str(path))
    inner = tree.get("sut", tree) if set(tree) == {"sut"} else tree
    if not isinstance(inner, dict):
        raise ScenarioError(str(path), "sut", f"must be a mapping, got {inner!r}", "write keys of `sut:`")
    return inner


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`: mappings key by key, all else replaced. A URL ends a version and the reverse."""
    merged = dict(base)
    if changes.get("url") is not None:
        merged["dynamo"] = None
    if changes.get("dynamo") is not None:
        merged = {key: value for key, value in merged.items() if key not in OUTSIDE} | {"url": None}
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _by_url(url: str, sut: dict[str, Any]) -> dict[str, Any]:
    """An outside system as the scenario describes it, or one whose only model is asked for."""
    if sut.get("url") is not None:
        return {**sut, "url": url}
    return {"url": url, "model": outside.only_model(url), "oracle": "count"}
