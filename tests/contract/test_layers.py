"""The layer rule: imports point down, only the parts that may know Locust do, importing opens nothing.

A new top-level module gets its layer here, in LAYERS; without one the test fails.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS: dict[str, int] = {
    "harness.core": 0,
    "faults": 1,
    "harness.platforms": 2,
    "harness.sut": 2,
    "harness.collect": 3,
    "harness.stats": 3,
    "harness.traffic": 3,
    "harness.observer": 4,
    "harness.locust_process": 4,
    "harness.session": 4,
    "harness.faulting": 4,
    "harness.fleet": 4,
    "harness.generator": 4,
    "harness.member": 4,
    "harness.messages": 4,
    "harness.worker": 4,
    "harness.plugin": 4,
    "harness.webui": 4,
    "reports": 4,
    "harness.tune": 5,
    "harness.catalogue": 5,
    "harness.doctor": 5,
    "harness.preflight": 5,
    "harness.progress": 5,
    "harness.interrupt": 5,
    "harness.summary": 5,
    "harness.stages": 5,
    "harness.ab": 5,
    "harness.aiperf_in": 5,
    "harness.aiperf_out": 5,
    "harness.convert": 5,
    "harness.archives": 5,
    "harness.arms": 5,
    "harness.baseline": 5,
    "harness.comparing": 5,
    "harness.history": 5,
    "harness.otava": 5,
    "harness.speed": 5,
    "harness.cli": 5,
    "locustfile": 6,
}
LOCUST = {"locust", "gevent", "geventhttpclient", "requests", "greenlet", "zmq", "flask"}
MAY_KNOW_LOCUST = {
    "harness.traffic", "harness.session", "harness.plugin", "harness.webui", "harness.faulting",
    "harness.fleet", "harness.generator", "harness.worker", "locustfile",
}  # fmt: skip
STRANGERS = {  # who may not know whom, although the layers would allow it
    "harness.traffic": ("faults", "harness.platforms", "harness.stats"),
    "harness.platforms": ("faults.timeline", "faults.scheduler"),
    "harness.stats": ("harness.traffic", "harness.sut", "harness.platforms"),
    "harness.collect": ("harness.traffic", "harness.sut", "harness.platforms"),
    "reports": ("harness.traffic", "harness.sut", "harness.platforms", "harness.session", "harness.plugin"),
}
OPENERS = {
    "open", "fdopen", "socket", "create_connection", "create_server", "Popen", "spawn", "run", "Thread", "start",
    "Timer", "Lock", "RLock", "mkdir", "makedirs", "write_text", "write_bytes", "connect", "patch_all",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Our modules by dotted name."""
    paths = [path for top in ("harness", "faults", "reports") for path in (ROOT / top).rglob("*.py")]
    named = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}
    if (ROOT / "locustfile.py").exists():
        named["locustfile"] = ROOT / "locustfile.py"
    return named


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def part(name: str) -> str | None:
    """The entry of LAYERS that a module belongs to."""
    return next((p for p in LAYERS if within(name, p)), None)


def imports(tree: ast.AST, name: str, package: bool) -> Iterator[str]:
    """Dotted names of everything imported, at any depth of the file, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
        ):
            yield from (
                a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def import_faults(text: str, name: str, package: bool = False) -> list[str]:
    """What is wrong with the imports of a module."""
    own = part(name)
    if own is None:
        return [] if name in ("harness",) else [f"{name} has no layer: add it to LAYERS"]
    found = []
    for imported in imports(ast.parse(text), name, package):
        other = part(imported)
        top = imported.partition(".")[0]
        if other is not None and LAYERS[other] > LAYERS[own]:
            found.append(f"{name} (layer {LAYERS[own]}) imports {imported} (layer {LAYERS[other]})")
        if top in LOCUST and own not in MAY_KNOW_LOCUST:
            found.append(f"{name} imports {imported}: only {', '.join(sorted(MAY_KNOW_LOCUST))} may")
        if any(within(imported, stranger) for stranger in STRANGERS.get(own, ())):
            found.append(f"{name} imports {imported}, which it may not know")
        if top in ("tests", "benchmarks"):
            found.append(f"{name} imports {imported}")
    return found


def state_faults(text: str, name: str) -> list[str]:
    """Module-level state and side effects: mutable things with a variable's name, `global`, openers."""
    tree = ast.parse(text)
    found = [f"{name}:{n.lineno}: global" for n in ast.walk(tree) if isinstance(n, ast.Global)]
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            mutable = isinstance(
                node.value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp
            )
            names = [t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("__")]
            found += [f"{name}:{node.lineno}: {n} is mutable" for n in names if mutable and n != n.upper()]
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.With | ast.For):
            for call in (c for c in ast.walk(node) if isinstance(c, ast.Call)):
                called = ast.unparse(call.func).rpartition(".")[2]
                if called in OPENERS:
                    found.append(f"{name}:{node.lineno}: {called}() at import")
    return found


