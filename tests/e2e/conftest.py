"""What the clients of other protocols share: one gateway on the real stack, and the server's own answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from openai_gateway.app import create_app
from openai_gateway.cli.local_target import local_target
from tests.conftest import API_KEY, Verifier

from .live import MESSAGES, NUM_TOKENS
from .stack import server_client, serving, started_agent
from .thinking_model import NAME, Thinker, make_thinking_pair


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(verifier: Verifier) -> AsyncIterator[str]:
    """The gateway on a real agent; gives scheme, host and port."""
    async with (
        started_agent(verifier.base_url, verifier.api_key) as agent,
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


@pytest.fixture(scope="session")
def starting_thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thinker]:
    """A model that thinks, its server not ready yet."""
    folder = tmp_path_factory.mktemp("thinking")
    draft, target = make_thinking_pair(folder)
    flags = ["--dtype", "float32", "--enforce-eager", "--api-key", API_KEY, "--served-model-name", NAME]
    flags += ["--reasoning-parser", "deepseek_r1"]
    with local_target(str(target), flags, log_dir=folder) as server:
        yield Thinker(Verifier(server.base_url, API_KEY, NAME, server), draft)
