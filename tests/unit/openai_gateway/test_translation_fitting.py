from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openai_gateway.cloud_errors import refusal
from openai_gateway.errors import ApiError, ContextLengthExceeded, InvalidRequest
from openai_gateway.translation.fitting import fitting

CHAT = {"messages": [], "max_tokens": 64_000}


class Service:
    """Refuses what has a limit with `error`."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[Any] = []

    async def ask(self, chat: Any) -> str:
        self.asked.append(chat)
        if "max_tokens" in chat:
            raise self.error
        return "answer"


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
async def test_a_limit_beyond_the_context_goes(error: Exception) -> None:
    """Refused by the gateway or by vLLM, the request is made once more without its limit."""
    service = Service(error)
    assert await fitting(CHAT, service.ask) == "answer"
    assert service.asked == [CHAT, {"messages": []}]


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
    service = Service(error)
    with pytest.raises(ApiError):
        await fitting(CHAT, service.ask)
    assert len(service.asked) == 1
