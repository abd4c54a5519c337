"""What clients may send to /v1/responses."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from openai_gateway.local import Fields

__all__ = ["IGNORED", "NEUTRAL", "OWN_NAMES", "Reasoning", "ResponsesRequest", "TextOptions"]

IGNORED: Final = frozenset(
    {
        "access_programs",
        "background_options",
        "client_metadata",
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
    }
)
"""Billing, caching, user identification, and a limit on tools that run at OpenAI: ignored."""

NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}

OWN_NAMES: Final = {
    "messages": "input",
    "input_tokens": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
"""The chat API's parameters as they are called here, for error messages."""


class Reasoning(Fields):
    """`summary` asks for a digest of the thoughts; the answer has the thoughts themselves."""

    effort: str | None = None
    summary: str | None = None


class TextOptions(Fields):
    """The form of the answer's text."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesRequest(Fields):
    """Body of POST /v1/responses."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    store: bool | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
