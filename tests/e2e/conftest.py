"""What the clients of other protocols share: one gateway on the real stack, and the server's own answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from openai_gateway.app import create_app
from tests.conftest import Verifier

from .live import MESSAGES, NUM_TOKENS
from .stack import agent_of, server_client, serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(verifier: Verifier) -> AsyncIterator[str]:
    """The gateway on a real agent; gives scheme, host and port."""
    async with (
        agent_of(verifier) as agent,
        serving(create_app(agent)) as url,
    ):
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(verifier: Verifier) -> str:
    """The server's own answer to `QUESTION`."""
    async with server_client(verifier) as server:
        answer = await server.chat.completions.create(
            model=verifier.model, messages=MESSAGES, temperature=0, max_tokens=NUM_TOKENS
        )
    return answer.choices[0].message.content or ""
