"""The wheel holds squall's own top-level names and nothing else: it is an application, not a library."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).resolve().parents[2]
OURS = {"harness", "faults", "reports", "configs", "locustfile.py"}


def foreign(names: list[str]) -> set[str]:
    """Top-level names that aren't ours."""
    return {
        top for name in names if not (top := name.split("/")[0]).endswith(".dist-info") and top not in OURS
    }


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_our_names(names: list[str]) -> None:
    assert foreign(names) == set()
    assert {name.split("/")[0] for name in names} >= OURS


def test_all_that_running_needs_is_inside(names: list[str]) -> None:
    for needed in (
        "configs/sut/1.6.1.lock", "configs/scenarios/quickstart.yaml", "harness/sut/witness/main.py", "harness/core/words.py",
    ):  # fmt: skip
        assert needed in names
    built = hatch_build.compiler() is not None
    assert ("harness/traffic/reactor/_native.abi3.so" in names) == built
    assert any(name.startswith("reports/templates/") for name in names)


def test_a_foreign_name_is_seen() -> None:
    assert foreign(["harness/a.py", "utils/b.py", "squall.dist-info/RECORD"]) == {"utils"}


def test_no_lock_file_names_an_address() -> None:
    for lock in [*ROOT.glob("configs/locks/*.lock"), *ROOT.glob("configs/sut/*.lock")]:
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text, f"{lock} holds an address"
