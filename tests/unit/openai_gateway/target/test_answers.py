"""What the target answers, through the app: passed on to a scripted API of the server's, or drafted for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from edge_agent.api import Route
from edge_agent.errors import CloudUnreachable, VerifierTooOld
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.app import create_app
from pipesd_vllm.wire import Ask, said_since

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {
    "model": "default:cloud",
    "messages": [{"role": "user", "content": "hi"}],
    "n": 2,
    "seed": 7,
}
USAGE = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
WHOLE = {
    "id": "chatcmpl-server",
    "choices": [
        {"index": i, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
        for i in (0, 1)
    ],
    "usage": USAGE,
}
MakeFake = Callable[..., FakeGenerator]
Post = Callable[..., Awaitable[httpx.Response]]


def event(body: object) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def chunk(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return event({"id": "chatcmpl-server", "choices": [choice]})


DONE = b"data: [DONE]\n\n"


@pytest.fixture
def answering(generator_for: MakeFake) -> Callable[..., tuple[FakeGenerator, FakeForwardedAnswer]]:
    """`answering(status, parts...)`: an agent whose server answers that, and the answer."""

    def make(status: int, *parts: bytes, **options: Any) -> tuple[FakeGenerator, FakeForwardedAnswer]:
        generator, answer = generator_for(), FakeForwardedAnswer(status, parts, **options)
        generator.cloud = lambda path, body: answer
        return generator, answer

    return make


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else msgspec.json.decode(line) for line in lines]


def unnamed(sent: dict[str, Any]) -> dict[str, Any]:
    """Without what names the target and the request."""
    return {name: value for name, value in sent.items() if name not in ("model", "request_id")}


async def test_whole(answering: Any, post: Post) -> None:
    """The server's answer comes back with its id and usage, marked with route and reason."""
    generator, forwarded = answering(200, msgspec.json.encode(WHOLE))
    response = await post(generator, CHAT, BODY)
    body = response.json()
    assert {name: body[name] for name in WHOLE} == WHOLE
    assert body["pipesd"]["route"] == "cloud"
    assert (body["pipesd"]["reason"], body["pipesd"]["seed"]) == ("asked for", 7)
    assert response.headers["x-pipesd-route"] == "cloud; reason=asked for"
    assert response.json()["id"] == "chatcmpl-server"
    [(path, sent)] = generator.forwarded
    assert sent.pop("request_id").startswith(response.headers["x-request-id"])
    assert (path, sent) == (CHAT, {**BODY, "model": "org/target"})
    assert not generator.records
    assert forwarded.closed.is_set()


async def test_stream(answering: Any, post: Post) -> None:
    """The server's chunks come back one by one, with the figures on the last."""
    generator, forwarded = answering(200, chunk("a"), chunk("b", "stop"), DONE)
    response = await post(generator, CHAT, BODY | {"stream": True})
    first, last, done = events_of(response)
    assert first["id"] == last["id"] == "chatcmpl-server"
    assert "pipesd" not in first
    assert last["pipesd"]["route"] == "cloud"
    assert done == "[DONE]"
    assert generator.forwarded[0][1]["stream"] is True
    assert forwarded.closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("given", [None, -1, 7, -7])
async def test_sampled_text_has_a_seed(answering: Any, post: Post, stream: bool, given: int | None) -> None:
    """An answer is drawn with the client's seed, or one that header, bodies and figures name."""
    parts = (chunk("a"), chunk("b", "stop"), DONE) if stream else (msgspec.json.encode(WHOLE),)
    generator, _ = answering(200, *parts)
    body = {"model": "default:cloud", "messages": MESSAGES, "temperature": 0.7, "seed": given}
    response = await post(generator, CHAT, body | {"stream": stream})
    seed = generator.forwarded[0][1]["seed"]
    assert seed == given if given in (7, -7) else 0 <= seed < 2**53
    assert response.headers["x-pipesd-seed"] == str(seed)
    bodies = events_of(response)[:-1] if stream else [response.json()]
    assert [each["system_fingerprint"] for each in bodies] == [f"seed-{seed}"] * len(bodies)
    assert bodies[-1]["pipesd"]["seed"] == seed


