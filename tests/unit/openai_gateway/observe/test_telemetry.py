"""Traces of real requests to the app, collected in memory; and that nothing is imported without them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request, Response

from edge_agent.errors import CloudUnreachable, ConfigError
from edge_agent.settings import EdgeSettings
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.cli.hosting import monitored_app
from openai_gateway.http import ApiKeys
from openai_gateway.observe.telemetry import Telemetry, start_telemetry, wants_traces
from tests.e2e.stack import serving

pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="needs the extra otel")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

SECRET = "my-secret-prompt"
KEY = "sk-very-secret"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}]}
MakeFake = Callable[..., FakeGenerator]
MakeClient = Callable[[FastAPI], httpx.AsyncClient]
Traced = Callable[[FakeGenerator], httpx.AsyncClient]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest_asyncio.fixture
async def traced(
    exporter: InMemorySpanExporter, client_for: MakeClient, tmp_path: Path
) -> AsyncIterator[Traced]:
    """`traced(generator)`: a client of the app as `pipesd edge` makes it, with traces."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider)
    (empty := tmp_path / "config.toml").touch()

    def make(generator: FakeGenerator) -> httpx.AsyncClient:
        settings = EdgeSettings(cloud_url="http://gpu:8000", config_file=empty)
        client = client_for(monitored_app(settings, generator, ApiKeys({KEY: "mine"}), telemetry))
        client.headers["authorization"] = f"Bearer {KEY}"
        return client

    yield make
    await telemetry.close()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_request_and_its_generation(
    traced: Traced, exporter: InMemorySpanExporter, generator_for: MakeFake, stream: bool
) -> None:
    """Two spans, one in the other, with route, tokens and TTFT, in the client's trace if it has one."""
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with traced(generator_for("hello world", chunk_tokens=2)) as client:
        headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
        answer = await client.post(CHAT, json=BODY | {"stream": stream}, headers=headers)
    assert answer.status_code == 200
    spans = by_name(exporter)
    assert set(spans) == {f"POST {CHAT}", "generation"}
    request, generation = spans[f"POST {CHAT}"], spans["generation"]
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == trace_id
    assert parent_id(request) == int(caller, 16)
    assert parent_id(generation) == request.context.span_id
    for span in (request, generation):
        found = attributes(span)
        assert (found["pipesd.route"], found["pipesd.reason"]) == ("collaborative", "default")
        assert found["gen_ai.usage.output_tokens"] > 2
        assert found["gen_ai.latency.time_to_first_token"] >= 0
        assert answer.headers["x-request-id"] in found["gen_ai.response.id"]
    assert attributes(request)["gen_ai.usage.input_tokens"] > 2
    assert attributes(request)["gen_ai.request.model"] == "org/target"
    assert attributes(request)["pipesd.streamed"] is stream
    assert attributes(generation)["pipesd.acceptance_rate"] == 1.0


async def test_no_text_and_no_keys(
    traced: Traced, exporter: InMemorySpanExporter, generator_for: MakeFake
) -> None:
    """Neither prompt nor answer nor key is in any span, also where a request fails."""
    async with traced(generator_for("the quick answer")) as client:
        await client.post(CHAT, json=BODY)
        await client.post("/v1/completions", json={"prompt": SECRET, "temperature": SECRET})
        await client.post(CHAT, json=BODY | {"tools": SECRET})
        await client.post(CHAT, content=SECRET)
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "generation" in text
    assert not any(word in text for word in (SECRET, KEY, "quick"))


async def test_failures_are_marked(
    traced: Traced, exporter: InMemorySpanExporter, generator_for: MakeFake
) -> None:
    """A generation that breaks off names the kind of its error; the request's span has the code."""
    broken = generator_for("hello world", error=CloudUnreachable(SECRET), error_after=1)
    async with traced(broken) as client:
        await client.post(CHAT, json=BODY | {"stream": True})
    spans = by_name(exporter)
    generation, request = spans["generation"], spans[f"POST {CHAT}"]
    assert generation.status.status_code is StatusCode.ERROR
    assert attributes(generation)["error.type"] == "CloudUnreachable"
    assert attributes(generation)["gen_ai.usage.output_tokens"] == 1
    assert attributes(request)["error.type"] == "cloud_unreachable"
    assert attributes(request)["pipesd.status"] == 503
    assert SECRET not in generation.to_json() + request.to_json()


