"""What clients may send to /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from openai_gateway.local import Fields

__all__ = ["IGNORED", "NEUTRAL", "OWN_NAMES", "CountRequest", "Message", "MessagesRequest"]

IGNORED: Final = frozenset(
    {
        "betas",
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Billing, caching and user identification, which do not change the answer. `context_management` lets
Anthropic shorten a long prompt; here the whole prompt is read."""

NEUTRAL: Final[dict[str, tuple[object, ...]]] = {"container": (), "mcp_servers": ([],)}

OWN_NAMES: Final = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}
"""The chat API's parameters as they are called here, for error messages."""


class Message(Fields):
    """One turn. A `system` turn may stand anywhere."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Thinking(Fields):
    """`budget_tokens` is a target that models need not keep to; it is not passed on."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Fields):
    """Effort and format of the answer."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(Fields):
    """Body of POST /v1/messages/count_tokens: the fields that make up the prompt."""

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """Body of POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0.0, le=1.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    stream: bool | None = None
    output_format: dict[str, Any] | None = None
