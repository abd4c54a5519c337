from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from edge_agent.api import (
    AnswerEvent,
    AskRequest,
    GenerationRequest,
    Route,
    TargetInfo,
    TokenizerBundle,
)
from edge_agent.errors import CloudRefused, CloudUnreachable
from edge_agent.testing import FakeGenerator, Script
from openai_gateway.app import GatewayTimings, create_app
from openai_gateway.http.access import AccessPolicy
from openai_gateway.http.requests import MAX_BODY_BYTES
from pipesd_vllm.wire import Mode

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
DEADLINE_S = 20.0
"""Far beyond what anything here takes, and below the minute that a script hangs."""
FIGURES = {
    "route",
    "reason",
    "drafted",
    "verified",
    "unverified_tokens",
    "ignored",
    "in_force",
    "in_force_reason",
    "sampling",
    "savings",
    "seed",
    "target_passes",
    "downlink_bytes",
    "ttft_ms",
    "tpt_ms",
    "acceptance_rate",
    "passes_per_token",
    "draft_tokens_sent",
    "draft_tokens_verified",
    "draft_tokens_accepted",
    "uplink_bytes",
}
MakeFake = Callable[..., FakeGenerator]
MakeClient = Callable[[FastAPI], httpx.AsyncClient]
Post = Callable[..., Awaitable[httpx.Response]]


def events_of(text: str) -> list[Any]:
    """The JSON events of a stream, without the final [DONE] (None if that is missing)."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    done = lines[-1] == "[DONE]"
    return [msgspec.json.decode(line) for line in (lines[:-1] if done else lines)] + ([] if done else [None])


async def test_chat(generator_for: MakeFake, post: Post) -> None:
    """A chat answer has OpenAI's shape, the text, the usage and the `pipesd` figures."""
    answer = await post(generator_for("hello 日本", chunk_tokens=3), CHAT, {"messages": MESSAGES})
    body = answer.json()
    assert answer.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "org/target"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello 日本", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert body["pipesd"].keys() == FIGURES
    assert answer.headers["x-request-id"] in body["id"]


async def test_chat_stream(generator_for: MakeFake, post: Post) -> None:
    """A stream is: role, text chunk by chunk, finish reason with the figures, [DONE]."""
    generator = generator_for("hello world", chunk_tokens=2)
    answer = await post(generator, CHAT, {"messages": MESSAGES, "stream": True})
    events = events_of(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == "hello world"
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["pipesd"].keys() == FIGURES
    assert not any("usage" in event for event in events)
    assert len({(e["id"], e["created"], e["object"]) for e in events}) == 1


async def test_usage_chunk(generator_for: MakeFake, post: Post) -> None:
    """Asked for, the usage is the last chunk, without choices and with the figures."""
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    *others, last = events_of((await post(generator_for(), CHAT, body)).text)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert last["pipesd"].keys() == FIGURES
    assert not any(event.get("usage") for event in others)


async def test_completions(generator_for: MakeFake, post: Post) -> None:
    """Raw completions give the same text streamed and whole."""
    whole = (await post(generator_for("hello world"), COMPLETIONS, {"prompt": "x"})).json()
    stream = await post(generator_for("hello world"), COMPLETIONS, {"prompt": "x", "stream": True})
    events = events_of(stream.text)
    assert whole["object"] == events[0]["object"] == "text_completion"
    assert whole["choices"][0]["text"] == "".join(e["choices"][0]["text"] for e in events) == "hello world"
    assert whole["choices"][0]["finish_reason"] == events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_one_chunk_is_one_event(generator_for: MakeFake, post: Post) -> None:
    """However many tokens were committed together, they are one event."""
    answer = await post(
        generator_for("hello world", chunk_tokens=99), COMPLETIONS, {"prompt": "x", "stream": True}
    )
    assert len(events_of(answer.text)) == 1


async def test_what_the_agent_is_asked(generator_for: MakeFake, post: Post) -> None:
    """The server gets the client's body, fields that nobody here knows included, with a seed and no name."""
    generator = generator_for()
    fields = {"temperature": 0.5, "seed": 7, "max_completion_tokens": 9, "unheard_of": [1], "tools": [{}]}
    answer = await post(
        generator, CHAT, {"messages": MESSAGES, "model": "default", **fields}, **{"x-pipesd-mode": "latency"}
    )
    assert answer.headers["x-pipesd-route"] == "collaborative; reason=default"
    assert generator.forwarded == [(CHAT, {"messages": MESSAGES, **fields})]
    request = generator.records[0].request
    assert isinstance(request, AskRequest)
    assert (request.mode, request.may_continue_locally) == (Mode.LATENCY, False)
    await post(generator, CHAT, {"messages": MESSAGES})
    assert generator.records[1].request.may_continue_locally  # type: ignore[union-attr]


async def test_what_the_draft_model_is_asked(generator_for: MakeFake, post: Post) -> None:
    """On the route `local` the prompt is rendered here; the parameters reach the agent."""
    generator = generator_for(route=Route.LOCAL)
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_completion_tokens": 9}
    body = (await post(generator, CHAT, {"model": "default:local", "messages": MESSAGES, **fields})).json()
    request = generator.records[0].request
    assert isinstance(request, GenerationRequest)
    assert request.request_id == body["id"]
    assert len(request.prompt_token_ids) == body["usage"]["prompt_tokens"]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.5, 0.9, 7, 9)