async def test_what_is_passed_on(
    traced: Traced, exporter: InMemorySpanExporter, generator_for: MakeFake
) -> None:
    """The cloud route has a span for the server's part; its own failure to answer is marked."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(404, (b"{}",))
    async with traced(generator) as client:
        await client.post(CHAT, json=BODY | {"model": "default:cloud"})
        generator.unreachable = CloudUnreachable("gone")
        await client.post(CHAT, json=BODY | {"model": "default:cloud"})
    forwards = [span for span in exporter.get_finished_spans() if span.name == "forward"]
    assert attributes(forwards[0])["url.path"] == CHAT
    assert attributes(forwards[0])["http.response.status_code"] == 404
    assert all(span.parent is not None for span in forwards)


async def test_machines_questions_are_not_traced(
    traced: Traced, exporter: InMemorySpanExporter, generator_for: MakeFake
) -> None:
    """Health checks and metrics make no spans; other requests do."""
    async with traced(generator_for()) as client:
        for path in ("/health", "/metrics", "/v1/models"):
            assert (await client.get(path)).status_code == 200
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /v1/models"]


@pytest.mark.parametrize(
    ("endpoint", "environ", "wanted"),
    [
        (None, {}, False),
        ("http://collector:4318", {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ("http://collector:4318", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://collector:4318", {"OTEL_TRACES_EXPORTER": "none"}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_who_switches_traces_on(endpoint: str | None, environ: dict[str, str], wanted: bool) -> None:
    """Our setting or OpenTelemetry's own variables, which can also switch them off."""
    assert wants_traces(endpoint, environ) is wanted


async def test_sent_to_a_collector(generator_for: MakeFake, client_for: MakeClient, tmp_path: Path) -> None:
    """What is left is sent at the end, to the collector's path for traces; without one there is nothing."""
    assert start_telemetry(None, {}) is None
    received = asyncio.Queue[bytes]()
    collector = FastAPI()

    @collector.post("/v1/traces")
    async def traces(request: Request) -> Response:
        received.put_nowait(await request.body())
        return Response(media_type="application/x-protobuf")

    (empty := tmp_path / "config.toml").touch()
    async with serving(collector) as url:
        telemetry = start_telemetry(url, {"OTEL_SERVICE_NAME": "mine"})
        assert telemetry is not None
        settings = EdgeSettings(cloud_url="http://gpu:8000", config_file=empty)
        async with client_for(monitored_app(settings, generator_for(), ApiKeys({}), telemetry)) as client:
            await client.post(CHAT, json=BODY)
        await telemetry.close()
        sent = await received.get()
    assert b"mine" in sent
    assert b"generation" in sent
    assert SECRET.encode() not in sent


async def test_a_collector_that_hangs_is_given_up() -> None:
    """`close` does not wait for an exporter that never returns."""
    leave = threading.Event()

    class Hanging(InMemorySpanExporter):
        def shutdown(self) -> None:
            leave.wait()

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    await Telemetry(provider, close_s=0.05).close()
    leave.set()


RUN = """
import sys
from openai_gateway.cli import hosting
from openai_gateway.observe.telemetry import start_telemetry
if sys.argv[1] == "missing":
    sys.modules["opentelemetry"] = None
    assert start_telemetry(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}) is None
    start_telemetry("http://c", {})
assert start_telemetry(None, {}) is None
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RUN, how], capture_output=True, text=True, check=False)


def test_nothing_is_imported_without_it() -> None:
    """The gateway's modules import nothing of OpenTelemetry until it is asked for."""
    assert run("unused").stdout.strip() == "[]"


def test_without_the_packages() -> None:
    """A setting that cannot be followed is an error with what to install; a variable only a warning."""
    result = run("missing")
    assert ConfigError.__name__ in result.stderr
    assert result.stderr.count("pip install 'pipesd[otel]'") == 2
