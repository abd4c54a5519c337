from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.api import ForwardedAnswer, TargetInfo, TokenizerBundle
from edge_agent.errors import CloudUnreachable
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator, Script

from ..conftest import Post

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CHOICE = {"index": 0, "message": {"content": "yes", "reasoning": "hm"}, "finish_reason": "stop"}
CHUNK = {"index": 0, "delta": {"reasoning": "hm"}, "finish_reason": "stop"}


@pytest.fixture
def thinker(target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script]) -> FakeGenerator:
    """An agent whose server has a reasoning parser; its own API answers."""

    def cloud(path: str, body: Any) -> ForwardedAnswer:
        if body.get("stream"):
            event = b"data: " + msgspec.json.encode({"id": "x", "choices": [CHUNK]}) + b"\n\n"
            return FakeForwardedAnswer(200, [event, b"data: [DONE]\n\n"])
        return FakeForwardedAnswer(200, [msgspec.json.encode({"id": "x", "choices": [CHOICE]})])

    generator = FakeGenerator(replace(target, reasoning_parser="qwen3"), bundle, script_for("hello"))
    generator.cloud = cloud
    return generator


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_split_by_the_server(thinker: FakeGenerator, post: Post, stream: bool) -> None:
    """Chats with a model whose reasoning the server splits take its own API, and say so."""
    answer = await post(thinker, "/v1/chat/completions", CHAT | {"stream": stream})
    assert answer.headers["x-pipesd-route"] == "cloud; reason=reasoning parser"
    assert answer.text.count('"reasoning_content":"hm"') == 1
    assert not thinker.records


@pytest.mark.parametrize(
    "switch", [{"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}]
)
async def test_without_reasoning_nothing_is_to_be_split(
    thinker: FakeGenerator, post: Post, switch: dict[str, Any]
) -> None:
    """A chat whose reasoning is switched off stays collaborative; switched on, it does not."""
    answer = await post(thinker, "/v1/chat/completions", CHAT | switch)
    assert answer.headers["x-pipesd-route"] == "collaborative; reason=default"
    thinking = {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}
    answer = await post(thinker, "/v1/chat/completions", CHAT | thinking)
    assert answer.headers["x-pipesd-route"] == "cloud; reason=reasoning parser"


THOUGHTS = "hm, so</think>\n\nyes"


@pytest.fixture
def plain_thinker(
    target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script]
) -> FakeGenerator:
    """An agent whose server's parser only cuts at marks."""
    marks = ("<think>", "</think>")
    known = replace(target, reasoning_parser="qwen3", reasoning_marks=marks)
    return FakeGenerator(known, bundle, script_for(THOUGHTS))


async def test_plain_reasoning_is_split_here(plain_thinker: FakeGenerator, post: Post) -> None:
    """Where the server's parser only cuts at marks, the collaborative route does, under both names."""
    answer = await post(plain_thinker, "/v1/chat/completions", CHAT)
    assert answer.headers["x-pipesd-route"] == "collaborative; reason=default"
    message = answer.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("hm, so", "\n\nyes")
    assert message["reasoning_content"] == message["reasoning"]


@pytest.mark.parametrize("logprobs", [False, True])
async def test_plain_reasoning_in_a_stream(plain_thinker: FakeGenerator, post: Post, logprobs: bool) -> None:
    """Thoughts and answer come in turn, the mark in none of them; every token has its score."""
    body = CHAT | {"stream": True, "logprobs": logprobs, "stream_options": {"include_usage": True}}
    answer = await post(plain_thinker, "/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    *chunks, last = [msgspec.json.decode(event) for event in events]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm, so"
    assert "".join(delta.get("content", "") for delta in deltas) == "\n\nyes"
    scores = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    num_scores = sum(len(each["content"]) for each in scores if each)
    assert num_scores == (last["usage"]["completion_tokens"] if logprobs else 0)


async def test_nothing_is_cut_where_nothing_thinks(plain_thinker: FakeGenerator, post: Post) -> None:
    """With reasoning switched off, and in raw completions, the text is left whole."""
    answer = await post(plain_thinker, "/v1/chat/completions", CHAT | {"reasoning_effort": "none"})
    assert answer.json()["choices"][0]["message"]["content"] == THOUGHTS
    answer = await post(plain_thinker, "/v1/completions", {"prompt": "hi", "max_tokens": 40})
    assert answer.json()["choices"][0]["text"] == THOUGHTS


async def test_raw_completions_have_no_reasoning(thinker: FakeGenerator, post: Post) -> None:
    """Raw completions are never split: they stay collaborative."""
    answer = await post(thinker, "/v1/completions", {"prompt": "hi"})
    assert answer.headers["x-pipesd-route"] == "collaborative; reason=default"


@pytest.mark.parametrize("stream", [False, True])
async def test_out_of_reach(thinker: FakeGenerator, post: Post, stream: bool) -> None:
    """The server's parser is worth no refusal: without its API the agent answers, by its own policy."""

    def gone(path: str, body: Any) -> ForwardedAnswer:
        raise CloudUnreachable("gone")

    thinker.cloud = gone
    answer = await post(thinker, "/v1/chat/completions", CHAT | {"stream": stream})
    assert (answer.status_code, len(thinker.records)) == (200, 1)
    needed = await post(thinker, "/v1/chat/completions", CHAT | {"stream": stream, "n": 2})
    assert (needed.status_code, len(thinker.records)) == (503, 1)
