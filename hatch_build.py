"""Builds the reactor where there is a C compiler; without one the application is complete but for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("harness", "traffic", "reactor")
NAME = "_native.abi3.so"
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wno-cast-function-type", "-shared", "-fPIC", "-pthread")


def compiler() -> str | None:
    """$CC, cc or gcc, whichever is there."""
    wanted = [os.environ.get("CC", ""), "cc", "gcc"]
    return next((found for name in wanted if name and (found := shutil.which(name))), None)


def build(root: Path, out: Path, flags: tuple[str, ...] = ("-O2",)) -> str | None:
    """Compile to `out`; why it isn't there, None when it is."""
    cc = compiler()
    if cc is None:
        return "no C compiler (cc or gcc)"
    include = sysconfig.get_paths()["include"]
    if not Path(include, "Python.h").exists():
        return f"no Python.h in {include}"
    sources = [str(path) for path in sorted((root / SOURCES).glob("*.c"))]
    fresh = out.with_name(f"{out.name}.{os.getpid()}")  # never overwrite what a process has mapped
    argv = [cc, *FLAGS, *flags, f"-I{include}", *sources, "-o", str(fresh)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        fresh.unlink(missing_ok=True)
        return f"{cc} failed: {done.stderr.strip()[-2000:]}"
    fresh.replace(out)
    return None


class CustomBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for a wheel and for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        root = Path(self.root)
        why = build(root, root / SOURCES / NAME)
        if why is not None:
            (root / SOURCES / NAME).unlink(missing_ok=True)
            self.app.display_warning(f"the reactor is left out, auto takes the hub engine: {why}")
            return
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/{SOURCES / NAME}")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