async def test_a_drawn_seed_parts_no_conversation(generator_for: MakeFake, post: Post) -> None:
    """Another one each turn, it stands with the new messages, so that a session sends no tools again."""
    generator = generator_for()
    tools = [{"type": "function", "function": {"name": "read", "description": "Reads. " * 100}}]
    for messages in (MESSAGES, [*MESSAGES, {"role": "user", "content": "more"}]):
        await post(generator, CHAT, {"messages": messages, "tools": tools})
    first, second = (msgspec.json.encode(sent) for _, sent in generator.forwarded)
    sent = said_since(Ask(2, "/v1/chat/completions", second, "r"), first)
    assert len(sent.body) < 120 < len(second) / 5


async def test_greedy_text_needs_no_seed(answering: Any, post: Post) -> None:
    """At temperature 0 the request is passed on as it is."""
    generator, _ = answering(200, msgspec.json.encode(WHOLE))
    body = {"model": "org/target:cloud", "messages": MESSAGES, "temperature": 0}
    response = await post(generator, CHAT, body)
    assert [(path, unnamed(sent)) for path, sent in generator.forwarded] == [(CHAT, unnamed(body))]
    assert "x-pipesd-seed" not in response.headers


@pytest.mark.parametrize("options", [None, {"include_usage": False, "continuous_usage_stats": True}])
async def test_tokens_are_counted_unasked(answering: Any, post: Post, options: Any) -> None:
    """The server is always asked for its counts; a client that was not is not shown more than the figures."""
    generator, _ = answering(200, chunk("a", "stop"), event({"choices": [], "usage": USAGE}), DONE)
    response = await post(generator, CHAT, BODY | {"stream": True, "stream_options": options})
    end, done = events_of(response)
    assert generator.forwarded[0][1]["stream_options"] == {**(options or {}), "include_usage": True}
    assert (end["timings"]["prompt_n"], end["timings"]["predicted_n"]) == (4, 6)
    assert "usage" not in end
    assert done == "[DONE]"


async def test_lost_before_the_counts(answering: Any, post: Post) -> None:
    """A choice that has ended is told before the error that followed it."""
    generator, _ = answering(200, chunk("a", "stop"), error=CloudUnreachable("lost"))
    end, error = events_of(await post(generator, CHAT, BODY | {"stream": True}))
    assert end["choices"][0]["finish_reason"] == "stop"
    assert error["error"]["message"] == "lost"


async def test_completions(answering: Any, post: Post) -> None:
    """Raw completions go to their own path; several prompts are the server's matter."""
    generator, _ = answering(200, msgspec.json.encode({"id": "cmpl-server", "choices": []}))
    body = {"model": "org/target:cloud", "prompt": ["a", "b"], "temperature": 0}
    await post(generator, COMPLETIONS, body)
    assert [(path, unnamed(sent)) for path, sent in generator.forwarded] == [(COMPLETIONS, unnamed(body))]


async def test_asked_for_by_name(answering: Any, post: Post) -> None:
    """`NAME:cloud` goes to the server whatever the parameters."""
    generator, _ = answering(200, msgspec.json.encode(WHOLE))
    body = {"model": "org/target:cloud", "messages": MESSAGES}
    response = await post(generator, CHAT, body)
    assert response.headers["x-pipesd-route"] == "cloud; reason=asked for"


@pytest.mark.parametrize("stream", [False, True])
async def test_refused(answering: Any, post: Post, stream: bool) -> None:
    """What the server refuses is a 400 with its words, streamed or not."""
    error = {"error": {"message": "n is too large", "type": "BadRequestError", "param": "n", "code": 400}}
    generator, forwarded = answering(400, msgspec.json.encode(error))
    response = await post(generator, CHAT, BODY | {"stream": stream})
    assert response.status_code == 400
    assert response.json()["error"] == error["error"] | {"code": None}
    assert forwarded.closed.is_set()


