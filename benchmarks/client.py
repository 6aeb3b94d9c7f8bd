"""What a streamed token costs in CPU, client by client, beside a floor in C.

Every client gets the same streams from the same server, one after the other, interleaved, so that all meet
the same noise; minima count. `marginal` is what more requests cost (three rounds less one), so start-up is
not in it; it is shown apart. Others' tools run in venvs of their own and are skipped when uv can't make one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import errors, ground
from benchmarks.clients import answers
from benchmarks.ground import Load, Measured
from harness.core import proc, rundir
from harness.sut import model
from harness.traffic.reactor import native

REPEATS = int(os.environ.get("SQUALL_BENCH_REPEATS", "3"))
FEW, MANY = 1, 3  # requests a stream
LOAD = Load(streams=200, tokens=200, gap_ms=20.0)
VENVS = {"aiohttp": "aiohttp==3.14.5", "aiperf": "aiperf==0.13.0", "guidellm": "guidellm==0.8.1"}
URL = "http://127.0.0.1:{port}"

Argv = Callable[[Load, Path], Sequence[str]]


def _ours(engine: str) -> Argv:
    return lambda load, out: _python("ours", load, out, engine)


def _python(module: str, load: Load, out: Path, *more: str) -> list[str]:
    words = [URL, str(load.streams), str(load.rounds), str(load.tokens), str(out), *more]
    return [sys.executable, "-m", f"benchmarks.clients.{module}", *words]


def floor(mode: str) -> Argv:
    return lambda load, out: [
        str(out.parent / "floor"), "{port}", str(load.streams), str(load.rounds), str(out.with_suffix(".answers")), mode,
    ]  # fmt: skip


def _aiohttp(load: Load, out: Path) -> list[str]:
    argv = _python("aio", load, out)
    return [str(venv("aiohttp") / "bin" / "python"), str(ground.HERE / "clients" / "aio.py"), *argv[3:]]


def _aiperf(load: Load, out: Path) -> list[str]:
    return [
        str(venv("aiperf") / "bin" / "aiperf"), "profile", "--model", "m", "--url", URL, "--endpoint-type", "chat", "--streaming",
        "--concurrency", str(load.streams), "--request-count", str(load.streams * load.rounds),
        "--tokenizer", str(model.ensure(lambda _: None)), "--isl", "40",
        "--osl", str(load.tokens), "--ui", "none", "--artifact-dir", str(out),
    ]  # fmt: skip


def _guidellm(load: Load, out: Path) -> list[str]:
    return [
        str(venv("guidellm") / "bin" / "guidellm"), "run", "--backend", f"kind=openai_http,target={URL},model=m",
        "--profile", f"kind=concurrent,streams={load.streams}", "--constraint", f"kind=max_requests,count={load.streams * load.rounds}",
        "--data", f"kind=synthetic_text,prompt_tokens=40,output_tokens={load.tokens}",
        "--tokenizer", f"kind=huggingface_auto,model={model.ensure(lambda _: None)}",
        "--output", f"kind=json,path={out.with_suffix('.json')}", "--disable-console",
    ]  # fmt: skip


CLIENTS: dict[str, Argv] = {
    "floor (C, epoll, recv, clock)": floor("clock"),
    "floor, kernel stamps, 1 ms batches": floor("batch"),
    "squall, reactor": _ours("reactor"),
    "squall, hub": _ours("hub"),
    "Locust FastHttpUser, readline, json": lambda load, out: _python("locusts", load, out, "fasthttp"),
    "aiohttp, readline, json": _aiohttp,
    "Locust HttpUser (requests), iter_lines, json": lambda load, out: _python(
        "locusts", load, out, "requests"
    ),
    "AIPerf 0.13.0": _aiperf,
    "GuideLLM 0.8.1": _guidellm,
}
NEEDS = {"aiohttp, readline, json": "aiohttp", "AIPerf 0.13.0": "aiperf", "GuideLLM 0.8.1": "guidellm"}


def measure(place: Path) -> str:
    """The table, as text. SQUALL_BENCH_CLIENTS: words of the names of those to run, comma between."""
    why = ground.build(place)
    if why is not None:
        return f"skipped: {why}"
    chosen, lines = _chosen()
    few: dict[str, list[Measured]] = {name: [] for name in chosen}
    many: dict[str, list[Measured]] = {name: [] for name in chosen}
    wrong: dict[str, str] = {}
    for repeat in range(REPEATS):
        for name in chosen:
            if name in wrong:
                continue
            for rounds, into in ((FEW, few), (MANY, many)):
                load = replace(LOAD, rounds=rounds)
                out = place / f"out-{repeat}-{rounds}-{chosen.index(name)}"
                try:
                    into[name].append(ground.measure(place, load, CLIENTS[name](load, out)))
                except (RuntimeError, TimeoutError) as error:
                    wrong[name] = str(error)
    lines += [f"{name}: failed: {text}" for name, text in wrong.items()]
    return "\n".join([_heading(), *_rows([name for name in chosen if name not in wrong], few, many), *lines])


def _heading() -> str:
    return (
        f"{LOAD.streams} streams x {LOAD.gap_ms:g} ms, {LOAD.tokens} tokens an answer; CPU of the whole process tree, "
        f"minimum of {REPEATS} interleaved runs\n"
        f"{'client':<46} {'us a chunk, marginal':>20} {'x floor':>8} {'all in':>8} {'start-up s':>10}"
    )


def _rows(names: Sequence[str], few: dict[str, list[Measured]], many: dict[str, list[Measured]]) -> list[str]:
    rows, floor = [], 0.0
    more, all_chunks = LOAD.chunks * (MANY - FEW), LOAD.chunks * MANY
    for name in names:
        low, high = min(m.cpu_s for m in few[name]), min(m.cpu_s for m in many[name])
        marginal = (high - low) / more * 1e6
        floor = floor or marginal
        start_s = low - marginal * LOAD.chunks / 1e6
        rows.append(f"{name:<46} {marginal:>20.1f} {marginal / floor:>8.2f} {high / all_chunks * 1e6:>8.1f} {start_s:>10.2f}")  # fmt: skip
    return rows


def _chosen() -> tuple[list[str], list[str]]:
    """Whom to run, and why not the others."""
    words = [word for word in os.environ.get("SQUALL_BENCH_CLIENTS", "").split(",") if word]
    names, lines = [], []
    for name in CLIENTS:
        if words and not any(word in name for word in words):
            continue
        reason = native.why_not() if "reactor" in name else _missing(NEEDS[name]) if name in NEEDS else None
        if reason is None:
            names.append(name)
        else:
            lines.append(f"{name}: skipped: {reason}")
    return names, lines


def venv(name: str) -> Path:
    """Where a tool's own venv is."""
    return rundir.project_root() / ".cache" / "bench" / name


def _missing(name: str) -> str | None:
    """Make a tool's venv; why it can't be made."""
    path, uv = venv(name), str(Path(sys.executable).parent / "uv")
    stamp = path / VENVS[name]
    if stamp.exists():
        return None
    for argv in (
        [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(path)],
        [uv, "pip", "install", "-q", "--python", str(path / "bin" / "python"), VENVS[name]],
    ):
        done = proc.run(argv, timeout_s=900)
        if done.code:
            return f"{VENVS[name]} can't be installed: {done.err.strip()[-300:]}"
    stamp.touch()
    return None


def seen(name: str, out: Path, tokens: int) -> list[errors.Seen]:
    """What a client of ours or the floor noted."""
    if name.startswith("squall"):
        return errors.ours(out)
    path = out.with_suffix(".answers") if name.startswith("floor") else out / "answers"
    return errors.plain(answers.read(path), tokens)
