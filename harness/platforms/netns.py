"""The ports of faults on a system whose processes have hosts (network namespaces) of their own.

Their processes are this kernel's, so they are found, signalled and started again as local ones; the
namespace is in each one's argv. What only hosts can have joins here.
"""

from __future__ import annotations

from faults.ports import Ports
from harness.core.config import Scenario
from harness.core.rundir import RunDir
from harness.platforms import control_plane, engines, local, network
from harness.platforms.draining import DrainView


def ports(run: RunDir, recover_timeout_s: float) -> Ports:
    """What this platform offers to faults on the system in `run`."""
    there = network.NamespaceNetwork(run) if network.refusal() is None else None
    return Ports(
        local.LocalProcesses(run), recover_timeout_s, cgroups=local.cgroups(), network=there,
        engines=engines.of_run(run),
        control_plane=control_plane.of(run),
        drains=DrainView(run),
    )  # fmt: skip


def offers(scenario: Scenario) -> frozenset[str]:
    """Names of the ports that faults of this scenario will have."""
    return local.offers(scenario) | network.offers()
