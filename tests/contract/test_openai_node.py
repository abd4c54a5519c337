"""The gateway called with OpenAI's client for Node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.api import ForwardedAnswer
from edge_agent.testing import FakeForwardedAnswer

from . import node_client
from .scripted import ANSWER, CALL_DELTAS, MODEL, WEATHER, answering, cloud, gateway


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    with node_client.script() as script:
        yield script


def server(path: str, body: Mapping[str, Any]) -> ForwardedAnswer:
    """Refuses temperatures as vLLM does, calls the tools that it is given, answers with text otherwise."""
    if body["temperature"] > 2:
        error = {"message": "too warm", "type": "BadRequestError", "param": "temperature", "code": 400}
        return FakeForwardedAnswer(400, [msgspec.json.encode({"error": error})])
    if "tools" in body:
        return cloud(CALL_DELTAS, "tool_calls")(path, body)
    return cloud(({"content": ANSWER},), "stop")(path, body)


@pytest.mark.client
async def test_the_node_client(script: Path) -> None:
    """Chat, stream, usage, tools, the Responses API, a typed error and leaving early, all in Node."""
    generator = answering()
    generator.cloud = server
    async with gateway(generator) as url:
        seen = await node_client.run(script, url, MODEL, "hello")
    assert seen["whole"] == seen["streamed"] == seen["response"] == ANSWER
    assert seen["usage"] == seen["streamedUsage"]
    for call in (seen["call"], seen["responseCall"]):
        assert (call["name"], call["arguments"]) == ("weather", WEATHER)
    assert seen["error"] == {"kind": "BadRequestError", "status": 400, "param": "temperature"}
