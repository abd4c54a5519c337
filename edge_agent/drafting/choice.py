"""Which draft model fits a target: one at hand with the target's vocabulary, or one known of its family."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent.drafting.models import (
    EMBEDDED,
    NO_MODEL,
    can_draft,
    drafts_without_model,
    embedded_model,
    resolve_model,
)
from edge_agent.errors import ModelError
from edge_agent.settings import EdgeSettings
from pipesd_vllm.wire import Fingerprint, fingerprint

__all__ = [
    "FAMILIES",
    "DraftFile",
    "Family",
    "chosen",
    "drafts_at_hand",
    "family_of",
    "fits",
    "fitting",
    "hub_drafts",
]

logger = logging.getLogger("pipesd.draft")

_LARGEST: Final = 4 << 30
"""Bytes of a file that is taken for a draft model."""
_TOKENS: Final = "tokenizer.ggml.tokens"
_NUM_PARTS: Final = "split.count"
_POOLING: Final = ".pooling_type"


class DraftFile(NamedTuple):
    """A GGUF file on this machine, and how `--draft` names it."""

    setting: str
    path: Path
    num_bytes: int


class Family(NamedTuple):
    """Models of one vocabulary: what their names look like, and a small one to draft with."""

    name: str
    targets: str
    """Regular expression, searched for in a target's name without regard to case."""
    draft: str


FAMILIES: Final = (
    Family(
        "Llama 3", r"llama-?3", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"
    ),
    Family("Qwen 3", r"qwen3(?!\.)", "hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf"),
    Family(
        "Qwen 2.5 Coder",
        r"qwen2\.5-coder",
        "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q8_0.gguf",
    ),
    Family(
        "Qwen 2.5",
        r"qwen2\.5|r1-distill-qwen",
        "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf",
    ),
    Family("Gemma 3", r"gemma-3(?!n)", "hf:ggml-org/gemma-3-1b-it-GGUF/gemma-3-1b-it-Q4_K_M.gguf"),
    Family("SmolLM2", r"smollm2", EMBEDDED),
)


def family_of(target: str) -> Family | None:
    """That of a target by its name; None: not known."""
    return next((family for family in FAMILIES if re.search(family.targets, target, re.IGNORECASE)), None)


def hub_drafts(cache: Path) -> Iterator[DraftFile]:
    """GGUF files in a Hugging Face cache folder, once each."""
    seen = set()
    for path in sorted(cache.glob("models--*/snapshots/*/**/*.gguf")):
        parts = path.relative_to(cache).parts
        repository = parts[0].removeprefix("models--").replace("--", "/", 1)
        setting = f"hf:{repository}/{'/'.join(parts[3:])}"
        if setting not in seen and path.is_file():
            seen.add(setting)
            yield DraftFile(setting, path, path.stat().st_size)


def drafts_at_hand() -> list[DraftFile]:
    """The embedded model, if it is installed, and what was downloaded; the smallest first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = [file for file in hub_drafts(Path(HF_HUB_CACHE)) if file.num_bytes <= _LARGEST]
    try:
        path = embedded_model()
    except ModelError:
        pass
    else:
        found.append(DraftFile(EMBEDDED, path, path.stat().st_size))
    return sorted(found, key=lambda file: file.num_bytes)


def fits(path: Path, target: Fingerprint) -> bool:
    """Whether a GGUF file has the target's vocabulary, as `check_pairing` has it (a second of work).

    A part of a model does not, whose other parts may be as large as the target; nor does one for embeddings.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(str(path)).fields
        tokens = fields[_TOKENS].contents()
        if _NUM_PARTS in fields and fields[_NUM_PARTS].contents() > 1:
            return False
        if any(name.endswith(_POOLING) for name in fields):
            return False
    except (OSError, ValueError, KeyError, IndexError):  # no GGUF file, or none of a text model
        return False
    return len(tokens) >= target.num_tokens and fingerprint(tokens[: target.num_tokens]) == target


def fitting(settings: EdgeSettings, target: Fingerprint, files: Iterable[DraftFile]) -> EdgeSettings:
    """`settings` with the draft that they name if it fits, or the first of `files` that does, or without one.

    Raises `ModelError` for a draft that is not there.
    """
    if drafts_without_model(settings):
        return settings
    draft = settings.draft.strip()
    named = [] if draft == EMBEDDED else [DraftFile(draft, resolve_model(draft), 0)]
    found = (file.setting for file in (*named, *files) if fits(file.path, target))
    return settings.model_copy(update={"draft": next(found, NO_MODEL)})


def chosen(settings: EdgeSettings, target: Fingerprint, files: Iterable[DraftFile]) -> EdgeSettings:
    """`settings` with the first of `files` that fits in place of the default draft, if that does not.

    A draft that was named is left alone. Says on the log what it chose, and why.
    """
    if settings.draft.strip() != EMBEDDED or not can_draft():
        return settings
    fitting = next((file for file in files if fits(file.path, target)), None)
    if fitting is None or fitting.setting == EMBEDDED:
        return settings
    logger.warning("drafting with %s: it is at hand and has the target's vocabulary", fitting.setting)
    return settings.model_copy(update={"draft": fitting.setting})
