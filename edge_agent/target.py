"""The target as the server describes it: its name and limits, and how to render and tokenise for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["TargetInfo", "TokenizerBundle"]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """The target model as the server describes it."""

    model: str
    max_model_len: int
    vocab_size: int
    draft_max_len: int | None = None
    """Context of the draft model in tokens, for the route `local`; None: as the target's."""
    is_known: bool = True
    """False while no verifier was ever reached: all else then describes the draft model."""
    reasoning_parser: str | None = None
    """What splits reasoning from content on the server's own chat API; None: nothing does."""
    reasoning_marks: tuple[str, str] | None = None
    """Start and end of reasoning in the text, if the parser does no more than to cut there."""


@dataclass(frozen=True, slots=True)
class TokenizerBundle:
    """What is needed to render and tokenise for the target: the files' contents.

    `tokenizer_json` is the text of a Hugging Face `tokenizer.json`; `special_tokens`
    maps "bos_token", "eos_token", ... to their strings, for the chat template.
    """

    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: tuple[int, ...]
    content_format: str | None = None
    """What the template gets for a content: "string", or "openai" (a list of parts); None: not known."""
    template_variables: dict[str, Any] = field(default_factory=dict)
    """What the server gives its template unless a request says otherwise."""
