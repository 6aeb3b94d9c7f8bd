"""Faults, their schedule, their journal and the ways to undo them. To add a fault: one file, one line."""

from __future__ import annotations

from faults import engine
from faults.control_plane import EtcdAll, EtcdLeader, EtcdMember, Nats
from faults.crashloop import Crashloop
from faults.drain import Terminate
from faults.limits import Memory, Slow
from faults.network import Loss, Partition, Reset
from faults.ports import Fault
from faults.process import Kill, Pause
from faults.shaping import Bandwidth, Delay

FAULTS: dict[str, type[Fault]] = {
    "process.kill": Kill,
    "process.terminate": Terminate,
    "process.pause": Pause,
    "process.crashloop": Crashloop,
    "process.slow": Slow,
    "process.memory": Memory,
    "network.partition": Partition,
    "network.loss": Loss,
    "network.reset": Reset,
    "network.bandwidth": Bandwidth,
    "network.delay": Delay,
    **engine.FAULTS,
    "control_plane.etcd_leader": EtcdLeader,
    "control_plane.etcd_member": EtcdMember,
    "control_plane.etcd_all": EtcdAll,
    "control_plane.nats": Nats,
}
