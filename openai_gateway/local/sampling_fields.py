"""Request fields that say how tokens are picked and what form the answer has, beyond the usual few."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from pipesd_vllm.wire import MAX_LISTED

__all__ = ["SamplingFields", "Strict", "invalid"]

_MAX_BIAS = 100.0
_MAX_BAD_WORD = 256


class Strict(BaseModel):
    """Strict types, unknown fields kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


def invalid(message: str) -> PydanticCustomError:
    """The error of a validator; braces in `message` survive, because it is data and no format."""
    return PydanticCustomError("invalid_value", "{message}", {"message": message})


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    if not value:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_LISTED:
        raise invalid(f"should be an object of at most {MAX_LISTED} token ids and biases")
    return tuple((_token_id(token), _bias(bias)) for token, bias in value.items())


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


class SamplingFields(Strict):
    """Null always asks for nothing. The last six say what form the answer has (`structures.py`)."""

    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: float | None = Field(None, gt=0.0, le=100.0)
    min_tokens: int | None = Field(None, ge=0)
    logit_bias: Annotated[tuple[tuple[int, float], ...], PlainValidator(_logit_bias), _BIAS_SCHEMA] = ()
    bad_words: list[_BadWord] | None = Field(None, max_length=MAX_LISTED)
    allowed_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
