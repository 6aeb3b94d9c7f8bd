"""The witness engines' own account as a table: which worker made which part of which stream, and when.

Read by harness.collect.segments; here it moves to the run axis. A segment without an end is one whose
worker died, or that still ran when the file was read.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.collect import segments
from harness.core.rundir import RunDir

OPEN = np.iinfo(np.int64).max  # end of a segment that has none
_INTS = ("start_ns", "end_ns", "first", "length", "next", "let_in_ns", "running", "used")
COLUMNS = ["target", "request_id", *_INTS, "reason", "part"]
_PREFIXES = ("chatcmpl-", "cmpl-", "resp_")


def read(run: RunDir, mono_ns: int) -> pd.DataFrame | None:
    """All segments, by start; None when no engine kept any.

    end_ns is OPEN where no end was written. first: index of the first token it was to make. length: of
    the whole answer, -1 unknown. next: index after the last token that it made, -1 unknown. let_in_ns: when
    it left the engine's queue, OPEN never. running, used: what the engine held after it, -1 unknown. part: 0 for a stream's first segment, 1 for its first continuation, ...
    """
    found = segments.read(run)
    if found is None:
        return None
    rows = [
        (
            s.target, _stream_id(s.request_id), s.start_mono_ns - mono_ns,
            OPEN if s.end_mono_ns is None else s.end_mono_ns - mono_ns,
            s.first, _known(s.max_tokens), _known(s.next),
            OPEN if s.let_in_mono_ns is None else s.let_in_mono_ns - mono_ns,
            _known(s.running), _known(s.used), s.reason or "",
        )
        for s in found
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=COLUMNS[:-1])
    frame = frame.astype(dict.fromkeys(_INTS, "int64"))
    frame = frame.sort_values(["start_ns", "target", "request_id"], kind="stable", ignore_index=True)
    frame["part"] = frame.groupby("request_id", sort=False).cumcount()
    return frame


def _known(value: int | None) -> int:
    return -1 if value is None else value


def _stream_id(engine_id: str) -> str:
    """An engine's request id as the client sent it: without a frontend's prefix."""
    for prefix in _PREFIXES:
        if engine_id.startswith(prefix):
            return engine_id[len(prefix) :]
    return engine_id
