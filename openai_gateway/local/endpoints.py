"""The two endpoints that generate text: what their bodies are and how their prompts are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from openai_gateway.local.schema import ChatRequest, CompletionRequest, GenerationFields, parse_request
from openai_gateway.local.shapes import ChatShape, CompletionShape, Shape
from openai_gateway.local.text.tokenizer import TargetText
from openai_gateway.local.thinking import with_thinking

__all__ = ["CHAT", "COMPLETIONS", "Endpoint"]


class Endpoint(Protocol):
    """`path` on any OpenAI server; `prompt_param`: the field that the prompt is made of.

    `adds_special_tokens`: whether the tokenizer adds them, or the prompt has them already.
    `splits_reasoning`: whether a server with a reasoning parser uses it here.
    """

    @property
    def path(self) -> str: ...
    @property
    def prompt_param(self) -> str: ...
    @property
    def adds_special_tokens(self) -> bool: ...
    @property
    def splits_reasoning(self) -> bool: ...
    @property
    def shape(self) -> Shape: ...

    def own_words(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """`body` with what other servers' clients say differently said in the server's words.

        Raises `InvalidRequest`.
        """
        ...

    def parse(self, body: Mapping[str, Any] | bytes) -> GenerationFields:
        """The request, checked. Raises `InvalidRequest`."""
        ...

    async def encode(self, request: GenerationFields, text: TargetText) -> tuple[int, ...]:
        """Token ids of the prompt of what `parse` returned. Raises `InvalidRequest`."""
        ...


class _Chat:
    path = "/v1/chat/completions"
    prompt_param = "messages"
    adds_special_tokens = False
    splits_reasoning = True
    shape: Shape = ChatShape()

    def own_words(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return with_thinking(body)

    def parse(self, body: Mapping[str, Any] | bytes) -> ChatRequest:
        return parse_request(ChatRequest, body)

    async def encode(self, request: GenerationFields, text: TargetText) -> tuple[int, ...]:
        assert isinstance(request, ChatRequest)
        return await text.encode_chat(request)


class _Completions:
    path = "/v1/completions"
    prompt_param = "prompt"
    adds_special_tokens = True
    splits_reasoning = False
    shape: Shape = CompletionShape()

    def own_words(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body

    def parse(self, body: Mapping[str, Any] | bytes) -> CompletionRequest:
        return parse_request(CompletionRequest, body)

    async def encode(self, request: GenerationFields, text: TargetText) -> tuple[int, ...]:
        assert isinstance(request, CompletionRequest)
        prompt = request.prompt
        return await text.encode_prompt(prompt) if isinstance(prompt, str) else prompt


CHAT: Final[Endpoint] = _Chat()
COMPLETIONS: Final[Endpoint] = _Completions()
