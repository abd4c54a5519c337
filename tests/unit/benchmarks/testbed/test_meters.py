"""Readings and what is made of them."""

from dataclasses import replace

import pytest

from benchmarks.testbed.meters import Reading, engine_totals, parse_rss_mb, used

PAGE = """# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 3
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 7
vllm:iteration_tokens_total_count{engine="0"} 7
vllm:iteration_tokens_total_sum{engine="0"} 40
# TYPE vllm:request_inference_time_seconds histogram
vllm:request_inference_time_seconds_bucket{le="+Inf"} 2
vllm:request_inference_time_seconds_count 2
vllm:request_inference_time_seconds_sum 1.5
# TYPE pipesd_step_seconds histogram
pipesd_step_seconds_bucket{le="+Inf"} 2
pipesd_step_seconds_count 2
pipesd_step_seconds_sum 0.25
"""
START = Reading(10, 1.0, 2.0, 5.0, 1.0, None, 900.0, 300.0)


def test_engine_totals() -> None:
    """Steps and busy times are found on a page of metrics; on an empty one they are zero."""
    assert engine_totals(PAGE) == (7.0, 0.25, 1.5)
    assert engine_totals("") == (0.0, 0.0, 0.0)


def test_rss() -> None:
    """Kibibytes become megabytes; a process without memory has none."""
    assert parse_rss_mb("Name:\tx\nVmRSS:\t  1000 kB\n") == pytest.approx(1.024)
    assert parse_rss_mb("Name:\tx\n") is None


def test_used() -> None:
    """Differences, the busy time being that of the kind of request; what is not known stays unknown."""
    end = replace(START, session_busy_s=1.5, plain_busy_s=4.0, server_cpu_s=6.0, edge_cpu_s=1.25)
    for is_plain, busy_s in ((False, 0.5), (True, 2.0)):
        resources = used(START, end, up_bytes=7, down_bytes=8, is_plain=is_plain)
        assert resources.engine_busy_s == busy_s
        assert (resources.server_cpu_s, resources.edge_cpu_s) == (1.0, 0.25)
        assert resources.energy_j is None
        assert (resources.up_bytes, resources.down_bytes, resources.server_rss_mb) == (7, 8, 900.0)
