"""Requests to /api/chat and /api/generate as chat requests. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.translation.ollama.schema import IGNORED, ChatRequest, Common, GenerateRequest, Message
from openai_gateway.translation.parameters import refuse, rest_of

__all__ = [
    "NEUTRAL",
    "OWN_NAMES",
    "is_completion",
    "translate_chat",
    "translate_generate",
]

_OPTIONS: Final = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty"),
    "repeat_penalty",
)
OWN_NAMES: Final = {name: f"options.{name}" for name in _OPTIONS} | {
    "repetition_penalty": "options.repeat_penalty",
    "max_tokens": "options.num_predict",
    "max_completion_tokens": "options.num_predict",
    "num_predict": "options.num_predict",
    "response_format": "format",
    "reasoning_effort": "think",
}
"""The chat API's parameters as they are called here, for error messages."""

_NO_OPTIONS: Final = frozenset({"model", "messages", "prompt", "stream", "stream_options", "tools", "n"})


_STARTS: Final = {
    "/9j/": "image/jpeg",
    "iVBORw0KGgo": "image/png",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
}

NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    **dict.fromkeys(("width", "height", "steps"), ()),  # of images to be made
}


def translate_chat(request: ChatRequest) -> Json:
    """Raises `InvalidRequest` or `UnsupportedParameter` naming the parameter at fault."""
    tools = {"tools": request.tools} if request.tools else {}
    messages = _messages(request.messages or ())
    return _common(request) | {"messages": messages, **tools, **_thinking(request.think)}


def translate_generate(request: GenerateRequest) -> Json:
    """A chat, or where the prompt is to be taken as it is (`raw`, `suffix`) a completion's body.

    Raises as `translate_chat`.
    """
    if request.context:
        raise refuse("context", "is not supported any more: send the conversation to /api/chat")
    if request.template:
        raise refuse("template", "is not supported here: the target's own is used")
    if is_completion(request):
        if request.images:
            raise refuse("images", "are not supported beside 'raw' and 'suffix'")
        suffix = {"suffix": request.suffix} if request.suffix else {}
        return _common(request) | {"prompt": request.prompt or "", **suffix}
    system = [{"role": "system", "content": request.system}] if request.system else []
    content = _content(request.prompt or "", request.images)
    body = _common(request) | {"messages": [*system, {"role": "user", "content": content}]}
    return body | _thinking(request.think)


def is_completion(request: GenerateRequest) -> bool:
    """Whether no chat template is to be applied."""
    return bool(request.raw or request.suffix)


def _common(request: Common) -> Json:
    body = rest_of(request.model_extra or {}, ignored=IGNORED, neutral=NEUTRAL)
    # What nobody follows, such as `num_ctx`, is named in the answer (routing/parameters.py).
    body |= {name: value for name, value in (request.options or {}).items() if name not in _NO_OPTIONS}
    body["model"] = request.model
    if request.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif request.format:
        body["response_format"] = {"type": "json_schema", "schema": request.format}
    return body


def _thinking(think: bool | str | None) -> Json:
    if think in ("true", "false"):
        think = think == "true"
    if isinstance(think, str) and think:
        return {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": think}} if isinstance(think, bool) else {}


def _content(text: str, images: Sequence[str] | None) -> str | list[Json]:
    """Text, or text and images: base64 without a word on their kind, which the server finds out."""
    if not images:
        return text
    parts = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in images]
    return [{"type": "text", "text": text}, *parts]


def _url(image: str) -> str:
    """Of base64 data, whose kind shows in how it begins."""
    if image.startswith(("data:", "http:", "https:")):
        return image
    kind = next((kind for start, kind in _STARTS.items() if image.startswith(start)), "image/png")
    return f"data:{kind};base64,{image}"


def _messages(messages: Sequence[Message]) -> list[Json]:
    """A tool result that does not say which call it belongs to answers the calls in their order."""
    rendered: list[Json] = []
    waiting: list[Json] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        body: Json = {"role": message.role, "content": _content(message.content or "", message.images)}
        if message.role == "tool":
            body["tool_call_id"] = _answered(message, waiting, where)
        elif message.role == "assistant":
            if message.thinking:
                body["reasoning"] = message.thinking
            if message.tool_calls:
                waiting = [
                    _call(call, f"call_{index}_{n}", where) for n, call in enumerate(message.tool_calls)
                ]
                body["tool_calls"] = list(waiting)
        rendered.append(body)
    return rendered


def _answered(message: Message, waiting: list[Json], where: str) -> str:
    """The id of the call that `message` answers; removes the call from `waiting`."""
    if message.tool_call_id:
        return message.tool_call_id
    fitting = [call for call in waiting if message.tool_name in (None, call["function"]["name"])]
    if not fitting:
        raise InvalidRequest(f"'{where}' answers a tool call that was not made.", param=where)
    waiting.remove(fitting[0])
    return str(fitting[0]["id"])


def _call(call: Mapping[str, Any], made_up_id: str, where: str) -> Json:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"'{where}.tool_calls' must be function calls.", param=f"{where}.tool_calls")
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    body = {"name": function["name"], "arguments": arguments}
    return {"id": call.get("id") or made_up_id, "type": "function", "function": body}
