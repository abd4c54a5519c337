from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edge_agent.errors import CloudMisbehaved
from edge_agent.testing import FakeForwardedAnswer, FakeGenerator
from openai_gateway.errors import ApiError
from openai_gateway.translation.anthropic.counting import TOKENIZE_PATH, GeneratorPromptCounter

MESSAGES = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
MakeFake = Callable[..., FakeGenerator]


async def test_plain_prompts_are_counted_here(generator_for: MakeFake) -> None:
    """A prompt that is rendered here needs no server, and its count is that of the rendered prompt."""
    generator = generator_for()
    short = await GeneratorPromptCounter(generator).count({"model": "org/target", "messages": MESSAGES})
    double = await GeneratorPromptCounter(generator).count({"messages": MESSAGES * 2})
    assert 5 < short < double
    assert generator.forwarded == []


async def test_prompts_with_tools_are_counted_by_the_server(generator_for: MakeFake) -> None:
    """Only the server renders tools: it is asked, by the target's own name, for just the prompt's fields."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(200, [msgspec.json.encode({"count": 42})])
    body: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "auto"}
    assert await GeneratorPromptCounter(generator).count(body) == 42
    assert generator.forwarded == [
        (TOKENIZE_PATH, {"messages": MESSAGES, "tools": TOOLS, "model": "org/target"})
    ]


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [(400, b"no", ApiError), (500, b"oops", ApiError), (200, b"{}", CloudMisbehaved)],
)
async def test_a_server_that_cannot_count_says_so(
    generator_for: MakeFake, status: int, content: bytes, error: type[Exception]
) -> None:
    """Refusals and nonsense from the server become typed errors."""
    generator = generator_for()
    generator.cloud = lambda path, body: FakeForwardedAnswer(status, [content])
    with pytest.raises(error):
        await GeneratorPromptCounter(generator).count({"messages": MESSAGES, "tools": TOOLS})
