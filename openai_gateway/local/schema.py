"""What clients may send to /v1/chat/completions and /v1/completions.

Types are strict (no "1" for 1, no 1.0 for 1); a field may be null where it may be left out.
What the fields that are not modelled ask for, `parameters.py` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, from_json

from openai_gateway.errors import InvalidRequest
from openai_gateway.local.field_types import Content, NumLogprobs, Prompt, StopStrings
from openai_gateway.local.sampling_fields import SamplingFields, Strict, invalid

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "GenerationFields",
    "decode_body",
    "parse_request",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_THINKING_SWITCHES = ("enable_thinking", "thinking")


class ChatMessage(Strict):
    """One turn; a list of text parts is kept as the tuple of their texts."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        instead = self.tool_calls or self.reasoning or self.reasoning_content
        if self.content is None and not (self.role == "assistant" and instead):
            raise invalid(f"a message with role '{self.role}' needs 'content'")
        return self


class StreamOptions(Strict):
    """`include_usage` asks for one more chunk with the token counts."""

    include_usage: bool | None = None


class GenerationFields(SamplingFields):
    """What both endpoints share."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=_INT64_MIN, le=_INT64_MAX)
    stop: StopStrings = ()
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_need_stream(self) -> GenerationFields:
        if self.stream_options is not None and not self.stream:
            raise invalid("'stream_options' is only allowed when 'stream' is true")
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens the client wants, if it said so."""
        return self.max_tokens

    @property
    def num_alternatives(self) -> int | None:
        """How many likely tokens to name beside each token's log-probability; None: report neither."""
        return None

    @property
    def may_think(self) -> bool:
        """False if the client has switched reasoning off, by one of the names that templates know."""
        return True

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(GenerationFields):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=-1)

    @field_validator("top_logprobs")
    @classmethod
    def _goes_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise invalid("is only allowed when 'logprobs' is true")
        return value

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

    @property
    def num_alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions."""

    prompt: Prompt
    logprobs: NumLogprobs = None

    @property
    def num_alternatives(self) -> int | None:
        return self.logprobs


_RequestT = TypeVar("_RequestT", bound=BaseModel)


def decode_body(body: bytes) -> dict[str, Any]:
    """A request body as JSON. Raises `InvalidRequest` if it is none, or not an object."""
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
