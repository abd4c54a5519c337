"""Plain vLLM over HTTP, answered without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.plain_rounds import HttpPlainApi, OwnCode, parse_own_code
from openai_gateway.cli.errors import CliError

METRICS = """
# TYPE pipesd_own_seconds histogram
pipesd_own_seconds_count{part="receive"} 4
pipesd_own_seconds_sum{part="receive"} 0.25
pipesd_own_seconds_count{part="schedule"} 5
pipesd_own_seconds_sum{part="schedule"} 0.5
pipesd_own_seconds_count{part="send"} 5
pipesd_own_seconds_sum{part="send"} 0.125
"""


def ticking() -> Iterator[float]:
    now_s = 0.0
    while True:
        yield now_s
        now_s += 0.25


def answered(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/metrics":
        return httpx.Response(200, text=METRICS)
    if request.url.path == "/v1/models":
        return httpx.Response(200, json={"data": [{"id": "target"}]})
    body = json.loads(request.content)
    assert body["model"] == "target"
    if not body.get("stream"):
        return httpx.Response(200, json={})
    events = ["data: {}"] * body["max_tokens"] + ["data: [DONE]"]
    return httpx.Response(200, text="\n\n".join(events))


def api(handler: httpx.MockTransport) -> HttpPlainApi:
    clock = ticking()
    client = httpx.AsyncClient(base_url="http://server", transport=handler)
    return HttpPlainApi(client, lambda: next(clock))


async def test_the_time_between_tokens() -> None:
    """As many as asked for, the warm-up left out; the end mark is no token."""
    async with api(httpx.MockTransport(answered)) as plain:
        assert await plain.token_gaps_ms(7) == [250.0] * 7


async def test_the_time_of_a_reply() -> None:
    """From request to the whole answer; asking for the model's name is not timed."""
    async with api(httpx.MockTransport(answered)) as plain:
        assert await plain.reply_ms() == 250.0


async def test_own_code_is_read_from_the_metrics() -> None:
    """Totals in ms; rounds are those that a draft frame asked for."""
    async with api(httpx.MockTransport(answered)) as plain:
        assert await plain.own_code() == OwnCode(4, 250.0, 500.0, 125.0)


def test_a_server_without_the_plugins_times() -> None:
    """Nothing is made up."""
    assert parse_own_code("# TYPE other counter\nother_total 1\n") is None


def test_a_mean_needs_rounds() -> None:
    """Between two readings without one there is no mean."""
    before = OwnCode(2, 2.0, 4.0, 6.0)
    assert OwnCode(4, 4.0, 5.0, 8.0).a_round_since(before) == OwnCode(1, 1.0, 0.5, 1.0)
    assert before.a_round_since(before) is None


async def test_a_server_that_fails_is_said() -> None:
    """In one sentence."""
    async with api(httpx.MockTransport(lambda request: httpx.Response(500))) as plain:
        for asked in (plain.reply_ms, plain.own_code):
            with pytest.raises(CliError, match="does not answer"):
                await asked()


async def test_a_stream_without_tokens_is_said() -> None:
    """It is not taken for one that took no time."""

    def silent(request: httpx.Request) -> httpx.Response:
        return answered(request) if request.url.path == "/v1/models" else httpx.Response(200, text="")

    async with api(httpx.MockTransport(silent)) as plain:
        with pytest.raises(CliError, match="streamed nothing"):
            await plain.token_gaps_ms(3)
