"""What a system says of itself right now: requests queued, KV use and streams of its engines.

Asked for on demand, for conditions that a fault waits for. A process that doesn't answer, or whose page
lacks the gauge, adds nothing; when none has it the value is unknown (None), never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException

from harness.collect import scrape
from harness.core import fetch
from harness.core.config import When
from harness.core.sutfile import SutState

QUEUED = ("dynamo_frontend_queued_requests",)
KV_USE = (
    "dynamo_component_gpu_cache_usage_percent",
    "vllm:kv_cache_usage_perc",
    "trtllm:kv_cache_usage_perc",
)
"""Ratios, whatever their names say: 1 = full."""
STREAMS = ("dynamo_component_inflight_requests",)
SERVING = ("dynamo_endpoint", "generate")  # a worker's other endpoints serve no streams
TIMEOUT_S = 0.5


def value(when: When, state: SutState, targets: Sequence[str], headers: Mapping[str, str]) -> float | None:
    """What the condition counts, now; None: nobody said. Takes at most TIMEOUT_S for each page.

    queued: the sum over all frontends. kv_use, streams: the highest among `targets`.
    """
    if when.queued is not None:
        pages = [p.metrics for p in state.role("frontend")] or state.metrics
        return _sum([_read(page, QUEUED, headers) for page in pages])
    names = STREAMS if when.on_target else KV_USE
    found = [_read(p.metrics, names, headers) for p in state.processes if p.name in targets]
    each = [_sum([one]) if when.on_target else max(one, default=None) for one in found]
    return max((one for one in each if one is not None), default=None)


def parse(text: str, names: Sequence[str]) -> Iterator[float]:
    """Values of the gauges `names` on a page. Raises ValueError when their lines are no exposition text."""
    lines = [line for line in text.splitlines() if line.startswith(tuple(names))]
    for sample in scrape.parse("\n".join(lines), "", 0, {}):
        labels = sample.labels
        if sample.metric in names and (f'"{SERVING[0]}":' not in labels or f'"{SERVING[1]}"' in labels):
            yield sample.value


def _read(url: str | None, names: Sequence[str], headers: Mapping[str, str]) -> list[float]:
    if not url:
        return []
    try:
        answer = fetch.get(url, headers, TIMEOUT_S)
        return list(parse(answer.body.decode(), names)) if answer.status == 200 else []
    except (OSError, HTTPException, ValueError):  # no page is no value
        return []


def _sum(pages: Sequence[Sequence[float]]) -> float | None:
    values = [one for page in pages for one in page]
    return sum(values) if values else None
