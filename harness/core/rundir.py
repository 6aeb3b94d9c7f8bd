"""The run directory: the only interface between the stages, and every file name in it.

Writes are atomic (temporary file, fsync, rename, fsync of the directory), mode 0600 because
sut.json and the journal hold control tokens.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import clock
from harness.core.errors import UsageError

SCHEMA = 1
DYING_NS = 2_000_000_000


def project_root() -> Path:
    """Where locustfile.py, configs/ and runs/ are."""
    return Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def scenario(self) -> Path:
        return self.path / "scenario.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def sut(self) -> Path:
        return self.path / "sut.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def samples_jsonl(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def probes_jsonl(self) -> Path:
        return self.path / "probes.jsonl"

    @property
    def requests(self) -> Path:
        return self.path / "requests.parquet"

    @property
    def samples(self) -> Path:
        return self.path / "samples.parquet"

    @property
    def probes(self) -> Path:
        return self.path / "probes.parquet"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def verdict(self) -> Path:
        return self.path / "verdict.json"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def report_html(self) -> Path:
        return self.report / "report.html"

    @property
    def report_md(self) -> Path:
        return self.report / "report.md"

    @property
    def report_json(self) -> Path:
        return self.report / "report.json"

    @property
    def report_junit(self) -> Path:
        return self.report / "junit.xml"

    @property
    def discovery(self) -> Path:
        """Where Dynamo's processes find each other (file discovery); removed with the system."""
        return self.path / "discovery"

    @property
    def restored(self) -> Path:
        """Written last: host as before. A run directory without it is unfinished."""
        return self.path / "restored"

    @property
    def lock(self) -> Path:
        """Locked by the process that runs this run, as long as it lives."""
        return self.path / "lock"

    def records(self, worker_index: int) -> Path:
        """Requests of one Locust process, JSON lines."""
        return self.path / f"records-{worker_index}.jsonl"

    def records_done(self, worker_index: int) -> Path:
        """Row count of records(n), written when that process has closed its file."""
        return self.path / f"records-{worker_index}.done"

    def segments(self, target: str) -> Path:
        """What a witness engine says it generated, JSON lines; the ledger of migrations."""
        return self.logs / f"{target}.segments.jsonl"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def create(path: Path) -> RunDir:
    """Make a new run directory (0700). Raises UsageError when it holds anything already."""
    try:
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path}: directory isn't empty; name another with --out, or remove it")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = RunDir(path.resolve())
        run.logs.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(
            f"{path}: can't be made a run directory: {error.strerror}; name another with --out"
        ) from None
    return run


@contextlib.contextmanager
def hold(run: RunDir) -> Iterator[None]:
    """Be the one process that works on this run; death ends it too. Raises UsageError when taken."""
    fd = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(run, fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _lock(run: RunDir, fd: int) -> None:
    """Take the lock. A holder that was just killed, or a child of it before its exec, keeps it for a moment."""
    end_ns = clock.now_ns() + DYING_NS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
        if (pid.isdigit() and Path(f"/proc/{pid}").exists()) or clock.now_ns() >= end_ns:
            raise UsageError(
                f"{run.path}: process {pid or 'unknown'} still works on this run; end it first: "
                f"kill -INT {pid or 'PID'}"
            )
        clock.sleep_s(0.02)


def held(run: RunDir) -> bool:
    """True while a process works on this run."""
    try:
        with hold(run):
            return False
    except UsageError:
        return True


def link_latest(run: RunDir) -> None:
    """Point `latest` beside the run at it."""
    link = run.path.parent / "latest"
    temporary = run.path.parent / f".latest-{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.path.name)
        temporary.replace(link)


def open_run(path: Path) -> RunDir:
    """An existing run directory. Raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such run directory; `ls runs` shows them")
    return RunDir(path.resolve())


def all_runs(runs: Path) -> list[RunDir]:
    """Run directories below `runs`, and below the experiments there, by name, so by time."""
    paths = [path for path in sorted(runs.iterdir()) if _directory(path)] if runs.is_dir() else []
    inside = [one for path in paths if (path / "experiment.json").exists() for one in sorted(path.iterdir())]
    found = [RunDir(path) for path in [*paths, *inside] if _directory(path)]
    return [run for run in found if run.manifest.exists()]


def _directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def unfinished(runs: Path) -> list[RunDir]:
    """Runs below `runs` that made something and never said that the host is as before."""
    return [run for run in all_runs(runs) if not run.restored.exists()]


def archive(runs: Path, scenario: str, fingerprint_class: str) -> Path:
    """The archive of noise for runs of one scenario on one kind of machine."""
    return runs / "archive" / scenario / fingerprint_class / "archive.parquet"


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader or a crash sees the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """fsync a directory, so that a new name in it survives a crash."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Atomic, sorted keys, two spaces."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), mode)


def read_json(path: Path) -> Any:
    """A JSON file. Raises UsageError naming the file when absent or torn."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; is this a run directory?") from None
    except ValueError as error:
        raise UsageError(f"{path}: no JSON ({error})") from None
