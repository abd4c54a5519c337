"""The two endpoints that generate text: what their bodies are and how their prompts are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from openai_gateway.errors import InvalidRequest, UnsupportedParameter
from openai_gateway.local.schema import ChatRequest, CompletionRequest, GenerationFields, parse_request
from openai_gateway.local.shapes import ChatShape, CompletionShape, Shape
from openai_gateway.local.text.tokenizer import TargetText

__all__ = ["CHAT", "COMPLETIONS", "Endpoint", "with_thinking"]


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


Json = dict[str, Any]

_KWARGS: Final = "chat_template_kwargs"
_SWITCH: Final = "enable_thinking"
_OWN_WORDS: Final = ("reasoning", "thinking", _SWITCH)
_TYPES: Final = {"enabled": True, "adaptive": True, "auto": True, "disabled": False}


def with_thinking(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat's `body` with `reasoning`, `thinking` and `enable_thinking` said by what every route follows.

    Raises `InvalidRequest` where two fields differ, `UnsupportedParameter` for a wish without a counterpart.
    """
    wishes = {name: body[name] for name in _OWN_WORDS if body.get(name) is not None}
    if not wishes:
        return body
    meant = {name: value for name, value in body.items() if name not in _OWN_WORDS}
    for wish, value in wishes.items():
        for name, wanted in _meanings(wish, value):
            _put(meant, name, wanted, wish)
    return meant


def _meanings(wish: str, value: object) -> Iterator[tuple[str, object]]:
    """What `wish` sets: a field of the chat request, or the template's switch."""
    if isinstance(value, bool) and wish != "reasoning":
        yield _SWITCH, value
    elif not isinstance(value, dict) or wish == _SWITCH:
        raise InvalidRequest(f"Invalid '{wish}': a wrong type.", param=wish, code="invalid_value")
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
    """Set `name`. Raises `InvalidRequest` if the client has said otherwise by another field."""
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
