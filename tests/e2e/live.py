"""What the official clients ask the real stack: a question, and forms that even a small model keeps to."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

QUESTION: Final = "What is the capital of France?"
MESSAGES: Final[Any] = [{"role": "user", "content": QUESTION}]
NUM_TOKENS: Final = 16
ENOUGH: Final = 128
"""Tokens for a call (some forty) or an object of `City`'s form."""


class Name(StrEnum):
    """The only values there are: free strings have no end under so small a model."""

    PARIS = "Paris"
    ROME = "Rome"


class City(BaseModel):
    """What tools take and what answers have to be."""

    model_config = ConfigDict(extra="forbid")
    city: Name


SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": [str(name) for name in Name]}},
    "required": ["city"],
    "additionalProperties": False,
}
