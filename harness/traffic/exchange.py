"""One request and its answer as pieces with stamps; framing is read from them, meaning is not."""

from __future__ import annotations

from collections.abc import Callable

from harness.traffic import stamps
from harness.traffic.http1 import Response
from harness.traffic.pieces import Like, Pieces, Received
from harness.traffic.transcript import End, Part, Transcript

Watch = Callable[[int, bytes], bool]


class Exchange:
    """One request and what came of it. Times are CLOCK_MONOTONIC ns."""

    __slots__ = (
        "after_send", "ahead", "bodies", "cancel_mode", "cancel_ns", "end", "end_ns", "error", "fed", "offset_end_ns", "offset_start_ns", "pieces",
        "request", "response", "sent_ns", "stall_ns", "start_ns", "watch",
    )  # fmt: skip

    def __init__(self, request: bytes, watch: Watch | None = None, cancel_mode: str = "rst") -> None:
        self.request = request
        self.watch = watch  # sees each part of the body at once; True = cancel now, by cancel_mode
        self.ahead: Callable[[], Like | None] | None = None  # the events for which `watch` will be False
        self.cancel_mode = cancel_mode
        self.stall_ns = 0  # how long a half-closed or stalled connection stays open
        self.cancel_ns: int | None = None
        self.start_ns = 0
        self.end_ns = 0
        self.end: End | None = None
        self.error: str | None = None
        self.after_send: Callable[[], None] | None = None  # called once, while the answer is on its way
        self.offset_start_ns = self.offset_end_ns = 0
        self.reset()

    def reset(self) -> None:
        """Forget an answer's pieces."""
        self.pieces: Received = Pieces()  # the receiver's
        self.bodies: list[Part] = []
        self.response = Response()
        self.fed = 0  # pieces that the framing has seen
        self.sent_ns = 0
        self.end, self.error = None, None

    def frame(self) -> bool:
        """Read the framing of the pieces since the last call; True when no more is wanted."""
        pieces, response, index = self.pieces, self.response, self.fed
        while index < len(pieces):
            if self.watch is None and response.between_chunks and (whole := pieces.whole(index)):
                self.bodies.append((index, whole))
                index += whole
                continue
            body = response.feed(pieces[index][1])
            index += 1
            if body:
                self.bodies.append((index - 1, body))
                if self.watch is not None and self.watch(index - 1, body):
                    self.fed = index
                    return True
        self.fed = index
        return response.complete or response.error is not None

    def over_ns(self) -> int:
        """When the answer was over: the last byte's arrival when it is complete, else our time."""
        if self.end != "complete":
            return self.end_ns
        return stamps.resolve([self.pieces[-1]], self.start_ns, self.offset_start_ns, self.offset_end_ns)[0]

    def transcript(self) -> Transcript:
        """What the oracle reads; call it when the exchange is over."""
        response = self.response
        times = self.pieces.times(self.start_ns, self.offset_start_ns, self.offset_end_ns)
        return Transcript(
            start_ns=self.start_ns,
            end_ns=self.over_ns(),
            end=self.end or "drain",
            status=response.status if response.head_complete else 0,
            content_type=response.header("content-type"),
            content_encoding=response.header("content-encoding"),
            bodies=self.bodies,
            times=times,
            error=self.error,
            body_complete=response.complete,
            cancel_ns=self.cancel_ns,
            pieces=self.pieces,
        )
