"""The part of a response object that the request decides. Pure."""

from __future__ import annotations

from openai_gateway.chat_service import Json
from openai_gateway.translation.responses.schema import ResponsesRequest
from openai_gateway.translation.responses.tools import ToolTable

__all__ = ["skeleton"]


def skeleton(request: ResponsesRequest, tools: ToolTable, response_id: str, created_s: int) -> Json:
    """`tools` names the tools that were left out; the others are listed as the client sent them."""
    text = request.text
    offered = [tool for tool in request.tools or () if tool.get("type") not in tools.left_out]
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s,
        "model": request.model or "default",
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": _reasoning(request),
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": (text and text.format) or {"type": "text"},
            "verbosity": (text and text.verbosity) or "medium",
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": offered,
        "top_logprobs": 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _reasoning(request: ResponsesRequest) -> Json:
    return {"effort": request.reasoning and request.reasoning.effort, "summary": None}
