"""The compiled engine under AddressSanitizer and UndefinedBehaviorSanitizer: its own tests, again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build
from harness.traffic.reactor.native import BUILD_ENV

pytestmark = [pytest.mark.reactor, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[3]
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")  # fmt: skip
FILES = ("reactor", "hub", "cancel", "client", "unary")
FAULTS = {
    "heap-buffer-overflow": "char *a = malloc(n); a[n] = 1; int b = a[n]; free(a); return b;",
    "signed integer overflow": "return n + 2147483647;",
}


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """In which Python runs with the sanitizers' library."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    libraries = []
    for name in ("libasan.so", "libstdc++.so"):  # the latter for greenlet's exceptions
        named = subprocess.run([gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        library = Path(named.stdout.strip())
        if not library.is_absolute():
            pytest.skip(f"gcc has no {name}")
        libraries.append(str(library.resolve()))
    return {
        **os.environ, "LD_PRELOAD": " ".join(libraries), "PYTHONMALLOC": "malloc", "UBSAN_OPTIONS": "print_stacktrace=1",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0:exitcode=99",
    }  # fmt: skip


@pytest.mark.parametrize("seen", FAULTS)
def test_what_the_sanitizers_see_ends_the_process(
    environment: dict[str, str], tmp_path: Path, seen: str
) -> None:
    source, library = tmp_path / "fault.c", tmp_path / "fault.so"
    source.write_text(f"#include <stdlib.h>\nint fault(int n) {{ {FAULTS[seen]} }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", *FLAGS, str(source), "-o", str(library)], check=True)
    code = f"import ctypes; ctypes.CDLL({str(library)!r}).fault(8)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode != 0 and seen in done.stderr


def test_the_reactor_is_clean(environment: dict[str, str], tmp_path: Path) -> None:
    library = tmp_path / hatch_build.NAME
    assert hatch_build.build(ROOT, library, FLAGS) is None
    tests = [str(ROOT / f"tests/unit/traffic/test_traffic_{name}.py") for name in FILES]
    wanted = "reactor and not stalled and not timed"  # which race a clock that the sanitizers slow down
    argv = [sys.executable, "-m", "pytest", "-q", "-k", wanted, *tests]
    log = f":log_path={tmp_path / 'report'}"  # pytest takes the error output of its tests
    env = {name: text + log if name.endswith("SAN_OPTIONS") else text for name, text in environment.items()}
    done = subprocess.run(argv, env={**env, BUILD_ENV: str(library)}, cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    reports = [path.read_text() for path in tmp_path.glob("report*")]
    assert (reports, done.returncode) == ([], 0), done.stdout[-4000:]
