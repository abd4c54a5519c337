"""The engine's prefix cache: shared by the sessions of one API key, and by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tests.conftest import OTHER_API_KEY, Verifier

from .session_client import DEADLINE_S, edge_of, metric, plain_tokens, until, until_idle

pytestmark = pytest.mark.engine

QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
"""Tokens that the engine looked for in its prefix cache, and found there."""
PROMPT = [1000 + 7 * i for i in range(320)]
"""No other test's, and longer than two of the CPU build's blocks."""


@dataclass
class Found:
    """How many of the prompt's tokens came from the cache."""

    num_tokens: float = -1


@asynccontextmanager
async def looked_up(verifier: Verifier) -> AsyncIterator[Found]:
    """What the one request in the block finds in the cache; the engine's figures trail its answers."""
    await until_idle(verifier)
    before = await metric(verifier, QUERIES), await metric(verifier, HITS)
    found = Found()
    yield found

    async def counted() -> bool:
        return await metric(verifier, QUERIES) >= before[0] + len(PROMPT)

    await until(counted, DEADLINE_S, "counting the prompt's tokens")
    found.num_tokens = await metric(verifier, HITS) - before[1]


async def of_a_session(verifier: Verifier) -> float:
    """What a turn on a connection of its own finds."""
    async with looked_up(verifier) as found, edge_of(verifier) as edge:
        await edge.generate(PROMPT, 2)
    return found.num_tokens


async def test_the_prefix_cache_is_a_tenants_own(verifier: Verifier) -> None:
    """A key's second session finds the first one's prompt; another key's and the plain API do not."""
    other = replace(verifier, api_key=OTHER_API_KEY)
    assert await of_a_session(verifier) == 0
    shared = await of_a_session(verifier)
    assert shared > len(PROMPT) / 2
    assert await of_a_session(other) == 0
    assert await of_a_session(other) == shared
    async with looked_up(verifier) as found:
        plain_tokens(verifier, PROMPT, 2)
    assert found.num_tokens == 0
