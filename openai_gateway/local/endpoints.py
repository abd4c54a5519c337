"""The two endpoints that generate text: their request types, prompts and response shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from openai_gateway.chat_service import Json
from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.local.schema import ChatRequest, CompletionRequest, GenerationFields
from openai_gateway.local.shapes import ChatShape, CompletionShape, Shape
from openai_gateway.local.text.tokenizer import TargetText
from pipesd_vllm.wire import AskPath

__all__ = ["CHAT", "COMPLETIONS", "Endpoint", "RequestT", "with_form", "with_thinking"]


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
    normalise: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """Rewrites fields that only other servers know into vLLM's. Raises `InvalidRequest`."""


async def _encode_chat(request: ChatRequest, text: TargetText) -> tuple[int, ...]:
    return await text.encode_chat(request)


async def _encode_prompt(request: CompletionRequest, text: TargetText) -> tuple[int, ...]:
    prompt = request.prompt
    return await text.encode_prompt(prompt) if isinstance(prompt, str) else prompt


_KWARGS: Final = "chat_template_kwargs"
_SWITCH: Final = "enable_thinking"
_SYNONYMS: Final = ("reasoning", "thinking", _SWITCH)
_TYPES: Final = {"enabled": True, "adaptive": True, "auto": True, "disabled": False}


_GUIDED: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


def with_thinking(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat's `body` with `reasoning`, `thinking` and `enable_thinking` rewritten to what all routes follow.

    Raises `InvalidRequest` where two fields differ, `UnsupportedParameter` for a value without a counterpart.
    """
    wishes = {name: body[name] for name in _SYNONYMS if body.get(name) is not None}
    if not wishes:
        return body
    meant = {name: value for name, value in body.items() if name not in _SYNONYMS}
    for wish, value in wishes.items():
        for name, wanted in _meanings(wish, value):
            _put(meant, name, wanted, wish)
    return meant


def with_form(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """`body` with vLLM's former fields `guided_json`, ... in `structured_outputs`, which all routes follow.

    Raises `InvalidRequest` if two fields say what form the answer has.
    """
    forms = [name for name in (*_GUIDED, "structured_outputs") if body.get(name) not in (None, {})]
    if not any(name in _GUIDED for name in forms):
        return body
    if len(forms) > 1:
        names = " and ".join(f"'{name}'" for name in forms)
        raise InvalidRequest(f"{names} both say what form the answer has: choose one.", param=forms[1])
    [form] = forms
    meant = {name: value for name, value in body.items() if name not in _GUIDED}
    return meant | {"structured_outputs": {form.removeprefix("guided_"): body[form]}}


def _meanings(wish: str, value: object) -> Iterator[tuple[str, object]]:
    """The fields that `wish` sets: of the chat request, or the template's switch."""
    if isinstance(value, bool) and wish != "reasoning":
        yield _SWITCH, value
    elif not isinstance(value, dict) or wish == _SWITCH:
        raise InvalidRequest(f"Invalid '{wish}': it has the wrong type.", param=wish, code="invalid_value")
    elif wish == "thinking":
        yield _SWITCH, _look_up(_TYPES, value.get("type"), "thinking.type")
    else:
        yield from _of_reasoning(value)


def _of_reasoning(reasoning: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in reasoning.items():
        match name, value:
            case (_, None) | ("summary", _):
                continue  # the thoughts themselves are given
            case "effort", _:
                yield "reasoning_effort", value
            case "enabled", False:
                yield "reasoning_effort", "none"
            case "enabled", True:
                yield _SWITCH, True
            case "exclude", bool():
                yield "include_reasoning", not value
            case _:
                raise UnsupportedParameter(
                    f"reasoning.{name}", f"'reasoning.{name}' with this value is not supported."
                )


def _look_up(values: Mapping[str, bool], value: object, param: str) -> bool:
    if not isinstance(value, str) or value not in values:
        message = f"'{param}' is {value!r}; choose one of {', '.join(values)}."
        raise InvalidRequest(message, param=param, code="invalid_value")
    return values[value]


def _put(body: Json, name: str, value: object, wish: str) -> None:
    """Set `name`. Raises `InvalidRequest` if another field of the client contradicts it."""
    if name == _SWITCH:
        kwargs = body.get(_KWARGS)
        if kwargs is not None and not isinstance(kwargs, dict):
            return  # the schema refuses it
        body[_KWARGS] = fields = dict(kwargs or {})
    else:
        fields = body
    if fields.get(name) is not None and fields[name] != value:
        raise InvalidRequest(f"'{wish}' and '{name}' are both set and differ.", param=wish)
    fields[name] = value


CHAT: Final = Endpoint(
    path="/v1/chat/completions",
    request_type=ChatRequest,
    shape=ChatShape(),
    prompt_param="messages",
    encode=_encode_chat,
    splits_reasoning=True,
    normalise=lambda body: with_form(with_thinking(body)),
)
COMPLETIONS: Final = Endpoint(
    path="/v1/completions",
    request_type=CompletionRequest,
    shape=CompletionShape(),
    prompt_param="prompt",
    encode=_encode_prompt,
    splits_reasoning=False,
    normalise=with_form,
)
