"""What a health page's body says: the one word in it, whoever wrote the page.

Dynamo: {"status": "healthy"}, NATS: {"status": "ok"}, etcd: {"health": "true"}. An HTTP status alone
says little: Dynamo's frontend answers 200 while it is "unhealthy".
"""

from __future__ import annotations

from typing import Any

GREEN = frozenset({"healthy", "ready", "live", "ok", "up"})
RED = frozenset(
    {"unhealthy", "notready", "not_ready", "starting", "draining", "unavailable", "down", "error"}
)
_ETCD = {"true": "healthy", "false": "unhealthy"}


def ready(body: Any) -> bool | None:
    """True or False by the body's word, None when it has none that is known."""
    if not isinstance(body, dict):
        return None
    status = body.get("status", _ETCD.get(str(body.get("health"))))
    word = status.lower() if isinstance(status, str) else None
    return True if word in GREEN else False if word in RED else None
