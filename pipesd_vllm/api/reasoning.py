"""Finds out whether the server's reasoning parser only cuts at two marks; then an edge can do the same."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

__all__ = ["plain_marks", "reasoning_marks", "reasoning_parser"]

logger = logging.getLogger("pipesd.server")

Split = tuple[str, str]
"""Reasoning and content of a text."""


def reasoning_parser(engine: EngineClient) -> str | None:
    """The parser that splits reasoning from content on the server's own chat API; None: it does not split."""
    return engine.vllm_config.structured_outputs_config.reasoning_parser or None


def reasoning_marks(engine: EngineClient, args: Namespace) -> tuple[str, str] | None:
    """Start and end mark of a parser for which `plain_marks` holds; None without such a parser.

    Tried with the template variables of the server: some parsers split nothing when they switch thinking off.
    """
    name = reasoning_parser(engine)
    if name is None:
        return None
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager

    tokenizer: Any = engine.renderer.get_tokenizer()
    request = ChatCompletionRequest(model="", messages=[{"role": "user", "content": "?"}])
    prompt = tokenizer.encode("?", add_special_tokens=False)

    def parser() -> Any:
        made: Any = ParserManager.get_parser(reasoning_parser_name=name)
        variables = args.default_chat_template_kwargs or {}
        return made(tokenizer, None, model_config=engine.model_config, chat_template_kwargs=variables)

    def whole(text: str) -> Split:
        reasoning, content, _ = parser().parse(text, request)
        return reasoning or "", content or ""

    def streamed(text: str) -> Split:
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        parsing, reasoning, content = parser(), "", ""
        for place, token_id in enumerate(token_ids, 1):
            delta = parsing.parse_delta(
                tokenizer.decode([token_id]),
                [token_id],
                request,
                prompt_token_ids=prompt,
                finished=place == len(token_ids),
            )
            reasoning += (delta and delta.reasoning) or ""
            content += (delta and delta.content) or ""
        return reasoning, content

    try:
        inner = parser().reasoning_parser
        marks = (inner.reasoning_start_str, inner.reasoning_end_str)
        is_plain = plain_marks(marks, tokenizer.all_special_tokens, whole, streamed)
    except Exception:  # parsers come from plugins, too, and may raise anything
        logger.warning(
            "reasoning parser %s failed on a trial text: its chats are left to the server",
            name,
            exc_info=True,
        )
        return None
    return marks if is_plain else None


def plain_marks(
    marks: tuple[str | None, str | None],
    special_tokens: list[str],
    *splits: Callable[[str], Split],
) -> bool:
    """Whether each of `splits` takes what precedes the end mark for reasoning, with or without a start mark.

    The splits are tried on texts. Marks that are special tokens do not count: they have no text on the edge.
    """
    start, end = marks
    if not start or not end or {start, end} & set(special_tokens):
        return False
    expected = {
        "so be it": ("so be it", ""),
        f"{start}so{end}be it": ("so", "be it"),
        f"so{end}\n\nbe it": ("so", "\n\nbe it"),
        f"{start}\nso\n{end}\n\nbe it": ("\nso\n", "\n\nbe it"),
        f"{start}so": ("so", ""),
        f"{end}be it": ("", "be it"),
    }
    return all(split(text) == wanted for text, wanted in expected.items() for split in splits)
