"""What a system says right now: the right series, summed or the highest; silence is unknown, never 0."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from metrics_server import Target, free_port, serving

from harness.collect import gauges
from harness.core.config import When
from harness.core.sutfile import Process, SutState

QUEUED, KV_USE, BUSY = When(queued=3), When(kv_use=0.5), When(streams=3, on_target=True)
ENGINE = """\
# TYPE dynamo_component_inflight_requests gauge
dynamo_component_inflight_requests{dynamo_endpoint="generate",worker_id="a"} 6
dynamo_component_inflight_requests{dynamo_endpoint="worker_kv_query_a",worker_id="a"} 40
dynamo_component_inflight_requests_total 99
dynamo_work_handler_queue_depth 5
"""


def system(**urls: str | None) -> SutState:
    processes = [
        Process(
            name=name.replace("_", "-"), role=name.partition("_")[0], index=n, pid=1, start_ticks=1, argv=["x"],
            cwd="/", log="/dev/null", metrics=url,
        )
        for n, (name, url) in enumerate(urls.items(), 1)
    ]  # fmt: skip
    return SutState(sut_id="s", owner="run", oracle="witness", model="m", urls=[], processes=processes)


def ask(when: When, pages: Mapping[str, str | None], *targets: str) -> float | None:
    """The condition's value with these pages; None: nobody listens there."""
    with serving(Target()) as one, serving(Target()) as two:
        servers = [one, two]
        urls: dict[str, str | None] = {}
        for name, page in pages.items():
            if page is None:
                urls[name] = f"http://127.0.0.1:{free_port()}/metrics"
                continue
            server = servers.pop()
            server.metrics = (200, page)
            urls[name] = server.url("/metrics")
        return gauges.value(when, system(**urls), targets, {})


def queue(count: float, model: str = "m") -> str:
    return f'dynamo_frontend_queued_requests{{model="{model}"}} {count}\n'


def test_queued_is_the_sum_over_frontends_and_models() -> None:
    assert ask(QUEUED, {"frontend_1": queue(2) + queue(1, "n"), "frontend_2": queue(4)}) == 7


def test_a_frontend_that_is_silent_adds_nothing() -> None:
    assert ask(QUEUED, {"frontend_1": queue(2), "frontend_2": None}) == 2


@pytest.mark.parametrize("page", [None, "", "dynamo_other 3\n", "dynamo_frontend_queued_requests{ 3\n"])
def test_what_nobody_says_is_unknown(page: str | None) -> None:
    assert ask(QUEUED, {"frontend_1": page}) is None
    assert ask(KV_USE, {"worker_1": page}, "worker-1") is None
    assert ask(BUSY, {"worker_1": page}, "worker-1") is None


@pytest.mark.parametrize(
    "name",
    ["dynamo_component_gpu_cache_usage_percent", "vllm:kv_cache_usage_perc", "trtllm:kv_cache_usage_perc"],
)
def test_kv_use_is_that_of_the_fullest_target(name: str) -> None:
    pages = {
        "worker_1": f'{name}{{dp_rank="0"}} 0.25\n{name}{{dp_rank="1"}} 0.5\n',
        "worker_2": f"{name} 0.75\n",
    }
    assert ask(KV_USE, pages, "worker-1", "worker-2") == 0.75
    assert ask(KV_USE, pages, "worker-1") == 0.5  # the other one isn't a target
    assert ask(KV_USE, pages) is None


def test_streams_of_a_target_are_those_of_its_endpoint_generate() -> None:
    assert ask(BUSY, {"worker_1": ENGINE, "worker_2": ENGINE.replace(" 6", " 9")}, "worker-1") == 6
    assert (
        ask(BUSY, {"worker_1": ENGINE, "worker_2": ENGINE.replace(" 6", " 9")}, "worker-1", "worker-2") == 9
    )


def test_an_idle_system_is_known_to_be_idle() -> None:
    assert ask(QUEUED, {"frontend_1": queue(0)}) == 0


def test_an_outside_system_is_asked_at_the_pages_that_the_scenario_names() -> None:
    with serving(Target(metrics=(200, queue(6)))) as page:
        state = SutState(
            sut_id="s", owner="outside", oracle="count", model="m", urls=[], metrics=[page.url("/metrics")]
        )
        assert gauges.value(QUEUED, state, [], {}) == 6


def test_a_page_with_an_error_is_unknown() -> None:
    with serving(Target(metrics=(503, queue(6)))) as page:
        assert gauges.value(QUEUED, system(frontend_1=page.url("/metrics")), [], {}) is None
