"""OpenAI's client for Node on the real stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Verifier
from tests.contract import node_client
from tests.integration.session_client import until_idle

from .live import QUESTION, City
from .stack import server_client

pytestmark = [pytest.mark.client, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def verifier(embedded_verifier: Verifier) -> Verifier:
    """The whole model: calls that a model of a few layers is made to write have no end."""
    return embedded_verifier


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    with node_client.script() as script:
        yield script


async def test_the_node_client(verifier: Verifier, gateway: str, script: Path) -> None:
    """Text and usage are the server's own; calls and JSON keep to their form; leaving frees the server."""
    async with server_client(verifier) as server:
        theirs = await server.chat.completions.create(
            model=verifier.model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=128,
        )
    seen = await node_client.run(script, gateway, verifier.model, QUESTION)
    assert seen["whole"] == seen["streamed"] == seen["response"] == theirs.choices[0].message.content
    said = {name: value for name, value in seen["usage"].items() if value is not None}
    assert said == seen["streamedUsage"]  # vLLM names what it does not count in whole answers alone
    assert theirs.usage
    assert seen["usage"]["total_tokens"] == theirs.usage.total_tokens
    for call in (seen["call"], seen["responseCall"]):
        assert call["name"] == "weather"
        City.model_validate_json(call["arguments"])
    City.model_validate_json(seen["json"])
    assert seen["error"] == {"kind": "BadRequestError", "status": 400, "param": "temperature"}
    await until_idle(verifier)
