"""What clients may send to /v1/chat/completions and /v1/completions.

Numbers may come as text ("1") or as 1.0, as everywhere else; a field may be null where it may be left out.
`routing/parameters.py` says which routes support the fields that are not modelled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from openai_gateway.errors import InvalidRequest
from pipesd_vllm.wire import MAX_LISTED, MAX_STOP_TOKENS

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "Content",
    "Fields",
    "GenerationFields",
    "Prompt",
    "SamplingFields",
    "StopStrings",
    "decode_body",
    "invalid",
    "parse_request",
]


_MAX_BIAS = 100.0
_MAX_BAD_WORD = 256


class Fields(BaseModel):
    """Strict types (`routing/normaliser.py` reads numbers that came as text), unknown fields kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


def invalid(message: str) -> PydanticCustomError:
    """The error of a validator; braces in `message` survive, because it is data and no format."""
    return PydanticCustomError("invalid_value", "{message}", {"message": message})


def _logit_bias(value: object) -> dict[int, float]:
    if not value:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_LISTED:
        raise invalid(f"should be an object of at most {MAX_LISTED} token ids and biases")
    return {_token_id(token): _bias(bias) for token, bias in value.items()}


def _token_id(value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise invalid(f"'{text}' is not a token id")
    return int(text)


def _bias(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_BIAS:
        raise invalid(f"a bias should be a number from -{_MAX_BIAS:g} to {_MAX_BIAS:g}")
    return float(value)


_BIAS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9]+$"},
                "additionalProperties": {"type": "number", "minimum": -_MAX_BIAS, "maximum": _MAX_BIAS},
                "maxProperties": MAX_LISTED,
            },
            {"type": "null"},
        ]
    }
)
_BadWord = Annotated[str, Field(min_length=1, max_length=_MAX_BAD_WORD)]
_Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


class SamplingFields(Fields):
    """Sampling parameters; null asks for nothing. The last two set the answer's form (`structures.py`)."""

    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: float | None = Field(None, gt=0.0, le=100.0)
    min_tokens: int | None = Field(None, ge=0)
    logit_bias: Annotated[dict[int, float], PlainValidator(_logit_bias), _BIAS_SCHEMA] = {}
    bad_words: list[_BadWord] | None = Field(None, max_length=MAX_LISTED)
    allowed_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=MAX_LISTED)
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None


MAX_STOP_STRINGS = 64
"""OpenAI's own API allows 4; vLLM and llama.cpp have no limit, and their clients may send more."""
_TEXT_PART_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


# What the validators below take, for the OpenAPI document.
_STRING: dict[str, Any] = {"type": "string"}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _STRING},
}
_IDS = {"type": "array", "items": {"type": "integer"}}
_NON_EMPTY = {"type": "string", "minLength": 1}
_CONTENT_SCHEMA = WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _PART}, {"type": "null"}]})
_STOPS = {"type": "array", "items": _NON_EMPTY, "maxItems": MAX_STOP_STRINGS}
_STOP_SCHEMA = WithJsonSchema({"anyOf": [_NON_EMPTY, _STOPS, {"type": "null"}]})
_PROMPT_SCHEMA = WithJsonSchema({"anyOf": [_STRING, _IDS, {"type": "array", "items": _STRING}]})


def _text_of_part(index: int, part: object) -> str:
    if not isinstance(part, dict):
        raise invalid(f"part {index} should be an object like {{'type': 'text', 'text': ...}}")
    key = _TEXT_PART_KEYS.get(str(part.get("type")))
    if key is None:
        raise invalid(f"part {index} has type {part.get('type')!r}; only text parts are supported")
    if not isinstance(text := part.get(key), str):
        raise invalid(f"part {index} should have a string as '{key}'")
    return text


def _content(value: object) -> str | tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_text_of_part(index, part) for index, part in enumerate(value))
    raise invalid("should be a string or a list of text parts")