async def test_what_nobody_does_stays_here(answering: Any, post: Post) -> None:
    """What vLLM would drop silently is refused before the server is asked."""
    generator, _ = answering(200)
    response = await post(generator, CHAT, BODY | {"best_of": 9})
    assert response.json()["error"]["param"] == "best_of"
    assert not generator.forwarded


@pytest.mark.parametrize("stream", [False, True])
async def test_out_of_reach(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """What only the server can do is a 503 that says so while it is away."""
    response = await post(generator_for(), CHAT, BODY | {"stream": stream})
    assert response.status_code == 503
    assert response.json()["error"]["message"].startswith("'n' needs the server")


async def test_lost_in_mid_stream(answering: Any, post: Post) -> None:
    """A stream that breaks off, or just ends, ends in an error event."""
    generator, _ = answering(200, chunk("a"), error=CloudUnreachable("lost"))
    assert events_of(await post(generator, CHAT, BODY | {"stream": True}))[-1]["error"]["message"] == "lost"
    generator, _ = answering(200, chunk("a"))
    last = events_of(await post(generator, CHAT, BODY | {"stream": True}))[-1]
    assert last["error"]["code"] == "cloud_unreachable"


async def test_error_event(answering: Any, post: Post) -> None:
    """An error of the server in mid-stream is an error event, as the first event a status."""
    error = event({"error": {"message": "engine died", "code": 500}})
    generator, _ = answering(200, chunk("a"), error)
    assert (
        events_of(await post(generator, CHAT, BODY | {"stream": True}))[-1]["error"]["message"]
        == "engine died"
    )
    generator, _ = answering(200, error)
    assert (await post(generator, CHAT, BODY | {"stream": True})).status_code == 502


@pytest.mark.parametrize("data", [b"<html>", b"[1]"])
async def test_not_json(answering: Any, post: Post, data: bytes) -> None:
    """Something else in the server's place is told from an answer."""
    generator, _ = answering(200, data)
    assert (await post(generator, CHAT, BODY)).json()["error"]["code"] == "cloud_misbehaved"


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_goes_away(answering: Any, asgi_call: Any, stream: bool) -> None:
    """A client that leaves ends the request on the server, streamed or not."""
    generator, forwarded = answering(200, chunk("h"), hang=True)
    call = asgi_call(create_app(generator), CHAT, BODY | {"stream": stream})
    running = asyncio.create_task(call.run())
    await asyncio.wait_for(call.got_text.wait() if stream else generator.asked.wait(), 20.0)
    call.gone.set()
    await asyncio.wait_for(forwarded.closed.wait(), 20.0)
    await asyncio.wait_for(running, 20.0)


# -- drafted for -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_older_server_is_asked_by_its_own_api(
    generator_for: MakeFake, post: Post, stream: bool
) -> None:
    """A server that takes no such requests over a session answers all the same, and the answer says why."""
    generator = generator_for(error=VerifierTooOld("it speaks version 1"))
    parts = (chunk("a"), chunk("b", "stop"), DONE) if stream else (msgspec.json.encode(WHOLE),)
    generator.cloud = lambda path, body: FakeForwardedAnswer(200, parts)
    response = await post(generator, CHAT, {"messages": MESSAGES, "stream": stream})
    assert response.headers["x-pipesd-route"] == "cloud; reason=server too old for sessions"
    body = events_of(response)[-2] if stream else response.json()
    assert (body["pipesd"]["route"], body["pipesd"]["drafted"]) == ("cloud", False)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_draft_model_answers_what_it_can(generator_for: MakeFake, post: Post, stream: bool) -> None:
    """With the verifier away a plain request is answered, marked; one that needs the server is a 503."""
    generator = generator_for("hello world", route=Route.LOCAL, route_reason="verifier out of reach")
    response = await post(generator, CHAT, {"messages": MESSAGES, "stream": stream, "logprobs": True})
    assert response.headers["x-pipesd-route"] == "local; reason=verifier out of reach"
    told = events_of(response)[-2] if stream else response.json()
    assert (told["pipesd"]["verified"], told["pipesd"]["reason"]) == (False, "verifier out of reach")
    for fields in ({"tools": [{}]}, {"n": 2}, {"temperature": 9}):
        response = await post(generator, CHAT, {"messages": MESSAGES, "stream": stream, **fields})
        assert response.status_code == 503
        assert next(iter(fields)) in (*response.json()["error"]["message"].split("'"), "temperature")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("chunk_tokens", [1, 3])
