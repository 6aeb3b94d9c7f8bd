"""Words of `peers`: what they stand for, which may meet, and what is refused before a run."""

from __future__ import annotations

import pytest

from faults import peers

COUNTS = {"frontend": 1, "worker": 3, "etcd": 1}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("frontend", "frontend", True),
        ("frontend", "worker", False),
        ("frontend", ["worker-2", "frontend-1"], True),
        (["worker-1"], ["worker-2"], False),
        (["worker-1"], ["worker-1"], True),
        ("all", "etcd", True),
        ("control_plane", "etcd", True),
        ("control_plane", ["nats-1"], True),
        ("control_plane", ("frontend", "worker"), False),
    ],
)
def test_who_may_meet(first: str, second: str, same: bool) -> None:
    assert peers.meet(first, second) is same is peers.meet(second, first)


@pytest.mark.parametrize(
    "good", ["frontend", "worker", "etcd", "control_plane", "all", ["worker-2", "frontend-1"]]
)
def test_peers_that_are_there(good: str) -> None:
    assert peers.problem(good, ["worker-1"], COUNTS) is None


@pytest.mark.parametrize(
    ("bad", "targets", "counts", "said"),
    [
        ("nats", ["worker-1"], COUNTS, "no target has the role 'nats'; this system has etcd (1), frontend (1), worker (3)"),
        ("control_plane", ["worker-1"], {"worker": 2}, "no target has the role 'control_plane'"),
        (["worker-4"], ["worker-1"], COUNTS, "'worker-4' is not there"),
        (["worker-0"], ["worker-1"], COUNTS, "'worker-0' is not there"),
        (["worker-2"], ["worker-1", "worker-2"], COUNTS, "worker-2 is the target itself"),
        ("frontend", ["frontend-1"], COUNTS, "frontend is nobody but frontend-1 itself"),
        ("all", ["worker-1"], {"worker": 1}, "all is nobody but worker-1 itself"),
        ("control_plane", ["etcd-1"], COUNTS, "control_plane is nobody but etcd-1 itself"),
        ("gateway", ["worker-1"], {}, "this system has nobody"),
    ],
)  # fmt: skip
def test_peers_that_are_not(bad: str, targets: list[str], counts: dict[str, int], said: str) -> None:
    found = peers.problem(bad, targets, counts)
    assert found is not None and said in found[0] and found[1]


@pytest.mark.parametrize("bad", ["client", ["worker-1", "client"], [], ()])
def test_never_our_own_side(bad: str) -> None:
    with pytest.raises(ValueError):
        peers.named(bad)
