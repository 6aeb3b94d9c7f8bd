"""Numbers and states as a reader wants them: three significant digits, the unit, `unknown` for None.

Shared by the HTML and the Markdown renderer. Knows no markup and escapes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

UNKNOWN = "unknown"

STATUS_WORDS = {
    "pass": "PASS",
    "improvement": "PASS, BETTER",
    "fail": "FAIL",
    "regression": "REGRESSION",
    "inconclusive": "INCONCLUSIVE",
    "invalid": "INVALID",
}
EXIT_WORDS = {
    0: "pass",
    1: "broken invariant, failed gate or regression",
    2: "usage or scenario error",
    3: "inconclusive",
    4: "invalid run",
    5: "host or cluster not back as it was",
    130: "interrupted and cleaned up",
}
ACCOUNTS = "Tokens, by three accounts"
ACCOUNTS_ABOUT = (
    "Usage is the server's word; the witness read every word of the answers, and hidden are tokens that it made and no "
    "client is shown (marks around thoughts and calls, thoughts where a route keeps them); chunks are the events that "
    "brought output. Gaps are between chunks: where several tokens share one, a gap is not a token's time."
)
OUTCOME_WORDS = {
    "ok": "ok",
    "shed": "shed",
    "cancelled": "cancelled by us",
    "http_error": "HTTP error",
    "transport_error": "transport error",
    "stream_error": "stream error",
    "truncated": "truncated",
    "timed_out": "timed out",
    "corrupted": "corrupted",
}
FATE_WORDS = {
    "migrated_exact": "migrated, complete and exact",
    "finished_there": "finished where it was",
    "hit_again": "migrated, then ended by a later fault",
    "cut": "cut",
    "corrupted": "corrupted",
    "timed_out": "timed out",
    "cancelled": "cancelled by us",
    "shed": "shed",
    "lost": "lost",
}


def number(value: float | None, digits: int = 3) -> str:
    """`value` with about three significant digits and thousands separated by commas."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:,.{min(places, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def migrated(times: Mapping[str, int]) -> str:
    """How often streams migrated: `1 time: 7, 2 times: 3`."""
    parts = [
        f"{'never' if n == '0' else '1 time' if n == '1' else f'{n} times'}: {many:,}"
        for n, many in times.items()
    ]
    return ", ".join(parts) or UNKNOWN


def count(value: int | None) -> str:
    """A count with thousands separated."""
    return UNKNOWN if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """Seconds with their unit: two decimals, or one from 100 s on."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "never"
    return f"{value:,.1f} s" if abs(value) >= 100 else f"{value:.2f} s"


def percent(ratio: float | None) -> str:
    """A ratio as a percentage."""
    if ratio is None or math.isnan(ratio):
        return UNKNOWN
    return f"{number(ratio * 100)}%"


def signed_percent(ratio: float | None) -> str:
    """A change as a percentage with its sign; one decimal is enough for noise."""
    if ratio is None or math.isnan(ratio):
        return UNKNOWN
    return f"{ratio:+,.1%}" if abs(ratio) < 10 else f"{ratio:+,.0%}"


def quantity(value: float | None, unit: str) -> str:
    """`value` with its unit; ratios as percentages."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if unit == "ratio":
        return percent(value)
    if unit == "s":
        return seconds(value)
    plain = number(value)
    return f"{plain} {unit}" if unit and unit != "count" else plain


def status(word: str) -> str:
    """The verdict in one big word."""
    return STATUS_WORDS.get(word, word.upper())


def exit_meaning(code: int | None) -> str:
    """What an exit code says."""
    return EXIT_WORDS.get(code, "unknown code") if code is not None else UNKNOWN


def judged(ok: bool | None, yes: str = "ok", no: str = "failed") -> str:
    """A check's result as a word."""
    return UNKNOWN if ok is None else (yes if ok else no)


def shorten(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, with a mark where it was cut."""
    return text if len(text) <= limit else text[: max(0, limit - 1)].rstrip() + "…"


def and_more(total: int, shown: int) -> str:
    """` and N more` when a list was cut."""
    return f" and {total - shown:,} more" if total > shown else ""


def sentence(parts: list[str]) -> str:
    """`a; b; c.` with a capital first letter."""
    joined = "; ".join(parts)
    return joined[:1].upper() + joined[1:] + "." if joined else ""
