from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.errors import InvalidRequest
from openai_gateway.routing.reasoning import with_thinking

MESSAGES = [{"role": "user", "content": "hi"}]
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
ON = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize(
    ("wish", "meant"),
    [
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"enabled": False}}, {"reasoning_effort": "none"}),
        ({"reasoning": {"enabled": True, "max_tokens": None}}, ON),
        ({"reasoning": {"exclude": True}}, {"include_reasoning": False}),
        ({"reasoning": {}}, {}),
        ({"reasoning": None}, {"reasoning": None}),
        ({"enable_thinking": False}, OFF),
        ({"thinking": True}, ON),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, ON),
        ({"thinking": {"type": "disabled"}, **OFF}, OFF),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            {"enable_thinking": False, "chat_template_kwargs": {"a": 1}},
            {"chat_template_kwargs": {"a": 1, "enable_thinking": False}},
        ),
        ({"enable_thinking": False, "chat_template_kwargs": 3}, {"chat_template_kwargs": 3}),
    ],
)
def test_wishes(wish: dict[str, Any], meant: dict[str, Any]) -> None:
    """Each way to ask for reasoning becomes the fields that every route follows, in a copy."""
    body = {"messages": MESSAGES, **wish}
    before = msgspec.json.encode(body)
    assert with_thinking(body) == {"messages": MESSAGES, **meant}
    assert msgspec.json.encode(body) == before


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"max_tokens": 2000}}, "reasoning.max_tokens"),
        ({"reasoning": {"enabled": "yes"}}, "reasoning.enabled"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning"),
        ({"reasoning": {"effort": "low", "enabled": False}}, "reasoning"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": []}}, "thinking.type"),
        ({"thinking": "on"}, "thinking"),
        ({"enable_thinking": {"type": "enabled"}}, "enable_thinking"),
        ({"enable_thinking": True, **OFF}, "enable_thinking"),
    ],
)
def test_wishes_that_cannot_be_followed(wish: dict[str, Any], param: str) -> None:
    """Wrong types, wishes that contradict each other and those without a counterpart are named."""
    with pytest.raises(InvalidRequest) as caught:
        with_thinking({"messages": MESSAGES, **wish})
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
async def test_the_server_is_told_in_its_own_words(
    generator_for: Callable[..., FakeGenerator], post: Callable[..., Awaitable[httpx.Response]], stream: bool
) -> None:
    """vLLM would ignore `reasoning`; it is sent `reasoning_effort`."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(200, (b"data: [DONE]\n\n" if stream else b"{}",))
    body = {"model": "default:cloud", "messages": MESSAGES, "reasoning": {"effort": "low"}, "stream": stream}
    await post(generator, "/v1/chat/completions", body)
    [(_, sent)] = generator.forwarded
    assert sent["reasoning_effort"] == "low"
    assert "reasoning" not in sent
