"""Requests to /api/chat and /api/generate as chat requests. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest
from openai_gateway.translation.ollama.schema import IGNORED, ChatRequest, Common, GenerateRequest, Message
from openai_gateway.translation.parameters import refuse, rest_of

__all__ = [
    "OWN_NAMES",
    "chat_name",
    "chat_options",
    "translate_chat",
    "translate_generate",
]

_RENAMED: Final = {
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    **{
        name: name
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "stop",
            "presence_penalty",
            "frequency_penalty",
        )
    },
}
OWN_NAMES: Final = {chat: f"options.{own}" for own, chat in _RENAMED.items()} | {
    "max_completion_tokens": "options.num_predict",
    "response_format": "format",
    "reasoning_effort": "think",
}
"""The chat API's parameters as they are called here, for error messages."""

_NO_LIMIT: Final = (-1, -2)
_HOW_TO_LOAD: Final = frozenset(
    {
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Options of how Ollama loads a model. They are ignored: the vLLM server is configured elsewhere."""

_NEUTRAL_OPTIONS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "mirostat": lambda value: value == 0,
    "mirostat_eta": lambda value: True,  # settings of something that is off
    "mirostat_tau": lambda value: True,
    "penalize_newline": lambda value: True,
    "repeat_last_n": lambda value: value in (-1, 0, 64),  # the default, and values that need no window
    "tfs_z": lambda value: value == 1,
    "typical_p": lambda value: value == 1,
    "draft_num_predict": lambda value: True,
}


def chat_options(options: Mapping[str, Any] | None) -> Json:
    """The chat request's fields for `options`.

    Raises `UnsupportedParameter` for an option that would change the answer and has no counterpart,
    `InvalidRequest` for one that does not exist.
    """
    body: Json = {}
    for name, value in (options or {}).items():
        if value is None or name in _HOW_TO_LOAD or (name == "num_predict" and value in _NO_LIMIT):
            continue
        if (chat_name := _RENAMED.get(name)) is not None:
            body[chat_name] = value
        elif (is_neutral := _NEUTRAL_OPTIONS.get(name)) is None:
            raise InvalidRequest(f"'options.{name}' is not an option.", param=f"options.{name}")
        elif not is_neutral(value):
            raise refuse(f"options.{name}", "with this value is not supported here")
    return body


DEFAULT_TAG: Final = ":latest"
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {"logprobs": (False,), "top_logprobs": (0,)}


def chat_name(name: str) -> str:
    """A model's name without the tag that Ollama's clients put behind names that have none."""
    return name.removesuffix(DEFAULT_TAG)


def translate_chat(request: ChatRequest) -> Json:
    """Raises `InvalidRequest` or `UnsupportedParameter` naming the parameter at fault."""
    tools = {"tools": request.tools} if request.tools else {}
    return _common(request) | {"messages": _messages(request.messages or ()), **tools}


def translate_generate(request: GenerateRequest) -> Json:
    """Raises as `translate_chat`."""
    for name in ("suffix", "template", "raw", "context", "images"):
        if getattr(request, name):
            raise refuse(name, "is not supported here")
    system = [{"role": "system", "content": request.system}] if request.system else []
    return _common(request) | {"messages": [*system, {"role": "user", "content": request.prompt or ""}]}


def _common(request: Common) -> Json:
    body = rest_of(request.model_extra or {}, ignored=IGNORED, neutral=_NEUTRAL)
    body |= chat_options(request.options)
    body |= {"model": chat_name(request.model), **_thinking(request.think)}
    if request.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif request.format:
        schema = {"name": "answer", "schema": request.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _thinking(think: bool | str | None) -> Json:
    if isinstance(think, str) and think:
        return {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": think}} if isinstance(think, bool) else {}


def _messages(messages: Sequence[Message]) -> list[Json]:
    """A tool result that does not say which call it belongs to answers the calls in their order."""
    rendered: list[Json] = []
    waiting: list[Json] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.images:
            raise refuse(f"{where}.images", "is not supported here: only text is")
        body: Json = {"role": message.role, "content": message.content or ""}
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
