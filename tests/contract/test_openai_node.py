"""The gateway called with OpenAI's client for Node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import node_client
from .scripted import ANSWER, MODEL, WEATHER, calling, gateway


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    with node_client.script() as script:
        yield script


@pytest.mark.client
async def test_the_node_client(script: Path) -> None:
    """Chat, stream, usage, tools, the Responses API, a typed error and leaving early, all in Node."""
    generator = calling()
    async with gateway(generator) as url:
        seen = await node_client.run(script, url, MODEL, "hello")
    assert seen["whole"] == seen["streamed"] == seen["response"] == ANSWER
    assert seen["usage"] == seen["streamedUsage"]
    for call in (seen["call"], seen["responseCall"]):
        assert (call["name"], call["arguments"]) == ("weather", WEATHER)
    assert seen["error"] == {"kind": "BadRequestError", "status": 400, "param": "temperature"}
