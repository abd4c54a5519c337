"""The two endpoints that generate text: their request types, prompts and response shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from openai_gateway.local.schema import ChatRequest, CompletionRequest, GenerationFields
from openai_gateway.local.shapes import ChatShape, CompletionShape, Shape
from openai_gateway.local.text.tokenizer import TargetText
from pipesd_vllm.wire import AskPath

__all__ = ["CHAT", "COMPLETIONS", "Endpoint", "RequestT"]


RequestT = TypeVar("RequestT", bound=GenerationFields)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[RequestT]):
    """One of the two endpoints, under the same `path` on any OpenAI server."""

    path: AskPath
    request_type: type[RequestT]
    shape: Shape
    prompt_param: str
    """The field that the prompt is made of."""
    encode: Callable[[RequestT, TargetText], Awaitable[tuple[int, ...]]]
    """Returns the prompt's token ids. Raises `InvalidRequest`."""
    splits_reasoning: bool
    """Whether a server with a reasoning parser uses it here."""


async def _encode_chat(request: ChatRequest, text: TargetText) -> tuple[int, ...]:
    return await text.encode_chat(request)


async def _encode_prompt(request: CompletionRequest, text: TargetText) -> tuple[int, ...]:
    prompt = request.prompt
    return await text.encode_prompt(prompt) if isinstance(prompt, str) else prompt


CHAT: Final = Endpoint(
    path="/v1/chat/completions",
    request_type=ChatRequest,
    shape=ChatShape(),
    prompt_param="messages",
    encode=_encode_chat,
    splits_reasoning=True,
)
COMPLETIONS: Final = Endpoint(
    path="/v1/completions",
    request_type=CompletionRequest,
    shape=CompletionShape(),
    prompt_param="prompt",
    encode=_encode_prompt,
    splits_reasoning=False,
)