OURS = modules()


@pytest.mark.parametrize("name", sorted(OURS))
def test_imports_point_down(name: str) -> None:
    path = OURS[name]
    assert import_faults(path.read_text(), name, path.name == "__init__.py") == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_no_module_has_state_or_opens_anything(name: str) -> None:
    assert state_faults(OURS[name].read_text(), name) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("harness.core.bad", "import faults.process"),
        ("harness.core.bad", "from harness import stats"),
        ("harness.core.bad", "def f():\n    from harness.cli import main"),
        ("harness.core.bad", "if TYPE_CHECKING:\n    import harness.sut.launch"),
        ("harness.core.bad", "from ..stats import windows"),
        ("harness.core.bad", "import importlib\nimportlib.import_module('harness.stats')"),
        ("faults.bad", "import harness.platforms.local"),
        ("faults.bad", "from gevent import sleep"),
        ("harness.stats.bad", "import locust.env"),
        ("harness.stats.bad", "from harness.traffic import sse"),
        ("harness.collect.bad", "import requests"),
        ("harness.traffic.bad", "from faults.journal import Journal"),
        ("harness.platforms.bad", "from faults import scheduler"),
        ("harness.session", "import harness.stages"),
        ("reports.bad", "import gevent"),
        ("reports.bad", "from tests.unit import x"),
        ("harness.unheard_of", "import os"),
    ],
)
def test_a_bad_module_is_refused(name: str, text: str) -> None:
    """Negative control."""
    assert import_faults(text, name)


def test_a_good_module_is_not_refused() -> None:
    assert (
        import_faults(
            "import os\nfrom harness.core import clock\nfrom . import windows", "harness.stats.good"
        )
        == []
    )
    assert import_faults("from locust import events\nimport gevent", "harness.plugin") == []
    assert import_faults("from .cli import main", "harness", package=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "cache = {}",
        "_seen: set[str] = {1}",
        "def f():\n    global x\n    x = 1",
        "LOG = open('x')",
        "LOG = Path('x').open()",
        "threading.Thread(target=f).start()",
        "S = socket.socket()",
        "_LOCK = threading.Lock()",
    ],
)
def test_state_and_side_effects_are_refused(text: str) -> None:
    """Negative control."""
    assert state_faults(text, "bad")


def test_constants_are_no_state() -> None:
    text = "X = {'a': 1}\n_Y: list[int] = [1]\n__all__ = ['X']\nlog = logging.getLogger(__name__)\ndef f():\n    open('x')\n"
    assert state_faults(text, "good") == []


def test_importing_opens_no_file_and_starts_no_thread() -> None:
    """The real thing, for every module that doesn't know Locust: same descriptors, one thread."""
    names = [
        n
        for n in sorted(OURS)
        if part(n) and part(n) not in MAY_KNOW_LOCUST and not n.startswith("harness.sut.witness")
    ]
    names = [
        n
        for n in names
        if not any(part(i) in MAY_KNOW_LOCUST for i in imports(ast.parse(OURS[n].read_text()), n, False))
    ]
    names = [n for n in names if part(n) != "harness.cli"]
    script = (
        "import importlib, os, sys, threading\n"
        "def there(): return set(os.listdir('/proc/self/fd')), {t.name for t in threading.enumerate()}\n"
        "for third in ('msgspec','yaml','numpy','pandas','pyarrow.parquet','bokeh.plotting','jinja2','prometheus_client.parser'):\n"
        "    importlib.import_module(third)\n"
        "before = there()\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert there() == before, (name, there(), before)\n"
        "assert not {'locust', 'gevent'} & set(sys.modules), 'locust came in'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
