"""A dozen cases of LangChain's conformance suite (`langchain-tests`), with `langchain-openai`, real stack.

The rest of the suite asks again for what these do, for media that the route refuses, or for answers that so
small a model does not give; what is ours in those is in test_routes.py and test_structure_stack.py.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from openai_gateway.app import create_app
from tests.conftest import Verifier

from .stack import agent_of, serving

pytestmark = [
    pytest.mark.client,
    pytest.mark.asyncio(loop_scope="module"),
    # LangChain's own, about its own types.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

CASES: Final[dict[str, dict[str, Any]]] = {
    "test_invoke": {},
    "test_stream": {},
    "test_abatch": {},
    "test_conversation": {},
    "test_double_messages_conversation": {},
    "test_usage_metadata": {},
    "test_usage_metadata_streaming": {},
    "test_astream": {},
    "test_invoke_with_model_override": {},
    "test_tool_calling": {},
    "test_tool_choice": {},
    "test_structured_output": {"schema_type": "pydantic"},
}
"""Names and what they take besides the model."""
FIELDS: Final[dict[str, Any]] = {
    "model": "default",
    "api_key": "none",
    "temperature": 0,
    "max_tokens": 64,
    "stream_usage": True,
    "max_retries": 0,
}


class Suite(ChatModelIntegrationTests):
    """What the suite asks about the model under test."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def model_override_value(self) -> str:
        return "SmolLM2-135M-Instruct"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(embedded_verifier: Verifier) -> AsyncIterator[BaseChatModel]:
    """LangChain's client of the gateway."""
    async with (
        agent_of(embedded_verifier) as agent,
        serving(create_app(agent)) as url,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        yield ChatOpenAI(base_url=f"{url}/v1", http_async_client=client, **FIELDS)


@pytest.mark.parametrize("case", CASES)
async def test_langchain(model: BaseChatModel, case: str) -> None:
    """The suite's own assertions hold. Its calls that block run beside the gateway's event loop."""
    asked, arguments = getattr(Suite(), case), CASES[case]
    if inspect.iscoroutinefunction(asked):
        await asked(model, **arguments)
    else:
        await asyncio.to_thread(asked, model, **arguments)
