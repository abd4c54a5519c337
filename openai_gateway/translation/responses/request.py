"""A request to /v1/responses as a chat request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openai_gateway.chat_service import Json
from openai_gateway.translation.parameters import refuse, rest_of
from openai_gateway.translation.responses.items import messages_of, with_instructions
from openai_gateway.translation.responses.schema import IGNORED, NEUTRAL, ResponsesRequest
from openai_gateway.translation.responses.tools import ToolTable

__all__ = ["Translated", "translate_request"]

_LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True)
class Translated:
    """The chat request, and what encoding its answer needs: the tools, and the conversation so far."""

    body: Json
    tools: ToolTable
    conversation: list[Json]


def translate_request(request: ResponsesRequest, earlier: Sequence[Json] = ()) -> Translated:
    """The chat request for `request`, which continues `earlier`, the conversation of its previous response.

    Raises `InvalidRequest` or `UnsupportedParameter` naming the parameter at fault.
    """
    if _LOGPROBS in (request.include or ()):
        raise refuse("include", f"with {_LOGPROBS!r} is not supported here")
    tools = ToolTable(request.tools or ())
    choice = tools.choice(request.tool_choice)
    conversation = [*earlier, *messages_of(request.input)]
    body = rest_of(request.model_extra or {}, ignored=IGNORED, neutral=NEUTRAL)
    body["messages"] = with_instructions(request.instructions, conversation)
    optional = {
        "model": request.model,
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        **_text_options(request),
        "reasoning_effort": request.reasoning and request.reasoning.effort,
    }
    if tools.offered:
        optional |= {
            "tools": tools.offered,
            "tool_choice": choice,
            "parallel_tool_calls": request.parallel_tool_calls,
        }
    elif choice not in (None, "auto", "none"):
        raise refuse("tool_choice", "asks for a tool, but there are no 'tools'")
    body |= {name: value for name, value in optional.items() if value is not None}
    return Translated(body, tools, conversation)


def _text_options(request: ResponsesRequest) -> Json:
    if request.text is None:
        return {}
    return {"verbosity": request.text.verbosity, "response_format": _response_format(request.text.format)}


def _response_format(form: Json | None) -> Json | None:
    """`{"type": "json_schema", "name", "schema", ...}` is nested one deeper in the chat API."""
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        return form
    schema = {key: value for key, value in form.items() if key != "type"}
    return {"type": "json_schema", "json_schema": schema}
