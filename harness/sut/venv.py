"""Dynamo's own venvs: `.venvs/dynamo-<version>`, made by uv from configs/sut/<version>.lock.

Dynamo pins much that squall doesn't want, so the two never share a venv. A marker with the lock's
hash is written last: a venv without the right one is no venv. Knows nothing of processes of the SUT.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import uv

from harness.core import proc, rundir, strict
from harness.core.errors import ProvisionError, UsageError
from harness.sut import lock

INSTALL_TIMEOUT_S = 1800
MARKER = "squall-lock.sha256"


class VersionSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """configs/sut/<version>.yaml: how this version is installed and what is special about it."""

    schema: Literal[1]
    dynamo: str
    python: str
    requirements: list[str]
    overrides: list[str] = []
    env: dict[str, str] = {}
    features: dict[str, bool | int] = {}
    facts: list[str] = []


def versions() -> list[str]:
    """Dynamo versions that have a lock file."""
    return sorted(path.name.removesuffix(".lock") for path in _configs().glob("*.lock"))


def spec(version: str) -> VersionSpec:
    """What is known about a version. Raises UsageError for one without a lock file."""
    if version not in versions():
        known = ", ".join(versions())
        raise UsageError(f"sut.dynamo: no lock file for Dynamo {version!r}; configs/sut has {known}")
    path = _configs() / f"{version}.yaml"
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {version}.lock needs it beside it") from None
    return strict.convert(strict.parse_yaml(text, str(path)), VersionSpec, str(path))


def directory(version: str) -> Path:
    """Where the venv of a version is or will be."""
    return rundir.project_root() / ".venvs" / f"dynamo-{version}"


def python(version: str) -> Path:
    """The interpreter of a finished venv. Raises UsageError when missing or made from another lock."""
    spec(version)
    path = directory(version)
    state = _state(version)
    if state == "ready":
        return path / "bin" / "python"
    what = "is missing or unfinished" if state == "missing" else "was made from another lock file"
    raise UsageError(
        f"{path}: Dynamo {version}'s venv {what}; `make demo` makes it, `squall doctor` shows it"
    )


def ensure(version: str, say: Callable[[str], None]) -> Path:
    """The interpreter, after making the venv when needed (tens of seconds and network, once).

    Raises UsageError for an unknown version, ProvisionError with uv's last lines.
    """
    spec(version)
    path = directory(version)
    if _state(version) != "ready":
        with lock.held(path.parent / f".dynamo-{version}.lock"):
            if _state(version) != "ready":
                _make(version, path, say)
    return path / "bin" / "python"


def _configs() -> Path:
    return rundir.project_root() / "configs" / "sut"


def _lock_file(version: str) -> Path:
    return _configs() / f"{version}.lock"


def _lock_sha256(version: str) -> str:
    return hashlib.sha256(_lock_file(version).read_bytes()).hexdigest()


def _state(version: str) -> Literal["ready", "stale", "missing"]:
    path = directory(version)
    try:
        made_from = (path / MARKER).read_text().strip()
    except OSError:
        return "missing"
    if not (path / "bin" / "python").exists():  # a link: its base interpreter may be gone
        return "missing"
    return "ready" if made_from == _lock_sha256(version) else "stale"


def _make(version: str, path: Path, say: Callable[[str], None]) -> None:
    locked = _lock_file(version)
    digest = _lock_sha256(version)
    packages = sum("==" in line for line in locked.read_text().splitlines())
    say(f"making Dynamo {version}'s venv: {packages} packages from {locked.name} (once)")
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    _uv("venv", "--no-project", "--python", sys.executable, str(path))
    target = str(path / "bin" / "python")
    _uv("pip", "install", "--python", target, "--require-hashes", "--no-deps", "-r", str(locked))
    rundir.write_atomic(path / MARKER, f"{digest}\n".encode(), mode=0o644)
    say(f"Dynamo {version} is installed")


def _uv(*args: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = proc.run([uv.find_uv_bin(), *args], env=env, timeout_s=INSTALL_TIMEOUT_S)
    if done.code != 0:
        last = "\n".join((done.err or done.out).strip().splitlines()[-15:])
        raise ProvisionError(f"uv {' '.join(args[:2])} failed with exit code {done.code}:\n{last}")
