"""What the report's words mean, in short: metrics by their own formula, the rest written here."""

from __future__ import annotations

from harness.stats.metrics import METRICS
from reports.data import Term

ABOUT = {
    "sent": "All requests that were started: ok + shed + cancelled + failed + lost.",
    "ok": "HTTP 200, complete, and without any violation.",
    "shed": "Refused with a configured overload code: the system protected itself.",
    "cancelled": "Closed by our own clients as planned; no failure.",
    "failed": "http_error + transport_error + stream_error + truncated + timed_out + corrupted.",
    "lost": "Started, but no record was written: 0 in a valid run.",
    "hurt": "A client is hurt in a 100 ms bin when its stream had no byte for the larger of 1 s and 5 times "
            "its median gap, or no first token within the SLO, or ended there other than ok or cancelled.",
    "requests hurt": "Requests with at least one hurt 100 ms bin while the fault and its recovery lasted.",
    "seconds lost": "The length of a full outage that hurts as much: 0.1 s for each bin, times the share of "
                    "clients in flight that were hurt.",
    "budget": "Seconds lost / 2592 s, the downtime that 99.9% allows in a month of 30 days.",
    "steady": "After warm-up, outside every fault and recovery window.",
    "phase window": "A phase of the load (load.phases), in which its own share of the users is active.",
    "fault window": "From the moment a fault took effect until its undo was requested (kill: until restarted).",
    "recovery window": "From the moment a fault was gone until its target served again.",
    "stream_error": "The server sent an error event inside a 200 answer.",
    "transport_error": "No complete response head arrived.",
    "http_error": "A status other than 200 and the overload codes.",
    "truncated": "The peer ended the stream without a finish reason and without an error event.",
    "timed_out": "We gave up, unplanned.",
    "corrupted": "Complete, but with a violation.",
    "lost_tokens": "Tokens that never came although later ones did.",
    "duplicated_tokens": "Tokens that came twice.",
    "reordered_tokens": "Tokens that came after a later one.",
    "foreign_tokens": "Tokens that don't belong to this answer.",
    "extra_tokens": "Tokens after the last one that was asked for.",
    "short_stream": "Fewer tokens than asked for: the tail is missing.",
    "missing_finish": "No finish reason came.",
    "missing_done": "The stream didn't end with [DONE].",
    "data_after_done": "Data came after [DONE].",
    "usage_prompt_mismatch": "The reported prompt tokens differ from those that were sent.",
    "usage_completion_mismatch": "The reported completion tokens differ from those that arrived.",
    "id_changed": "The response id changed within a stream.",
    "model_changed": "The model's name changed within a stream.",
    "malformed_event": "An event that is no valid JSON, has the wrong shape or, on /v1/responses, is out of its "
                       "turn or contradicts earlier ones; or a tool call whose arguments are no JSON.",
    "error_event": "An error event inside the stream.",
    "wrong_content_type": "A stream that isn't text/event-stream.",
    "engine_resources_freed": "After its last stream an engine still held sequences or blocks, or it never ended "
                              "a stream that its client had left.",
    "send_lag_p99_ms": "How late requests were sent, against when they were due.",
    "hub_lag_p99_ms": "How late the generator's event loop woke up.",
    "coalesced_ratio": "Share of tokens that arrived together with others, so that their time is only bounded.",
    "write_lag_p99_ms": "How long it took to send a request, connecting included.",
    "cpu_steal_ratio": "Share of the machine's CPU time that its host gave to others.",
    "processes": "Locust processes that the users were spread over.",
    "cpu_s": "CPU seconds that the generator used.",
    "master_cpu_s": "CPU seconds of Locust's master, which has no users, beside its workers'.",
}  # fmt: skip
SERVICE = {
    "detect_s": "From effective to the first red probe of the target or its leaving the frontend's list.",
    "mitigate_s": "From effective to the end of the last hurt bin before the first second free of hurt; "
                  "0: nobody was hurt.",
    "recover_s": "From the undo's request to the first 5 s in which goodput and median TTFT are within 10% of "
                 "steady and all instances are listed.",
    "silent_s": "Time in which a client is hurt while every readiness signal that a deployment acts on is green.",
    "silent_all_s": "Time in which a client is hurt while every health check of every process is green.",
    "not_ready_s": "From effective to the first red probe of the target's own readiness (its health URLs but "
                   "/live). Unknown also stands for never.",
    "ready_s": "From the undo's request to the first green answer of its readiness that lasts 5 s; 0: it was green.",
    "false_green_s": "Time, until it was recovered, in which its readiness is green and it can't serve: gone or "
                     "stopped, listed by no frontend, or its streams wait and got no token for 1 s.",
    "false_red_s": "Time, until it was recovered, in which its readiness is red, it is listed, and its streams get "
                   "tokens.",
    "in_flight_at_fault": "Streams open on the target when the fault took effect.",
}  # fmt: skip


def terms() -> list[Term]:
    """All definitions, words first, then metrics."""
    words = {**ABOUT, **SERVICE}
    metrics = {name: metric.formula for name, metric in METRICS.items() if name not in words}
    return [Term(name, about) for name, about in {**words, **metrics}.items() if about]
