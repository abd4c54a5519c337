"""What the parameters of one request ask for beyond what every route can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openai_gateway.errors import UnsupportedParameter
from openai_gateway.routing.parameters import PARAMETERS, Parameter, Support

__all__ = ["Needs", "needs_of"]

_MEDIA_PARTS: Final = frozenset({"image_url", "input_audio", "audio_url", "video_url"})
# Its default differs by endpoint: raw prompts get special tokens, chat prompts carry their own.
_ADD_SPECIAL_TOKENS: Final = "add_special_tokens"


@dataclass(frozen=True, slots=True)
class Needs:
    """The parameters of a request that not every route can do, in the body's order."""

    cloud: tuple[str, ...] = ()
    """Only the server's own API can."""
    target: tuple[str, ...] = ()
    """The draft model alone cannot."""


def needs_of(body: Mapping[str, Any], *, adds_special_tokens: bool) -> Needs:
    """What the parameters of `body` need. Raises `UnsupportedParameter` for the first that nobody can do."""
    found: dict[Support, list[str]] = {support: [] for support in Support}
    for name, value in _fields(body):
        parameter = PARAMETERS.get(name)
        if name == _ADD_SPECIAL_TOKENS:
            parameter = Parameter(Support.CLOUD, (adds_special_tokens,))
        if parameter is None or _is_neutral(value, parameter):
            continue
        if parameter.support is Support.REFUSED:
            raise _unsupported(name, parameter)
        found[Support.CLOUD if _is_beyond(value, parameter) else parameter.support].append(name)
    return Needs((*found[Support.CLOUD], *_media(body)), tuple(found[Support.TARGET]))


def _fields(body: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield from body.items()
    if isinstance(options := body.get("stream_options"), dict):
        yield from options.items()


def _is_neutral(value: object, parameter: Parameter) -> bool:
    return value is None or any(_same(value, other) for other in parameter.neutral)


def _is_beyond(value: object, parameter: Parameter) -> bool:
    return parameter.most is not None and type(value) is int and not 0 <= value <= parameter.most


def _same(value: object, neutral: object) -> bool:
    # `logprobs: 0` asks for something, `logprobs: false` does not, and Python calls them equal.
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _unsupported(name: str, parameter: Parameter) -> UnsupportedParameter:
    hint = f"; only {' or '.join(map(repr, parameter.neutral))} is" if parameter.neutral else ""
    return UnsupportedParameter(name, f"'{name}' with this value is not supported{hint}.")


def _media(body: Mapping[str, Any]) -> Iterator[str]:
    """Images and sounds need the server's own processing; several prompts are several answers."""
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list) and any(_has_media(message) for message in messages):
        yield "messages"
    if isinstance(prompt, list) and len(prompt) > 1 and _are_prompts(prompt):
        yield "prompt"


def _are_prompts(prompts: list[object]) -> bool:
    return all(isinstance(prompt, str) for prompt in prompts) or all(
        isinstance(prompt, list) and all(type(token_id) is int for token_id in prompt) for prompt in prompts
    )


def _has_media(message: object) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and str(part.get("type")) in _MEDIA_PARTS for part in parts)
