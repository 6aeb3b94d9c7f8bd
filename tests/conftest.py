"""Markers probe instead of hide: a test whose part is missing skips with the reason, and
REQUIRE=sut,browser turns that skip into a failure, so that no lane goes green by skipping."""

from __future__ import annotations

import functools
import os
import shutil

import pytest
from hypothesis import settings

from harness.core import netns, proc
from harness.core.errors import UsageError
from harness.platforms import local, network
from harness.sut import planes, venv
from harness.traffic.reactor import native

settings.register_profile("squall", deadline=None)  # nothing in these tests is judged by a clock
settings.load_profile("squall")


@functools.cache
def missing(marker: str) -> str | None:
    """Why tests with this marker can't run here, None when they can."""
    if marker == "sut":
        try:
            for version in venv.versions():
                venv.python(version)
        except UsageError as error:
            return str(error)
    if marker == "cgroup" and set(local.cgroups() or ()) != {"cpu", "memory"}:
        return "needs root, and a cgroup hierarchy with cpu and memory that it may write"
    if marker in planes.SERVERS and planes.find(planes.SERVERS[marker][0]) is None:
        return "`{}` is missing: apt-get install {}".format(*planes.SERVERS[marker])
    if marker == "browser" and not shutil.which("chromium"):
        return "chromium is missing: apt-get install chromium"
    if marker == "timens" and (why := clocks()):
        return why
    if marker == "netns" and not shutil.which("nft", path=proc.SYSTEM_PATH):
        return "nft is missing: apt-get install nftables"
    if marker == "netns" and (why := netns.trial()):
        return f"network namespaces: {why}"
    if marker == "reactor":
        return native.why_not()
    if marker == "netem" and "netem" not in network.offers():
        return "netem is not in this kernel (or there are no network namespaces)"
    return None


def clocks() -> str | None:
    """Why no process can have a clock of its own here, None when it can."""
    try:
        done = proc.run(["unshare", "--time", "--monotonic", "1000", "--", "true"])
    except FileNotFoundError:
        return "unshare is missing: apt-get install util-linux"
    return f"time namespaces: {done.err.strip()}" if done.code else None


MARKERS = ("reactor", "sut", "browser", "timens", "netns", "netem", "cgroup", "etcd", "nats")


def need(marker: str) -> None:
    """Skip the test when what the marker stands for is missing; fail it when REQUIRE names it."""
    why = missing(marker)
    if why and marker in os.environ.get("REQUIRE", "").split(","):
        pytest.fail(f"REQUIRE={marker}: {why}", pytrace=False)
    if why:
        pytest.skip(why)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in MARKERS:
        if item.get_closest_marker(marker):
            need(marker)
