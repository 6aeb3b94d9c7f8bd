"""/metrics pages to samples. Reading them back is counters.py.

Kept: every counter, gauge and histogram (sum, count, buckets) of the SUT (dynamo_*, engines, GPU)
and process_*, under the page's own names. Left out: python_*, which says nothing about serving, and
*_created, which are times of birth, and values that are no number (NaN, infinity). A process that doesn't answer, or not completely, gives no rows:
nothing is ever filled in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

from harness.core import clock, fetch
from harness.core.records import Sample

PERIOD_NS = clock.NS
TIMEOUT_S = 1.0

Series = tuple[str, str]  # metric, canonical labels; ("", "") = a series that isn't kept
Cache = dict[str, Series]  # by the text before the value; a page's series hardly change


def scrape(process: str, url: str, headers: Mapping[str, str], cache: Cache) -> list[Sample]:
    """The page now; t_ns is CLOCK_MONOTONIC when the answer was complete. Empty when there was none."""
    try:
        answer = fetch.get(url, headers, TIMEOUT_S)
        t_ns = clock.now_ns()
        if answer.status != 200:
            return []
        return list(parse(answer.body.decode(), process, t_ns, cache))
    except (OSError, HTTPException, ValueError):  # half a page, or no exposition text, is no page
        return []


def parse(text: str, process: str, t_ns: int, cache: Cache) -> Iterator[Sample]:
    """Samples of an exposition text (format 0.0.4). Raises ValueError when it is none."""
    for line in (raw.strip(" \t\r") for raw in text.split("\n")):
        if not line or line[0] == "#":
            continue
        head, brace, tail = line.rpartition("}")
        if not brace:
            head, _, tail = line.replace("\t", " ").partition(" ")
        series = cache.get(head)
        if series is None:
            series = cache[head] = _series(head + brace)
        if series[0]:
            value, *_timestamp = tail.split() or [""]
            number = float(value)
            if math.isfinite(number):
                yield Sample(t_ns, process, *series, number)


def _series(text: str) -> Series:
    """Name and labels of one line's part before the value, by the Prometheus client's own parser."""
    try:
        [family] = text_string_to_metric_families(f"{text} 1\n")
        [(name, labels, *_)] = family.samples
    except IndexError as error:  # the parser's answer to some broken lines
        raise ValueError(f"no series: {text!r}") from error
    if name.startswith("python_") or name.endswith("_created"):
        return "", ""
    return name, canonical(labels)


def canonical(labels: Mapping[str, str]) -> str:
    """Labels as JSON with sorted keys and no spaces: equal labels are equal text."""
    return json.dumps(labels, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
