"""LangChain's own conformance suite (`langchain-tests`), run by `langchain-openai` against the real stack."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from openai_gateway.app import create_app
from tests.conftest import Verifier

from .stack import serving, started_agent

pytestmark = [
    pytest.mark.engine,
    # LangChain's own, about its own types.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
]

RAMBLES = "SmolLM2-135M writes blanks into its JSON to the token limit; call or object has no end"
UNASKED = "SmolLM2's chat template does not show the tools to the model: it does not call them unasked"
NO_CALL = (AssertionError,)
CUT_OFF = (openai.LengthFinishReasonError,)
NOT_OURS = {
    "test_tool_calling_with_no_arguments": (RAMBLES, NO_CALL),
    "test_unicode_tool_call_integration": (RAMBLES, NO_CALL),
    "test_structured_output_pydantic_2_v1": (RAMBLES, NO_CALL + CUT_OFF),  # by a call, then as JSON
    "test_structured_output_optional_param": (RAMBLES, CUT_OFF),
    "test_agent_loop": (UNASKED, NO_CALL),
}
"""Tests that may fail for a reason that is not the gateway's, and what they then raise: an error that the
gateway answers with still fails them. Not strict, as the model's words hang on the machine's arithmetic. What
is ours in them (calls by name with a strict schema, JSON by schema, streamed and whole) passes in
test_routes.py."""


class GatewayThread:
    """The gateway with its agent, in an event loop of its own: LangChain's tests call from theirs."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.url = ""

    def __enter__(self) -> GatewayThread:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        try:
            async with (
                started_agent(self._verifier.base_url, self._verifier.api_key) as agent,
                serving(create_app(agent)) as url,
            ):
                self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
                self.url = f"{url}/v1"
                self._ready.set()
                await self._stop.wait()
        finally:
            self._ready.set()


@pytest.fixture(scope="module")
def gateway_url(verifier: Verifier) -> Iterator[str]:
    with GatewayThread(verifier) as gateway:
        assert gateway.url
        yield gateway.url


class TestGatewayWithLangChain(ChatModelIntegrationTests):
    """Every test of the suite; those that fail for a reason that is not ours say which."""

    url = ""

    @pytest.fixture(autouse=True)
    def _gateway(self, gateway_url: str, request: pytest.FixtureRequest) -> None:
        type(self).url = gateway_url
        if (not_ours := NOT_OURS.get(request.node.originalname)) is not None:
            reason, raises = not_ours
            request.applymarker(pytest.mark.xfail(reason=reason, raises=raises))

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Each test has an event loop of its own, which no connection may outlive.
        limits = httpx.Limits(max_keepalive_connections=0)
        return {
            "model": "default",
            "base_url": self.url or "http://unused",
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 64,
            "stream_usage": True,
            "max_retries": 0,
            "http_async_client": httpx.AsyncClient(limits=limits, trust_env=False, timeout=60),
        }

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return False  # the mode works; the embedded model's JSON does not have the fields that are asked for

    @property
    def model_override_value(self) -> str:
        return "SmolLM2-135M-Instruct"
