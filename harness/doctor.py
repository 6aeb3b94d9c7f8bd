"""`squall doctor`: what this machine can do, what is missing, and the command that brings it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from harness.core import netns, proc, rundir
from harness.core.errors import UsageError
from harness.platforms import local, network
from harness.sut import planes, venv


class Check(NamedTuple):
    """One line: `level` ok, missing (something can't be done) or absent (only some things need it)."""

    level: str
    name: str
    text: str


def checks() -> list[Check]:
    """All checks; a network namespace is made and removed again, nothing else is changed."""
    ours = [_python(), _kernel(), *_dynamo(), *_generator()]
    return [*ours, *_network(), *_servers(), _cgroups(), _browser(), _room()]


def show(say: Callable[[str], None]) -> int:
    """Print them; 0 when a local run is possible, else 2."""
    found = checks()
    for check in found:
        say(f"{check.level:<8} {check.name:<22} {check.text}")
    missing = [check.name for check in found if check.level == "missing"]
    say("")
    say(
        "a local run is possible" if not missing else f"a local run is not possible: fix {', '.join(missing)}"
    )
    return 2 if missing else 0


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("ok" if ok else "missing", "python", f"{platform.python_version()} (3.11 or later)")


def _kernel() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return Check("missing", "kernel", f"{platform.release()}: no pidfd ({error.strerror}); 5.4 or later")
    return Check("ok", "kernel", f"{platform.release()}, pidfd (signals never hit a reused pid)")


def _dynamo() -> list[Check]:
    found = []
    for version in venv.versions():
        try:
            found.append(Check("ok", f"dynamo {version}", str(venv.python(version))))
        except UsageError as error:
            found.append(Check("absent", f"dynamo {version}", str(error)))
    if not any(check.level == "ok" for check in found):
        found.append(Check("missing", "dynamo", "no version is installed: `make demo`"))
    return found


def _generator() -> list[Check]:
    from harness.traffic import stamps
    from harness.traffic.reactor import native

    warm_up = stamps.WarmUp()
    stamped = warm_up.available
    warm_up.close()
    why = native.why_not()
    engine = f"auto = hub (pure Python): {why}" if why else "auto = reactor (compiled); hub is there too"
    text = "by the kernel" if stamped else "not given here: times come from user space, some ms worse"
    return [
        Check("absent" if why else "ok", "client engine", engine),
        Check("ok" if stamped else "absent", "receive timestamps", text),
    ]


def _network() -> list[Check]:
    root = os.geteuid() == 0
    found = [
        Check(
            "ok" if root else "absent",
            "root",
            "yes" if root else "no: `platform: netns` and faults on its network need it (sudo)",
        ),
        _namespaces(),
    ]
    for command, package, use in (
        ("ip", "iproute2", "platform netns"), ("nsenter", "util-linux", "platform netns"), ("nft", "nftables", "partitions, loss"), ("tc", "iproute2", "bandwidth, delay"), ("ss", "iproute2", "resets of live connections"),
    ):  # fmt: skip
        where = shutil.which(command, path=proc.SYSTEM_PATH)
        text = f"{where} ({use})" if where else f"only for {use}: apt-get install {package}"
        found.append(Check("ok" if where else "absent", command, text))
    return [*found, *_queues()]


def _queues() -> list[Check]:
    """What the kernel can do to the packets of a host, tried on one made for it."""
    why = network.refusal()
    try:
        there = frozenset() if why else network.kernel_queues()
    except OSError as error:
        why, there = str(error), frozenset()
    found = []
    for kind, use in (
        ("htb", "network.bandwidth, for packets to the peers only"), ("tbf", "network.bandwidth, if there is no htb"),
        ("netem", "network.delay, which is refused without it"),
    ):  # fmt: skip
        lacking = why or "not in this kernel, which needs the module sch_" + kind
        found.append(Check("ok", kind, use) if kind in there else Check("absent", kind, f"{lacking} ({use})"))
    return found


def _cgroups() -> Check:
    found = local.cgroups() or {}
    there = [f"{one.controller} (v{one.version}, {one.mount})" for one in found.values()]
    lacking = [name for name in ("cpu", "memory") if name not in found]
    text = ", ".join(there) + (
        f"{'; ' if there else ''}no {' and no '.join(lacking)}: needs root" if lacking else ""
    )
    return Check("absent" if lacking else "ok", "cgroups", f"{text} (process.slow, process.memory)")


def _namespaces() -> Check:
    why = netns.trial()
    return Check(
        "absent" if why else "ok", "network namespaces", why or "one with a bridge was made and removed"
    )


def _servers() -> list[Check]:
    found = []
    for role, use in (("etcd", "`discovery: etcd`"), ("nats", "`request_plane: nats`")):
        command, package = planes.SERVERS[role]
        where = planes.find(command)
        text = f"{where} ({use})" if where else f"only for {use}: apt-get install {package}"
        found.append(Check("ok" if where else "absent", command, text))
    return found


def _browser() -> Check:
    where = shutil.which("chromium")
    return Check("ok" if where else "absent", "chromium", where or "only for the report's own tests")


def _room() -> Check:
    root = rundir.project_root()
    free_gib = shutil.disk_usage(root).free / 2**30
    level = "ok" if free_gib > 2 else "missing"
    return Check(level, "disk", f"{free_gib:.0f} GiB free at the project (2 GiB needed)")