def _stop(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("should be a string or a list of strings")
    if len(stops) > MAX_STOP_STRINGS:
        raise invalid(f"at most {MAX_STOP_STRINGS} stop strings are allowed, got {len(stops)}")
    if "" in stops:
        raise invalid("a stop string must not be empty")
    return tuple(stops)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(value: object) -> str | tuple[int, ...]:
    # A list of prompts asks for one choice each; a list of one is a plain prompt.
    if isinstance(value, list) and value and not _is_token_id(value[0]):
        if len(value) > 1:
            raise invalid("only one prompt a request is supported: send one request for each")
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(map(_is_token_id, value)):
        return tuple(value)
    raise invalid("should be a string, a list of token ids, or a list of one of these")


Content = Annotated[str | tuple[str, ...] | None, PlainValidator(_content), _CONTENT_SCHEMA]
"""A string, or a list of text parts, which is kept as the tuple of their texts."""
StopStrings = Annotated[tuple[str, ...], PlainValidator(_stop), _STOP_SCHEMA]
Prompt = Annotated[str | tuple[int, ...], PlainValidator(_prompt), _PROMPT_SCHEMA]
"""One prompt, of text or of token ids; in a list of its own, too."""


_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_THINKING_SWITCHES = ("enable_thinking", "thinking")


class ChatMessage(Fields):
    """One turn; a list of text parts is kept as the tuple of their texts."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise invalid(f"a message with role '{self.role}' needs 'content'")
        return self


class StreamOptions(Fields):
    """`include_usage` asks for one more chunk with the token counts, the other for counts in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationFields(SamplingFields):
    """What both endpoints share."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=_INT64_MIN, le=_INT64_MAX)
    stop: StopStrings = ()
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=MAX_STOP_TOKENS)
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def token_limit(self) -> int | None:
        """The client's limit on generated tokens, if it set one."""
        return self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are asked for, which only a target has."""
        return (self.model_extra or {}).get("logprobs") not in (None, False)

    @property
    def may_think(self) -> bool:
        """False if the client has switched reasoning off, under any name that templates use."""
        return True

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def counts_always(self) -> bool:
        """Whether every chunk of the stream has the counts so far."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class ChatRequest(GenerationFields):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if None not in (limits := {self.max_tokens, self.max_completion_tokens}) and len(limits) > 1:
            raise invalid("'max_tokens' and 'max_completion_tokens' are both set and differ")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def may_think(self) -> bool:
        variables = self.chat_template_kwargs or {}
        is_off = any(variables.get(name) is False for name in _THINKING_SWITCHES)
        return not is_off and self.reasoning_effort != "none"


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions."""

    prompt: Prompt


_RequestT = TypeVar("_RequestT", bound=BaseModel)


def decode_body(body: bytes) -> dict[str, Any]:
    """A request body as JSON. Raises `InvalidRequest` if it is not JSON, or not an object."""
    try:
        decoded = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(decoded, dict):
        raise InvalidRequest("Invalid request: the body should be an object.", code="invalid_value")
    return decoded


def parse_request(model: type[_RequestT], body: Mapping[str, Any] | bytes) -> _RequestT:
    """Check a request body. Raises `InvalidRequest` that names the first bad field."""
    try:
        return model.model_validate(decode_body(body) if isinstance(body, bytes) else body)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None


def _explain(detail: ErrorDetails) -> InvalidRequest:
    param = _dotted(detail["loc"])
    if detail["type"] == "missing":
        message = f"Missing required parameter: '{param}'."
        return InvalidRequest(message, param=param, code="missing_required_parameter")
    if not param:
        return InvalidRequest(f"Invalid request: {detail['msg']}.", code="invalid_value")
    return InvalidRequest(f"Invalid '{param}': {detail['msg']}.", param=param, code="invalid_value")


def _dotted(location: tuple[int | str, ...]) -> str | None:
    """`("messages", 0, "role")` as `messages[0].role`; None for the whole body."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.removeprefix(".") or None
