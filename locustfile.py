"""squall for Locust: `locust -f locustfile.py --run-dir D` on a system that `squall up` started."""

from harness.plugin import register
from harness.traffic.open_loop import ArrivalUser
from harness.traffic.users import CancellingUser, ChatUser, CompletionUser, ResponsesUser

__all__ = ["ArrivalUser", "CancellingUser", "ChatUser", "CompletionUser", "ResponsesUser"]

register()
