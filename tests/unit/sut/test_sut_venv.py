"""Lock files, and venvs that exist only when they are finished."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from harness.core import rundir
from harness.core.errors import ProvisionError, UsageError
from harness.sut import venv

CONFIGS = rundir.project_root() / "configs" / "sut"
SPEC = 'schema: 1\ndynamo: "0.0.1"\npython: "3.11"\nrequirements: []\n'


@pytest.mark.parametrize("version", ["1.6.1", "1.4.2"])
def test_locks_have_hashes_and_no_addresses(version: str) -> None:
    text = (CONFIGS / f"{version}.lock").read_text()
    packages = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)
    pinned = [p for p in packages if p.strip()]
    assert len(pinned) > 40
    assert all(re.match(r"[a-z0-9._-]+==\S+", p) and "--hash=sha256:" in p for p in pinned)
    assert any(p.startswith(f"ai-dynamo=={version} ") for p in pinned)
    for word in ("://", "--index", "--find-links", "file:", "#", "@ "):
        assert word not in text


@pytest.mark.parametrize("version", ["1.6.1", "1.4.2"])
def test_every_version_has_its_page(version: str) -> None:
    spec = venv.spec(version)
    assert spec.dynamo == version
    assert spec.requirements == [f"ai-dynamo=={version}"]
    assert "DYN_TCP_RESPONSE_STREAM_HOST" in spec.env


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own with a version 0.0.1 that needs no packages."""
    monkeypatch.setattr(rundir, "project_root", lambda: tmp_path)
    configs = tmp_path / "configs" / "sut"
    configs.mkdir(parents=True)
    (configs / "0.0.1.yaml").write_text(SPEC)
    (configs / "0.0.1.lock").write_text("")
    return tmp_path


def test_unknown_version_names_the_known_ones(project: Path) -> None:
    with pytest.raises(UsageError, match=r"'9\.9\.9'; configs/sut has 0\.0\.1"):
        venv.python("9.9.9")


def test_a_missing_venv_is_a_usage_error_with_a_remedy(project: Path) -> None:
    with pytest.raises(UsageError, match="is missing or unfinished; `make demo` makes it"):
        venv.python("0.0.1")


def test_ensure_makes_it_once_and_again_after_the_lock_changed(project: Path) -> None:
    said: list[str] = []
    made = venv.ensure("0.0.1", said.append)
    assert made == venv.python("0.0.1")
    assert made.exists()
    assert len(said) == 2
    venv.ensure("0.0.1", said.append)
    assert len(said) == 2
    (project / "configs" / "sut" / "0.0.1.lock").write_text("# newer\n")
    with pytest.raises(UsageError, match="another lock file"):
        venv.python("0.0.1")
    venv.ensure("0.0.1", said.append)
    assert len(said) == 4
    assert venv.python("0.0.1") == made


def test_two_at_once_make_it_once(project: Path) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=venv.ensure, args=("0.0.1", said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(line.startswith("making") for line in said) == 1
    assert venv.python("0.0.1").exists()


def test_an_unfinished_venv_is_none(project: Path) -> None:
    made = venv.ensure("0.0.1", lambda _line: None)
    (made.parent.parent / venv.MARKER).unlink()
    with pytest.raises(UsageError, match="unfinished"):
        venv.python("0.0.1")


def test_a_failing_install_shows_the_last_lines_and_leaves_no_venv(project: Path) -> None:
    (project / "configs" / "sut" / "0.0.1.lock").write_text("nothing-such==1.0\n")  # without its hash
    with pytest.raises(ProvisionError, match="uv pip install failed"):
        venv.ensure("0.0.1", lambda _line: None)
    with pytest.raises(UsageError, match="missing"):
        venv.python("0.0.1")