async def test_max_tokens_is_reported(generator_for: MakeFake, post: Post) -> None:
    """An answer cut by its limit says "length"."""
    body = (await post(generator_for(), COMPLETIONS, {"prompt": "x", "max_tokens": 1})).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_string(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """A stop string ends text and generation; it is not shown."""
    generator = generator_for("hello world and more", delay_s=0.001, route=Route.LOCAL)
    body = {"model": "default:local", "prompt": "x", "stop": [" wor"], "stream": stream}
    answer = await post(generator, COMPLETIONS, body)
    text = "hello"
    if stream:
        assert "".join(e["choices"][0]["text"] for e in events_of(answer.text)) == text
    else:
        assert answer.json()["choices"][0]["text"] == text
    assert generator.records[0].closed_early


@pytest.mark.parametrize("stream", [False, True])
async def test_route_header(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """Where the draft model answers in the target's place, the answer says so and why, on one clean line."""
    generator = generator_for(route=Route.LOCAL, route_reason="cloud\r\nöut of reach")
    answer = await post(generator, COMPLETIONS, {"prompt": "x", "stream": stream})
    assert answer.headers["x-pipesd-route"] == "local; reason=cloud???ut of reach"


LOCAL = {"model": "default:local"}
BAD_REQUESTS = [
    (CHAT, {"messages": MESSAGES, "functions": [{}]}, 400, "functions"),
    (CHAT, {"messages": MESSAGES, "pipesd_seed": 4}, 400, "pipesd_seed"),
    (CHAT, {"messages": MESSAGES, "n": 2, **LOCAL}, 400, "n"),
    (CHAT, {"messages": MESSAGES, "model": "gpt-4o"}, 404, "model"),
    (CHAT, {"messages": MESSAGES, "model": 7}, 400, "model"),
    (CHAT, {"messages": [], **LOCAL}, 400, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 999}], **LOCAL}, 400, "messages"),
    (COMPLETIONS, {"prompt": "", **LOCAL}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [10**6], **LOCAL}, 400, "prompt"),
    (COMPLETIONS, {"prompt": "x", "min_tokens": 10**6, **LOCAL}, 400, "min_tokens"),
    (COMPLETIONS, {"prompt": "x", "suffix": "end"}, 400, "suffix"),
    (COMPLETIONS, b"{", 400, None),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), BAD_REQUESTS)
