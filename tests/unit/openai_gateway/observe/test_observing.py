"""Metrics and request logs of the gateway, fed by real requests to the app."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from edge_agent.api import Route
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.chat_service import Json, SessionOptions, StreamedAnswer
from openai_gateway.observe import Finished, GatewayMetrics, ObservedService, RequestLog
from openai_gateway.observe.request_log import LogFormat
from openai_gateway.testing import ChatScript, FakeChatService, chat_chunk

SECRET = "my-secret-prompt"
KEY = "sk-very-secret"
CHAT = "/v1/chat/completions"
MakeFake = Callable[..., FakeGenerator]
MakeClient = Callable[[FastAPI], httpx.AsyncClient]


def body(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": SECRET}], **more}


class Spy:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.num_started = 0
        self.gaps: list[float] = []
        self.requests: list[Finished] = []

    def started(self) -> None:
        self.num_started += 1

    def gap(self, model: str, route: str, elapsed_s: float) -> None:
        self.gaps.append(elapsed_s)

    def finished(self, request: Finished) -> None:
        self.requests.append(request)


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float:
    """The sum of all samples of `name` that have `labels`."""
    return sum(
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_a_stream_is_counted(generator_for: MakeFake, client_for: MakeClient) -> None:
    """Route, status, tokens, drafts, passes, TTFT and gaps of one streamed answer."""
    metrics, spy = GatewayMetrics(), Spy()
    generator = generator_for("hello world", chunk_tokens=2)
    async with client_for(create_app(generator, metrics=metrics, observers=[spy])) as client:
        await client.post(CHAT, json=body(stream=True))
        page = await client.get("/metrics")
    stats = generator.records[0].stats
    labels = {"model_name": "org/target", "route": "collaborative"}
    assert (
        value(metrics, "pipesd_gateway_requests_total", status="200", reason="default", endpoint="chat") == 1
    )
    assert value(metrics, "vllm:generation_tokens_total", **labels) == stats.completion_tokens
    assert value(metrics, "pipesd_gateway_draft_tokens_sent_total", **labels) == stats.draft_tokens_sent
    assert value(metrics, "pipesd_gateway_target_passes_total", **labels) == stats.target_passes
    assert value(metrics, "vllm:time_to_first_token_seconds_count", **labels) == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_count", **labels) == len(spy.gaps) > 0
    assert value(metrics, "vllm:num_requests_running") == 0
    assert page.headers["content-type"].startswith("text/plain")
    assert "vllm:time_to_first_token_seconds_bucket" in page.text
    assert SECRET not in page.text


async def test_refusals_are_counted_once(generator_for: MakeFake, client_for: MakeClient) -> None:
    """A bad parameter is one request with status 400 and no route; nothing stays in flight."""
    metrics, spy = GatewayMetrics(), Spy()
    async with client_for(create_app(generator_for(), metrics=metrics, observers=[spy])) as client:
        answer = await client.post(CHAT, json=body(best_of=2))
    assert answer.status_code == 400
    assert value(metrics, "pipesd_gateway_requests_total", status="400", route="none", reason="error") == 1
    assert value(metrics, "vllm:num_requests_running") == 0
    assert (spy.num_started, len(spy.requests)) == (1, 1)


async def test_a_stream_that_breaks_has_its_error(generator_for: MakeFake, client_for: MakeClient) -> None:
    """What failed in mid-answer counts with the error's status, though HTTP said 200."""
    spy = Spy()
    generator = generator_for("hello world", error=CloudUnreachable("gone"), error_after=1)
    async with client_for(create_app(generator, observers=[spy])) as client:
        answer = await client.post(CHAT, json=body(stream=True))
    assert answer.status_code == 200
    assert [request.status for request in spy.requests] == [503]
    assert spy.requests[0].route == "collaborative"