async def test_the_draft_model_goes_on(
    generator_for: MakeFake, post: Post, path: str, chunk_tokens: int
) -> None:
    """A plain text that the verifier left is continued: every character once, the rest marked."""
    said = "hello 日本 world 🙂 and more"
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    for after in range(0, 12, 2):
        generator = generator_for(said, unverified_after=after, chunk_tokens=chunk_tokens)
        body = asked | {"stream": True, "max_tokens": 90}
        events = events_of(await post(generator, path, body, **{"x-pipesd-provenance": "1"}))
        assert events[-1] == "[DONE]"
        choices = [(event, event["choices"][0]) for event in events[:-1]]
        texts = [(event, choice.get("delta", choice)) for event, choice in choices]
        name = "content" if path == CHAT else "text"
        assert "".join(delta.get(name) or "" for _, delta in texts) == said
        roles = [delta["role"] for _, delta in texts if "role" in delta]
        assert roles == (["assistant"] if path == CHAT else [])
        assert len({event["id"] for event in events[:-1]}) == 1
        assert choices[-1][1]["finish_reason"] == "stop"
        assert events[-2]["pipesd"]["unverified_tokens"] > 0
        marked = [event for event in events[:-2] if event.get("pipesd", {}).get("verified") is False]
        assert marked
        whole = await post(generator, path, asked | {"max_tokens": 90})
        choice = whole.json()["choices"][0]
        assert (choice.get("message") or {"content": choice.get("text")})["content"] == said
        assert whole.json()["pipesd"]["verified"] is False


async def test_every_piece_says_who_wrote_it(generator_for: MakeFake, post: Post) -> None:
    """Runs of drafted and corrected tokens, asked for by a header; the ids behind them stay here."""
    generator = generator_for("hello world", chunk_tokens=3)
    body = {"messages": MESSAGES, "stream": True}
    events = events_of(await post(generator, CHAT, body, **{"x-pipesd-provenance": "1"}))
    spans = [span for event in events[:-1] for span in event.get("pipesd", {}).get("provenance", ())]
    assert "".join(span["text"] for span in spans) == "hello world"
    assert {span["source"] for span in spans} == {"drafted", "corrected"}
    assert sum(span["tokens"] for span in spans) == events[-2]["timings"]["predicted_n"]
    assert not any(event["choices"][0].get("token_ids") for event in events[:-1])
    assert generator.forwarded[0][1]["return_token_ids"] is True


BROKEN: list[Any] = [
    [1],
    "x",
    [{"index": 0, "message": None}],
    [{"index": 0, "message": {"content": 3}}],
    [{"index": 0, "message": {"tool_calls": [1]}}],
    [{"index": 0, "message": {"tool_calls": [{"function": 3}]}}],
    [{"index": 0, "message": {"tool_calls": [{"function": {"arguments": {}}}]}}],
    [{"index": 0, "message": {"tool_calls": {"a": 1}}}],
]


@pytest.mark.parametrize("choices", BROKEN)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_none(
    answering: Any, post: Post, choices: Any, path: str, stream: bool
) -> None:
    """Whatever a server, or a proxy before it, makes of an answer: a 502, never a fault of ours."""
    streamed = msgspec.json.decode(msgspec.json.encode(choices).replace(b'"message"', b'"delta"'))
    broken = {**WHOLE, "choices": streamed if stream else choices}
    data = msgspec.json.encode(broken)
    generator, _ = answering(200, b"data: " + data + b"\n\n" if stream else data)
    asked = {"model": "default:cloud", "messages": BODY["messages"], "max_tokens": 5, "stream": stream}
    asked |= {"input": "x"} if path == "/v1/responses" else {}
    response = await post(generator, path, asked)
    assert response.status_code == 502, response.text