async def test_bad_input(
    generator_for: MakeFake, post: Post, path: str, body: Any, status: int, param: str | None
) -> None:
    """Bad input is a 4xx in OpenAI's shape that names the field, and generates nothing."""
    generator = generator_for()
    answer = await post(generator, path, body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error.keys() == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param
    assert not generator.records


async def test_bad_input_while_the_cloud_is_away(generator_for: MakeFake, post: Post) -> None:
    """What is refused here is refused also when nothing could be served; the rest gets a 503 and a time."""
    generator = generator_for()
    generator.unreachable = CloudUnreachable("connection refused: is the server running?")
    assert (await post(generator, CHAT, {"messages": [], "best_of": 2})).status_code == 400
    answer = await post(generator, CHAT, {"messages": MESSAGES})
    assert answer.status_code == 503
    assert answer.json()["error"]["message"].startswith("connection refused")
    assert int(answer.headers["retry-after"]) > 0


async def test_body_too_large(generator_for: MakeFake, post: Post) -> None:
    """A body beyond the limit is a 413."""
    answer = await post(generator_for(), CHAT, b" " * (MAX_BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("stream", [False, True])
async def test_refusal_before_the_first_token(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """A refusal that comes before the first token has its own status, streamed or not."""
    generator = generator_for(error=CloudRefused("overloaded", "too many sessions"))
    answer = await post(generator, CHAT, {"messages": MESSAGES, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")


async def test_failure_in_mid_stream(generator_for: MakeFake, post: Post) -> None:
    """A failure after the first token is an error event, the last of the stream."""
    generator = generator_for(error=CloudUnreachable("lost"), error_after=2)
    answer = await post(generator, CHAT, {"messages": MESSAGES, "stream": True})
    events = events_of(answer.text)
    assert answer.status_code == 200
    assert events[-2]["error"]["code"] == "cloud_unreachable"
    assert events[-1] is None


class Held(FakeGenerator):
    """Gives nothing before `released` is set."""

    released: asyncio.Event

    async def ask(self, request: AskRequest) -> AsyncIterator[AnswerEvent]:  # type: ignore[override]
        await self.released.wait()
        async for event in super().ask(request):
            yield event


async def test_slow_first_token(
    target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script], asgi_call: Any
) -> None:
    """While the first token is awaited comments keep the connection alive."""
    generator = Held(target, bundle, script_for("hello world"))
    generator.released = asyncio.Event()
    app = create_app(generator, timings=GatewayTimings(first_chunk_s=0.01, ping_s=0.1))
    call = asgi_call(app, CHAT, {"messages": MESSAGES, "stream": True})
    running = asyncio.create_task(call.run())
    async with asyncio.timeout(DEADLINE_S):
        while ": keep-alive" not in call.text():  # noqa: ASYNC110 - a list of messages gives no event
            await asyncio.sleep(0.01)
        waiting = call.text()
        generator.released.set()
        await running
    assert (b"x-pipesd-route", b"collaborative; reason=pending") in call.sent[0]["headers"]
    assert "hello" not in waiting
    assert call.text().startswith(waiting)
    assert "hello" in call.text()
    assert call.text().endswith("[DONE]\n\n")


@pytest.mark.parametrize(
    ("stream", "first_delay_s", "delay_s"), [(True, 0.0, 60.0), (True, 60.0, 0.0), (False, 0.0, 60.0)]
)
async def test_client_that_goes_away(
    generator_for: MakeFake, asgi_call: Any, stream: bool, first_delay_s: float, delay_s: float
) -> None:
    """A client that leaves ends the generation: in mid-stream, before it, or unstreamed."""
    generator = generator_for(first_delay_s=first_delay_s, delay_s=delay_s)
    call = asgi_call(create_app(generator), CHAT, {"messages": MESSAGES, "stream": stream})
    running = asyncio.create_task(call.run())
    if stream and not first_delay_s:
        await asyncio.wait_for(call.got_text.wait(), DEADLINE_S)
    await asyncio.wait_for(generator.asked.wait(), DEADLINE_S)
    await asyncio.sleep(0.01)
    call.gone.set()
    await asyncio.wait_for(generator.records[0].ended.wait(), DEADLINE_S)
    await asyncio.wait_for(running, DEADLINE_S)
    assert generator.records[0].closed_early


async def test_api_key(generator_for: MakeFake, client_for: MakeClient) -> None:
    """With a key set, /v1 needs exactly that bearer token; health does not."""
    async with client_for(create_app(generator_for(), api_key="sécret")) as client:
        assert (await client.get("/health")).status_code == 200
        for value in ("", "Bearer", "Bearer wrong", "Basic s\u00e9cret", "Bearer s\u00e9cret "):
            answer = await client.get("/v1/models", headers={b"authorization": value.encode()})
            expected = 200 if value.startswith("Bearer s") else 401
            assert answer.status_code == expected, value
            assert expected == 200 or answer.json()["error"]["code"] == "invalid_api_key"
        answer = await client.post(CHAT, json={"messages": MESSAGES})
        assert answer.status_code == 401


@pytest.mark.parametrize("key", [None, ""])
async def test_no_api_key(generator_for: MakeFake, client_for: MakeClient, key: str | None) -> None:
    """Without a key, any or no authorization will do."""
    async with client_for(create_app(generator_for(), api_key=key)) as client:
        assert (await client.get("/v1/models")).status_code == 200
        for value in ("Bearer anything", "Bearer ", "Bearer", ""):
            answer = await client.get("/v1/models", headers={"authorization": value})
            assert answer.status_code == 200


async def test_models(generator_for: MakeFake, client_for: MakeClient, target: TargetInfo) -> None:
    """The target is listed with its context length, and found by its id, slash included."""
    async with client_for(create_app(generator_for())) as client:
        card, cloud, local = (await client.get("/v1/models")).json()["data"]
        assert (card["id"], card["object"]) == (target.model, "model")
        assert (cloud["id"], local["id"]) == (f"{target.model}:cloud", f"{target.model}:local")
        assert (await client.get("/v1/models/default:local")).json() == local
        assert card["max_model_len"] == target.max_model_len
        assert (await client.get(f"/v1/models/{target.model}")).json() == card
        assert (await client.get("/v1/models/org%2Ftarget")).json() == card
        assert (await client.get("/v1/models/default")).json() == card
        missing = await client.get("/v1/models/other")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("POST", "/", 405), ("GET", CHAT, 405), ("PUT", "/v1/models", 405)],
)
async def test_wrong_paths_and_methods(
    generator_for: MakeFake, client_for: MakeClient, method: str, path: str, status: int
) -> None:
    """Unknown paths and wrong methods are answered in the same shape, naming both."""
    async with client_for(create_app(generator_for())) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert f"{method} {path}" in answer.json()["error"]["message"]
    assert status == 404 or answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models"])
async def test_head(generator_for: MakeFake, client_for: MakeClient, path: str) -> None:
    """HEAD works wherever clients probe."""
    async with client_for(create_app(generator_for())) as client:
        assert (await client.head(path)).status_code == 200


async def test_health(client_for: MakeClient, generator_for: MakeFake) -> None:
    """Health is what the agent says."""
    async with client_for(create_app(generator_for())) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_cors(generator_for: MakeFake, client_for: MakeClient) -> None:
    """Browser clients of other origins may send their key and the SDK's headers, and read ours."""
    wanted = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    preflight = {
        "origin": "http://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
    }
    access = AccessPolicy(origins=frozenset({"*"}))
    async with client_for(create_app(generator_for(), api_key="k", access=access)) as client:
        answer = await client.options(CHAT, headers=preflight)
        assert answer.status_code == 200
        allowed = answer.headers["access-control-allow-headers"]
        assert set(wanted.split(",")) <= {name.strip() for name in allowed.split(",")}
        answer = await client.get("/v1/models", headers={"origin": "http://chat.example"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"x-pipesd-route", "x-pipesd-seed", "x-pipesd-left-out", "x-request-id"} <= exposed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_seed_that_was_drawn_is_told(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """Without a seed of the client's the answer names the one it was made with: header, body, figures."""
    generator = generator_for()
    answer = await post(generator, CHAT, {"messages": MESSAGES, "temperature": 0.7, "stream": stream})
    seed = generator.forwarded[0][1]["seed"]
    assert seed is not None
    assert 0 <= seed < 2**53
    assert answer.headers["x-pipesd-seed"] == str(seed)
    bodies = events_of(answer.text) if stream else [answer.json()]
    assert all(body["system_fingerprint"] == f"seed-{seed}" for body in bodies)
    other = await post(generator, CHAT, {"messages": MESSAGES, "temperature": 0.7})
    assert other.headers["x-pipesd-seed"] != answer.headers["x-pipesd-seed"]


async def test_greedy_text_needs_no_seed(generator_for: MakeFake, post: Post) -> None:
    """At temperature 0 nothing is drawn; a seed that the client gives is kept and told."""
    generator = generator_for()
    answer = await post(generator, CHAT, {"messages": MESSAGES, "temperature": 0})
    assert "x-pipesd-seed" not in answer.headers
    assert "system_fingerprint" not in answer.json()
    given = await post(generator, CHAT, {"messages": MESSAGES, "seed": -4})
    assert given.headers["x-pipesd-seed"] == "-4"
    assert generator.forwarded[1][1]["seed"] == -4
