"""Refuses names and paths that no target can have before vLLM asks Hugging Face about them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

from pipesd_vllm.launch.embedded import MODEL_NAME

__all__ = ["EMBEDDED", "TargetNameError", "check_target"]

EMBEDDED: Final = "embedded"
_HUB_ID: Final = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_MADE_PREFIXES: Final = ("depth-", "minus-")  # benchmarks/pairs/catalog.py
_SIMILAR: Final = 0.75
_CONFIGS: Final = ("config.json", "params.json")  # Hugging Face's, Mistral's
_OTHER_FORMATS: Final = frozenset(
    {"--config-format", "--hf-config-path", "--load-format", "--quantization", "-q"}
)
"""With one of these flags vLLM takes models of other forms, so nothing is checked."""
_KNOWN: Final = (
    f"{EMBEDDED!r} comes along (and depth-x1.1 to depth-x9 with `pipesd bench run`); "
    "otherwise name a folder in Hugging Face's format, or a model there as org/name."
)


class TargetNameError(Exception):
    """There is no such target; the text says which targets there are."""


def check_target(name: str, flags: Collection[str] = ()) -> None:
    """Raise `TargetNameError` if vLLM can serve nothing by this name. `flags` are those that vLLM is given.

    Asks the disk, never the network: what may be a model of the Hub passes, and so do URLs.
    """
    if not _OTHER_FORMATS.isdisjoint(flags) or "://" in name:
        return
    if os.path.isdir(name):
        _check_folder(name)
    elif name.startswith("hf:"):
        raise TargetNameError(f"The target {name!r} is written as a draft: leave out 'hf:', as in org/name.")
    elif name.endswith(".gguf") or os.path.isfile(name):
        raise TargetNameError(
            f"The target {name!r} is a single file: vLLM serves folders in Hugging Face's format; "
            "a GGUF file is a draft (--draft)."
        )
    elif not _HUB_ID.fullmatch(name):
        raise TargetNameError(f"There is no folder {name!r} to serve: {_KNOWN}")
    elif _resembles_ours(name):
        raise TargetNameError(f"There is no target {name!r} here: {_KNOWN}")


def _check_folder(folder: str) -> None:
    if not any(os.path.isfile(os.path.join(folder, config)) for config in _CONFIGS):
        raise TargetNameError(
            f"The folder {folder!r} has no config.json, so it is no model that vLLM can serve: "
            "name the folder that a model was downloaded or saved to."
        )


def _resembles_ours(name: str) -> bool:
    """Whether a name is one of ours, mistyped or out of place. Old models of the Hub have no org/."""
    lower = name.lower()
    return lower.startswith(_MADE_PREFIXES) or bool(
        get_close_matches(lower, (EMBEDDED, MODEL_NAME.lower()), cutoff=_SIMILAR)
    )
