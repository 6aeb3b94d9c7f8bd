"""The observer: a plain process beside the load that probes every health URL and scrapes /metrics.

`python -m harness.collect.observe --run-dir D`. It prints `ready`; `scrape <label>` on stdin is
answered by `scraped <label>` when every process was asked; end of stdin means write everything and
exit 0. It follows sut.json (a restarted target has new URLs) and takes the anchor from
manifest.json. Signals don't end it: its parent does, or its parent's death. No gevent, no Locust.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from harness.collect import prober, scrape
from harness.collect.instances import Listed
from harness.collect.rowfile import RowFile
from harness.core import clock, rundir, sutfile
from harness.core.errors import Exit, UsageError
from harness.core.owners import Owners
from harness.core.records import Probe
from harness.core.rundir import RunDir
from harness.core.sutfile import SutState

LOOK_S = 0.2  # how often sut.json and manifest.json are looked at
LAST_WORDS_S = 1.2  # a probe or scrape in flight at the end still gets its second


class Source(NamedTuple):
    """A URL to watch and the process it speaks for."""

    process: str
    url: str


Job = Callable[[Source, threading.Event], None]


def health_urls(state: SutState) -> set[Source]:
    """Every health URL of the system, readiness and liveness."""
    named = {Source(p.name, url) for p in state.processes for url in (*p.health, *p.live)}
    return named | _outside(state.health, {s.url for s in named})


def metrics_urls(state: SutState) -> set[Source]:
    """Every /metrics of the system."""
    named = {Source(p.name, p.metrics) for p in state.processes if p.metrics}
    return named | _outside(state.metrics, {s.url for s in named})


def _outside(urls: Sequence[str], known: set[str]) -> set[Source]:
    """URLs that no named process owns are named by host and port."""
    return {Source(urlsplit(url).netloc.rpartition("@")[2], url) for url in urls if url not in known}


class Observer:
    """Threads for each URL, two files, and the system as sut.json last said it is."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._probes, self._samples = RowFile(run.probes_jsonl), RowFile(run.samples_jsonl)
        self._stop = threading.Event()
        self._threads: dict[tuple[str, Source], tuple[threading.Event, threading.Thread]] = {}
        self._caches: dict[Source, scrape.Cache] = {}
        self._owners = Owners()
        self._state: SutState | None = None
        self._headers: dict[str, str] = {}
        self._seen: object = None
        self._anchor_mono_ns: int | None = None
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Watch what sut.json names, from now on. Raises UsageError when it is absent or torn."""
        self._follow()
        if self._state is None:
            sutfile.load(self._run)  # says what is wrong with it
        self._read_anchor()
        self._keeper.start()

    def scrape_all(self) -> None:
        """Scrape every process once, now, side by side; at most scrape.TIMEOUT_S."""
        sources = metrics_urls(self._state) if self._state is not None else set()
        threads = [threading.Thread(target=self._scrape, args=(one,), daemon=True) for one in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(scrape.TIMEOUT_S + 0.5)

    def close(self) -> list[str]:
        """End all threads and write everything down; names of threads that had died, so rows are missing."""
        end_ns = clock.now_ns() + int(LAST_WORDS_S * clock.NS)
        threads = [self._keeper, *(thread for _, thread in self._threads.values())]
        dead = [thread.name for thread in threads if not thread.is_alive()]
        self._stop.set()
        self._keeper.join(LAST_WORDS_S)
        for stop, _ in self._threads.values():
            stop.set()
        for _, thread in self._threads.values():
            thread.join(max(0.0, (end_ns - clock.now_ns()) / clock.NS))
        self._read_anchor()
        self._flush()
        self._probes.close()
        self._samples.close()
        return dead

    def _keep(self) -> None:
        flush_ns = clock.now_ns() + clock.NS
        while not self._stop.wait(LOOK_S):
            self._follow()
            self._read_anchor()
            if clock.now_ns() >= flush_ns:
                flush_ns += clock.NS
                self._flush()

    def _flush(self) -> None:
        self._probes.flush(self._anchor_mono_ns)
        self._samples.flush(self._anchor_mono_ns)

    def _read_anchor(self) -> None:
        if self._anchor_mono_ns is None:
            try:
                anchor = rundir.read_json(self._run.manifest).get("anchor")
            except UsageError:
                return
            self._anchor_mono_ns = anchor and int(anchor["mono_ns"])

    def _follow(self) -> None:
        """Start and stop watching as sut.json changes; a torn or absent file changes nothing."""
        try:
            info = self._run.sut.stat()
            seen = (info.st_mtime_ns, info.st_ino, info.st_size)
            if seen == self._seen:
                return
            self._state = state = sutfile.load(self._run)
        except (OSError, UsageError):
            return
        self._seen = seen
        self._headers = headers(state.headers_env, os.environ)
        wanted: dict[tuple[str, Source], Job] = {
            **{("probe", one): self._probe_loop for one in health_urls(state)},
            **{("scrape", one): self._scrape_loop for one in metrics_urls(state)},
        }
        for gone in self._threads.keys() - wanted.keys():
            self._threads.pop(gone)[0].set()
        for new in wanted.keys() - self._threads.keys():
            stop = threading.Event()
            thread = threading.Thread(target=wanted[new], args=(new[1], stop), name=str(new), daemon=True)
            self._threads[new] = (stop, thread)
            thread.start()

    def _probe_loop(self, source: Source, stop: threading.Event) -> None:
        listed = Listed(source.process, self._owner)

        def emit(row: Probe, body: object) -> None:
            self._probes.add([row])
            self._samples.add(listed.changes(row.t_ns, body))

        prober.run(*source, self._headers, stop, emit)

    def _scrape_loop(self, source: Source, stop: threading.Event) -> None:
        due_ns = clock.now_ns()
        while not stop.is_set():
            self._scrape(source)
            now = clock.now_ns()
            due_ns += max(1, -(-(now - due_ns) // scrape.PERIOD_NS)) * scrape.PERIOD_NS
            stop.wait((due_ns - now) / clock.NS)

    def _scrape(self, source: Source) -> None:
        cache = self._caches.setdefault(source, {})
        self._samples.add(scrape.scrape(*source, self._headers, cache))

    def _owner(self, instance_id: str, transport: object) -> str | None:
        state = self._state
        return self._owners.name(state.processes, instance_id, transport, state.vantage) if state else None


def headers(names: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Header values from the environment variables that the scenario names; absent ones are left out."""
    return {header: environ[name] for header, name in names.items() if name in environ}


def main(argv: Sequence[str] | None = None) -> int:
    """Observe until stdin ends. Exit code 0; 2: the run directory has no system; 4: rows are missing."""
    parser = argparse.ArgumentParser(prog="harness.collect.observe", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run = RunDir(parser.parse_args(argv).run_dir)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    try:
        observer = Observer(run)
        observer.start()
    except (UsageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return Exit.USAGE
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more: as the end of stdin
        _serve(observer)
    dead = observer.close()
    if dead:
        sys.stderr.write(f"observer threads died, their rows are missing: {', '.join(dead)}\n")
    return Exit.INVALID if dead else Exit.PASS


def _serve(observer: Observer) -> None:
    """The line protocol, until stdin ends."""
    _answer("ready")
    for line in sys.stdin:
        verb, _, label = line.strip().partition(" ")
        if verb == "scrape":
            observer.scrape_all()
            _answer(f"scraped {label}")


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    os._exit(status)  # a thread may hang in a name look-up; everything is written
