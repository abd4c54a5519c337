"""What clients may send to /api/chat and /api/generate."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from openai_gateway.local import Fields

__all__ = ["ChatRequest", "Common", "GenerateRequest", "Message", "Named"]

IGNORED: Final = frozenset({"truncate", "shift", "_debug_render_only"})
"""What to do with prompts that do not fit: they are refused here."""


class Named(Fields):
    """Body of POST /api/show and /api/pull; older clients write `name`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


class Common(Fields):
    """What both endpoints share. `stream` is true unless it is said to be false."""

    model: str = Field(min_length=1)
    options: dict[str, Any] | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: int | float | str | None = None
    """Nothing is loaded or unloaded here; 0 without a prompt asks for the latter, and is told so."""
    stream: bool | None = None


class Message(Fields):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(Common):
    """Body of POST /api/chat. Without messages it only asks for the model to be loaded."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(Common):
    """Body of POST /api/generate. Without a prompt it only asks for the model to be loaded."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    images: list[str] | None = None
