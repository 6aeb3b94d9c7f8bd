"""Hurt bins by hand and against brute force."""

from __future__ import annotations

import statistics
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from make_run import MS, NS, record, streams_of

from harness.stats.hurt import BIN_NS, bins_within, hurt, open_clients

SLO_MS = 500


def bins(*rows):
    found = hurt(streams_of(rows), SLO_MS, 100)
    return {int(k): int(n) for k, n in enumerate(found.clients) if n}


def test_nobody_is_hurt_by_a_good_stream():
    assert bins(record(1), record(2, outcome="cancelled")) == {}


def test_a_late_first_token_hurts_from_the_slo_until_it_comes():
    assert bins(record(1, ttft_ms=720)) == {15: 1, 16: 1, 17: 1}  # 1.5 to 1.72 s


def test_a_silence_hurts_once_it_is_a_second_old():
    row = record(1, ttft_ms=50, gaps_us=[20_000, 1_230_000])  # last byte 1.07; hurt 2.07 to 2.30
    assert bins(row) == {20: 1, 21: 1, 22: 1}


def test_slow_streams_get_five_times_their_median():
    row = record(1, ttft_ms=0, gaps_us=[400_000, 400_000, 2_150_000])  # limit 2 s: 1.8 + 2.0 to 1.8 + 2.15
    assert bins(row) == {38: 1, 39: 1}


def test_the_median_is_of_the_gaps_so_far_not_of_later_ones():
    row = record(1, ttft_ms=0, gaps_us=[1_150_000] + [2_000_000] * 3)
    # first gap: limit 1 s (none so far): hurt 2.0 to 2.15; then 5 x 1.15 s and more: never
    assert bins(row) == {20: 1, 21: 1}


def test_a_bad_end_hurts_in_its_bin():
    assert bins(record(1, outcome="shed", status=529, ttft_ms=None, gaps_us=[], t_end_ns=1_010 * MS)) == {
        10: 1
    }
    assert bins(record(1, outcome="corrupted", t_end_ns=1_200 * MS)) == {12: 1}


def test_one_request_counts_once_in_a_bin():
    row = record(
        1, ttft_ms=None, gaps_us=[], outcome="timed_out", t_end_ns=1_710 * MS
    )  # 1.5 to 1.71 and its end
    assert bins(row) == {15: 1, 16: 1, 17: 1}


def test_the_silence_before_the_end_counts():
    row = record(1, outcome="truncated", gaps_us=[20_000], t_end_ns=2_300 * MS)  # last 1.07: hurt 2.07 to 2.3
    assert bins(row) == {20: 1, 21: 1, 22: 1, 23: 1}


def test_a_user_that_left_waits_no_more():
    """A stalled or half-closed connection stays open: nobody is at its end."""
    away = {"outcome": "cancelled", "t_end_ns": 9 * NS}
    assert bins(record(1, **away, t_cancel_ns=1_200 * MS)) == {}
    assert bins(record(1, **away, ttft_ms=None, gaps_us=[], t_cancel_ns=1_620 * MS)) == {15: 1, 16: 1}
    late = record(1, **away, gaps_us=[20_000, 3_000_000], t_cancel_ns=2_150 * MS)  # last byte 1.07
    assert bins(late) == {20: 1, 21: 1}
    assert set(bins(record(1, **away))) == set(range(21, 90))  # without a cancel's time it counts to the end


def test_adjoining_windows_share_no_bin():
    low, high = bins_within((1_030 * MS, 2_060 * MS))
    again, _ = bins_within((2_060 * MS, 3 * NS))
    assert (low, high) == (10, 21)
    assert again == high


def test_open_clients():
    streams = streams_of(
        [record(0, t_start_ns=0, t_end_ns=250 * MS), record(1, t_start_ns=200 * MS, t_end_ns=200 * MS)]
    )
    assert open_clients(streams, 5).tolist() == [1, 1, 2, 0, 0]


def slow_truth(row):
    """The definition, instant by instant (1 ms)."""
    first = row.t_first_ns
    times = []
    if first is not None:
        times = [first]
        for gap in row.gaps_us:
            times.append(times[-1] + gap * 1000)
    hit = set()
    for t in range(row.t_start_ns, row.t_end_ns, MS):
        if first is None or t < first:
            sad = t - row.t_start_ns >= SLO_MS * MS
        else:
            seen = [x for x in times if x <= t]
            gaps = [(b - a) / 1e9 for a, b in pairwise(seen)]
            limit = max(1.0, 5 * statistics.median(gaps)) if gaps else 1.0
            sad = (t - seen[-1]) / 1e9 >= limit
        if sad:
            hit.add(t // BIN_NS)
    if row.outcome not in ("ok", "cancelled"):
        hit.add(row.t_end_ns // BIN_NS)
    return hit


one = st.builds(
    dict,
    start=st.integers(0, 3000),
    ttft=st.one_of(st.none(), st.integers(0, 1500)),
    gaps=st.lists(st.sampled_from([2, 50, 300, 900, 1300, 2600]), max_size=5),
    tail=st.integers(0, 2500),
    outcome=st.sampled_from(["ok", "cancelled", "shed", "timed_out", "stream_error"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(one, min_size=1, max_size=4))
def test_hurt_is_brute_force(specs):
    rows = []
    for n, spec in enumerate(specs):
        gaps = [] if spec["ttft"] is None else [g * 1000 for g in spec["gaps"]]
        last = spec["start"] + (spec["ttft"] or 0) + sum(gaps) // 1000
        rows.append(record(n, t_start_ns=spec["start"] * MS, ttft_ms=spec["ttft"], gaps_us=gaps,
                           t_end_ns=(last + spec["tail"]) * MS, outcome=spec["outcome"]))  # fmt: skip
    wanted: dict[int, int] = {}
    for row in rows:
        for k in slow_truth(row):
            wanted[k] = wanted.get(k, 0) + 1
    assert bins(*rows) == wanted
