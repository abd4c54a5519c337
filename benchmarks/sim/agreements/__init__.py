"""What real pairs of models agree on: recorded once by `pipesd bench record`, replayed in simulated runs.

Files `NAME.json` of this folder come along; `NAME` of a file elsewhere is its path.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from openai_gateway.cli.errors import CliError

__all__ = [
    "CONSTRUCTED",
    "QUESTIONS",
    "RecordedAnswer",
    "RecordedPair",
    "Said",
    "read_pair",
    "recorded_names",
    "write_pair",
]

_FOLDER: Final = Path(__file__).parent
QUESTIONS: Final = _FOLDER / "questions.jsonl"
"""Prompts of our own, in Spec-Bench's format."""
CONSTRUCTED: Final = _FOLDER / "constructed.jsonl"
"""More of them, each with an `answer` that we wrote, as an able target would have."""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One pick of a draft model: the token and the confidence that goes with it, in (0, 1]."""

    token_id: int
    probability: float


class RecordedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A target's answer to one prompt, and what the draft says at each of its positions."""

    name: str
    category: str
    temperature: float = 0.0
    seed: int | None = None
    prompt: list[int]
    tokens: list[int]
    """The target's."""
    picks: list[Said]
    """By position of the answer: what the draft picks given the prompt and the target's tokens before."""
    others: list[list[int]]
    """By position: the draft's next likely tokens besides its pick, the likeliest first."""
    detours: dict[int, list[Said]]
    """By position of a pick that is not the target's: what the draft goes on with after it."""
    constructed: bool = False
    """`tokens` were written by hand: no target said them."""

    @property
    def agreement(self) -> float:
        """Share of picks that are the target's."""
        same = sum(pick.token_id == token for pick, token in zip(self.picks, self.tokens, strict=True))
        return same / len(self.tokens)


class RecordedPair(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one target as one draft sees them."""

    target: str
    draft: str
    answers: list[RecordedAnswer]


def recorded_names() -> list[str]:
    """Those that come along."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


@cache
def read_pair(name: str) -> RecordedPair:
    """One of `recorded_names()`, or the path of a file. Raises `CliError`."""
    path = Path(name) if name.endswith(".json") else _FOLDER / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecordedPair)
    except (OSError, msgspec.DecodeError) as error:
        known = ", ".join(recorded_names())
        raise CliError(
            f"There is no recorded pair {name!r} ({error}): name a file of `pipesd bench record`, or one of "
            f"{known}."
        ) from error


def write_pair(path: Path, pair: RecordedPair) -> None:
    """An answer a line."""
    encode = msgspec.json.encode
    head = f'{{"target":{encode(pair.target).decode()},"draft":{encode(pair.draft).decode()},"answers":[\n'
    body = ",\n".join(encode(answer).decode() for answer in pair.answers)
    path.write_text(f"{head}{body}\n]}}\n", encoding="utf-8")
