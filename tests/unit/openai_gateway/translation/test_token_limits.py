from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from edge_agent.testing import FakeGenerator
from openai_gateway.app import create_app
from openai_gateway.chat_service import Answer, SessionOptions
from openai_gateway.errors import ApiError, ContextLengthExceeded, InvalidRequest, refusal
from openai_gateway.observe import RequestLog
from openai_gateway.testing import FakeChatService
from openai_gateway.translation import LenientLimits

CHAT = {"messages": [], "max_tokens": 64_000}


class Limited(FakeChatService):
    """Refuses what has a limit with `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def _begin(self, body: Mapping[str, Any], options: SessionOptions) -> None:
        await super()._begin(body, options)
        if "max_tokens" in body:
            raise self.error


async def ask(service: FakeChatService, *, stream: bool) -> Answer:
    return await LenientLimits(service).answer(CHAT | {"stream": stream}, SessionOptions())


def of_vllm(param: str) -> Exception:
    """What vLLM answers to a limit beyond the context."""
    message = "max_tokens=64000 cannot be greater than max_model_len=max_total_tokens=2048."
    error = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    return refusal(400, msgspec.json.encode({"error": error}), ("tools",))


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceeded("too long", param="max_tokens"),
        of_vllm("max_tokens"),
        of_vllm("max_completion_tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_beyond_the_context_goes(error: Exception, stream: bool) -> None:
    """Refused by the gateway or by vLLM, the request is made once more without its limit."""
    service = Limited(error)
    assert await ask(service, stream=stream)
    asked = CHAT | {"stream": stream}
    assert [body for body, _ in service.asked] == [asked, {"messages": [], "stream": stream}]


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceeded("the prompt is too long", param="messages"),
        InvalidRequest("Invalid 'max_tokens'", param="max_tokens", code="invalid_value"),
        of_vllm("tools"),
        ApiError(429, "slow down", param="max_tokens"),
    ],
)
async def test_other_refusals_stay(error: ApiError) -> None:
    """What a limit is not the reason of is raised, and asked once."""
    service = Limited(error)
    with pytest.raises(ApiError):
        await ask(service, stream=False)
    assert len(service.asked) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/api/chat"])
async def test_it_is_one_request(
    generator_for: Callable[..., FakeGenerator],
    client_for: Callable[[FastAPI], httpx.AsyncClient],
    path: str,
) -> None:
    """Metrics and logs see one good request, not a failed one before it."""
    log = io.StringIO()
    app = create_app(generator_for(), observers=[RequestLog("json", log)])
    limit = {"max_tokens": 64_000, "options": {"num_predict": 64_000}}
    own = {"/v1/messages": "max_tokens", "/api/chat": "options"}[path]
    body = {"model": "default", "messages": [{"role": "user", "content": "hi"}], own: limit[own]}
    async with client_for(app) as client:
        assert (await client.post(path, json=body | {"stream": False})).status_code == 200
    assert [json.loads(line)["status"] for line in log.getvalue().splitlines()] == [200]
