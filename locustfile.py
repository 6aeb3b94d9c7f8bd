"""squall for Locust: `locust -f locustfile.py --run-dir D` on a system that `squall up` started."""

from harness.plugin import register
from harness.traffic.users import CancellingUser, ChatUser, CompletionUser, ResponsesUser

__all__ = ["CancellingUser", "ChatUser", "CompletionUser", "ResponsesUser"]

register()
