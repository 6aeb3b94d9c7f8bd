"""Exposition text to samples: every kept series, its own name, canonical labels; broken pages give nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from metrics_server import Target, free_port, raw, serving

from harness.collect import scrape
from harness.core.records import Sample

PAGE = """\
# HELP dynamo_frontend_model_migration_total Migrations
# TYPE dynamo_frontend_model_migration_total counter
dynamo_frontend_model_migration_total{model="m",migration_type="ongoing_request"} 12
# TYPE dynamo_plain counter
dynamo_plain 3
# TYPE dynamo_component_uptime_seconds gauge
dynamo_component_uptime_seconds 1.5e1
# TYPE dynamo_h histogram
dynamo_h_bucket{le="0.1"} 1
dynamo_h_bucket{le="+Inf"} 2
dynamo_h_sum 0.25
dynamo_h_count 2
dynamo_h_created 1.7e9
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1690000000.5
python_gc_objects_collected_total{generation="0"} 77
python_info{version="3.11"} 1
vllm:num_requests_running{model_name="a b } c",x="q\\"\\\\\\n"} 4 1700000000000
nothing NaN
endless +Inf
"""


def parse(text: str) -> list[Sample]:
    return list(scrape.parse(text, "frontend-1", 5, {}))


def test_kept_series() -> None:
    rows = {(s.metric, s.labels): s.value for s in parse(PAGE)}
    assert rows == {
        ("dynamo_frontend_model_migration_total", '{"migration_type":"ongoing_request","model":"m"}'): 12,
        ("dynamo_plain", "{}"): 3,
        ("dynamo_component_uptime_seconds", "{}"): 15,
        ("dynamo_h_bucket", '{"le":"0.1"}'): 1,
        ("dynamo_h_bucket", '{"le":"+Inf"}'): 2,
        ("dynamo_h_sum", "{}"): 0.25,
        ("dynamo_h_count", "{}"): 2,
        ("process_start_time_seconds", "{}"): 1690000000.5,
        ("vllm:num_requests_running", '{"model_name":"a b } c","x":"q\\"\\\\\\n"}'): 4,
    }
    assert all(s.process == "frontend-1" and s.t_ns == 5 for s in parse(PAGE))


def test_labels_in_any_order_are_one_text() -> None:
    [a], [b] = parse('m{a="1",b="2"} 1'), parse('m{b="2",a="1"} 1')
    assert a == b


def test_cache_gives_the_same() -> None:
    cache: scrape.Cache = {}
    first = list(scrape.parse(PAGE, "p", 1, cache))
    again = list(scrape.parse(PAGE.replace(" 12\n", " 13\n"), "p", 1, cache))
    changed = [(a.value, b.value) for a, b in zip(first, again, strict=True) if str(a.value) != str(b.value)]
    assert changed == [(12, 13)]


@pytest.mark.parametrize(
    "page",
    [
        "{}",
        '{"status":"healthy"}',
        "<html>x</html>",
        "m",
        "m{",
        'm{a="1"}',
        "m one",
        "m{a=1} 1",
        'm{a="1"',
        "é 1",
    ],
)
def test_no_exposition_text_is_refused(page: str) -> None:
    with pytest.raises(ValueError):
        parse(page)


@given(st.text())
@example("}\n")
@example("{} 1")
@example('{a="b"} 1')
@example(' "} 1')
@example("m{=} 1")
@example('m{a="\\"} 1')
@example("m{,,} 1")
@example('m{a="1",} 1')
def test_any_text_is_samples_or_value_error(text: str) -> None:
    try:
        rows = parse(text)
    except ValueError:
        return
    assert all(isinstance(json.loads(row.labels), dict) and row.metric for row in rows)


NAMES = st.from_regex(r"[a-z_][a-z0-9_:]{0,10}", fullmatch=True).filter(
    lambda n: not n.startswith("python_") and not n.endswith("_created")
)
LABEL_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
LABEL_VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
)


@given(
    NAMES,
    st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_what_is_written_is_read_back(name: str, labels: dict[str, str], value: float) -> None:
    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    inner = ",".join(f'{k}="{escape(v)}"' for k, v in labels.items())
    [row] = parse(f"{name}{{{inner}}} {value!r}\n")
    assert (row.metric, json.loads(row.labels), row.value) == (name, labels, value)


def test_page_that_answers() -> None:
    with serving(Target(metrics=(200, PAGE))) as target:
        rows = scrape.scrape("w", target.url("/metrics"), {}, {})
    assert {row.process for row in rows} == {"w"}
    assert len({row.t_ns for row in rows}) == 1
    assert len(rows) == 9


def test_no_answer_is_no_rows_never_zeros() -> None:
    assert scrape.scrape("w", f"http://127.0.0.1:{free_port()}/metrics", {}, {}) == []
    with serving(Target(metrics=(500, PAGE))) as target:
        assert scrape.scrape("w", target.url("/metrics"), {}, {}) == []
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    with raw(head + b"dynamo_x_total 1\n") as url:  # cut short
        assert scrape.scrape("w", url, {}, {}) == []
    with raw(b"HTTP/1.1 200 OK\r\n\r\ndynamo_x_total 1\n\xff") as url:
        assert scrape.scrape("w", url, {}, {}) == []
    with raw(b"HTTP/1.1 200 OK\r\n\r\ndynamo_x_total 1\nbroken") as url:  # half a page is no page
        assert scrape.scrape("w", url, {}, {}) == []
