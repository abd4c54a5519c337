from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from edge_agent.api import Route, TargetInfo, TokenizerBundle
from edge_agent.testing import FakeGenerator, Script

from ..conftest import Post

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


THOUGHTS = "hm, so</think>\n\nyes"
LOCAL = CHAT | {"model": "default:local"}


@pytest.fixture
def thinker(target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script]) -> FakeGenerator:
    """An agent whose server's reasoning parser only cuts at marks, and is away."""
    marks = ("<think>", "</think>")
    known = replace(target, reasoning_parser="qwen3", reasoning_marks=marks)
    return FakeGenerator(known, bundle, script_for(THOUGHTS, route=Route.LOCAL))


async def test_plain_reasoning_is_split_here(thinker: FakeGenerator, post: Post) -> None:
    """Where the server's parser only cuts at marks, the route `local` does, under both names."""
    answer = await post(thinker, "/v1/chat/completions", LOCAL)
    message = answer.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("hm, so", "\n\nyes")
    assert message["reasoning_content"] == message["reasoning"]


async def test_plain_reasoning_in_a_stream(thinker: FakeGenerator, post: Post) -> None:
    """Thoughts and answer come in turn, the mark in none of them."""
    body = LOCAL | {"stream": True, "stream_options": {"include_usage": True}}
    answer = await post(thinker, "/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    *chunks, _ = [msgspec.json.decode(event) for event in events]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm, so"
    assert "".join(delta.get("content", "") for delta in deltas) == "\n\nyes"


async def test_nothing_is_cut_where_nothing_thinks(thinker: FakeGenerator, post: Post) -> None:
    """With reasoning switched off, and in raw completions, the text is left whole."""
    answer = await post(thinker, "/v1/chat/completions", LOCAL | {"reasoning_effort": "none"})
    assert answer.json()["choices"][0]["message"]["content"] == THOUGHTS
    body = {"model": "default:local", "prompt": "hi", "max_tokens": 40}
    answer = await post(thinker, "/v1/completions", body)
    assert answer.json()["choices"][0]["text"] == THOUGHTS


@pytest.mark.parametrize("stream", [False, True])
async def test_who_stands_in_for_a_verifier_that_is_away(
    target: TargetInfo, bundle: TokenizerBundle, script_for: Callable[..., Script], post: Post, stream: bool
) -> None:
    """Not the draft model where thoughts are to be split in a way that only the server can."""
    generator = FakeGenerator(
        replace(target, reasoning_parser="harmony"), bundle, script_for("yes", route=Route.LOCAL)
    )
    answer = await post(generator, "/v1/chat/completions", CHAT | {"stream": stream})
    assert answer.status_code == 503
    for switch in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        answer = await post(generator, "/v1/chat/completions", CHAT | {"stream": stream} | switch)
        assert answer.headers["x-pipesd-route"] == "local; reason=default"