async def test_the_local_route_is_told_apart(generator_for: MakeFake, client_for: MakeClient) -> None:
    """Route and unverified tokens of an answer that the draft gave."""
    metrics = GatewayMetrics()
    generator = generator_for(route=Route.LOCAL, route_reason="asked for")
    async with client_for(create_app(generator, metrics=metrics)) as client:
        await client.post(CHAT, json=body(model="org/target:local"))
    assert value(metrics, "pipesd_gateway_requests_total", route="local", reason="asked for") == 1
    num_tokens = value(metrics, "vllm:generation_tokens_total", route="local")
    assert value(metrics, "pipesd_gateway_unverified_tokens_total", route="local") == num_tokens > 0


async def test_a_client_that_leaves_is_told_once() -> None:
    """A stream closed before its end is a 499, and closing again tells nothing more."""
    spy = Spy()
    service = ObservedService(FakeChatService(ChatScript()), "chat", [spy])
    answer = await service.answer(body(stream=True), SessionOptions())
    assert isinstance(answer, StreamedAnswer)
    await anext(answer.chunks)
    await answer.aclose()
    await answer.aclose()
    assert [request.status for request in spy.requests] == [499]


async def test_gaps_are_measured_between_pieces_of_text() -> None:
    """The role chunk opens nothing, and the gap lies between two texts on the given clock."""
    times = iter([0.0, 1.0, 1.5, 9.0])

    async def chunks() -> AsyncIterator[Json]:
        yield chat_chunk({"role": "assistant"})
        yield chat_chunk({"content": "a"})
        yield chat_chunk({"content": "b"})

    async def close() -> None:
        pass

    class Service(FakeChatService):
        async def answer(self, body: Any, options: SessionOptions) -> StreamedAnswer:
            return StreamedAnswer({}, chunks(), close)

    spy = Spy()
    service = ObservedService(Service(), "chat", [spy], lambda: next(times))
    answer = await service.answer({"stream": True}, SessionOptions())
    assert isinstance(answer, StreamedAnswer)
    assert len([chunk async for chunk in answer.chunks]) == 3
    assert spy.gaps == [0.5]
    assert spy.requests[0].duration_ms == 9000.0


def test_the_links_round_trip_is_asked_for() -> None:
    """The gauge follows the source, and is not a number while nothing was measured."""
    metrics, found = GatewayMetrics(), [None, 0.02]
    metrics.watch_link(lambda: found[0])
    assert str(value(metrics, "pipesd_gateway_link_rtt_seconds")) == "nan"
    found.pop(0)
    assert value(metrics, "pipesd_gateway_link_rtt_seconds") == 0.02


def test_labels_have_few_values() -> None:
    """Reasons that name parameters or errors, which others may choose, become one label each."""
    metrics = GatewayMetrics()
    for number in range(20):
        metrics.started()
        metrics.finished(
            Finished("chat", 200, 1.0, False, route="collaborative", reason=f"not drafted: x{number}")
        )
        metrics.started()
        metrics.finished(Finished("chat", 400, 1.0, False, reason="x", error_code=f"code{number}"))
    assert value(metrics, "pipesd_gateway_requests_total", reason="parameter") == 20
    assert value(metrics, "pipesd_gateway_requests_total", reason="error") == 20


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_log_has_figures_but_neither_text_nor_keys(
    generator_for: MakeFake, client_for: MakeClient, log_format: LogFormat, stream: bool
) -> None:
    """One line a request, good or refused; prompt, answer and key are in none of them."""
    out = io.StringIO()
    app = create_app(generator_for("hello world"), api_key=KEY, observers=[RequestLog(log_format, out)])
    headers = {"authorization": f"Bearer {KEY}"}
    async with client_for(app) as client:
        good = await client.post(CHAT, json=body(stream=stream), headers=headers)
        await client.post(CHAT, json=body(stream=stream, best_of=SECRET), headers=headers)
        await client.post("/v1/completions", json={"prompt": SECRET, "stream": stream}, headers=headers)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert not any(word in out.getvalue() for word in (SECRET, KEY, "hello", "world"))
    assert good.headers["x-request-id"] in lines[0]
    if log_format == "json":
        entry = json.loads(lines[0])
        assert (entry["route"], entry["reason"], entry["status"]) == ("collaborative", "default", 200)
        assert {"ttft_ms", "tpt_ms", "completion_tokens", "timestamp", "level"} <= entry.keys()
        assert json.loads(lines[1])["status"] == 400
