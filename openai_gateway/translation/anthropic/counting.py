"""Counts the tokens of a chat request's prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from edge_agent.api import Generator
from edge_agent.errors import CloudMisbehaved
from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError
from openai_gateway.local import ChatRequest, TargetTextCache, parse_request
from openai_gateway.routing import Fleet

__all__ = ["FleetPromptCounter", "GeneratorPromptCounter", "PromptCounter"]

TOKENIZE_PATH = "/tokenize"
_LOCAL_FIELDS = frozenset({"model", "messages", "reasoning_effort", "chat_template_kwargs"})


class PromptCounter(Protocol):
    """Counts without generating."""

    async def count(self, body: Mapping[str, Any]) -> int:
        """Tokens of the prompt of the chat request `body`. Raises `ApiError` or `EdgeError`."""
        ...


class GeneratorPromptCounter:
    """Counts with the target's tokenizer here, and asks the server for prompts that it renders (tools)."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._texts = TargetTextCache()

    async def count(self, body: Mapping[str, Any]) -> int:
        if body.keys() <= _LOCAL_FIELDS:
            request = parse_request(ChatRequest, msgspec.json.encode(body))
            text = await self._texts.load(await self._generator.tokenizer())
            return len(await text.encode_chat(request))
        return await self._count_on_server({**body, "model": (await self._generator.target()).model})

    async def _count_on_server(self, body: Json) -> int:
        wanted = {key: value for key, value in body.items() if key not in _CHAT_ONLY}
        answer = await self._generator.forward(TOKENIZE_PATH, msgspec.json.encode(wanted))
        try:
            content = await answer.read()
            if answer.status != 200:
                status = 400 if answer.status < 500 else 502
                raise ApiError(status, f"The server could not count: {content.decode(errors='replace')}")
            return msgspec.json.decode(content, type=_Count).count
        except msgspec.DecodeError as error:
            raise CloudMisbehaved(f"{TOKENIZE_PATH} gave no count ({error})") from error
        finally:
            await answer.aclose()


_CHAT_ONLY = frozenset({"tool_choice", "parallel_tool_calls", "reasoning_effort"})


class FleetPromptCounter:
    """Counts as the target does that a request's model names."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._counters = {each.label: GeneratorPromptCounter(each.generator) for each in fleet.members}

    async def count(self, body: Mapping[str, Any]) -> int:
        member = await self._fleet.pick(body.get("model"))
        return await self._counters[member.label].count(body)


class _Count(msgspec.Struct):
    count: int
