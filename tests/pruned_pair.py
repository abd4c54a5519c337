"""The run's target and draft: the embedded model with 4 of its 30 layers, in float32 a fifth of the step.

What it writes means nothing, but it is one target's own text, which is all that the tests compare with. The
draft is the same layers in Q4_1, as the embedded pair is to itself. Texts, tools and thoughts that have to
make sense are tested with the whole model.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock

from benchmarks.pairs.pruned_draft import drop_layers
from pipesd_vllm.launch.embedded import embedded_gguf, run_builder

__all__ = ["NAME", "PrunedPair", "pruned_pair"]

NAME: Final = "SmolLM2-135M-Instruct-4-layers"
"""What its server calls it."""
KEPT: Final = (0, 9, 19, 29)
"""Of the sets tried the one whose greedy texts repeat themselves least, and have the fewest near ties."""
NUM_LAYERS: Final = 30
_BUILDER_VERSION: Final = 1
"""Raise it when the same layers are written another way."""


@dataclass(frozen=True, slots=True)
class PrunedPair:
    """Where the two are."""

    target: Path
    draft: Path


def pruned_pair() -> PrunedPair:
    """The pair, made on first use and kept in the user's cache; whoever comes meanwhile waits for it.

    Raises `EmbeddedModelError`.
    """
    layers = "-".join(map(str, KEPT))
    folder = platformdirs.user_cache_path("pipesd") / "tests" / f"{NAME}-{layers}-v{_BUILDER_VERSION}"
    pair = PrunedPair(folder / NAME, folder / f"{NAME}.gguf")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not pair.target.is_dir():  # moved to its place last, and whole
            dropped = [layer for layer in range(NUM_LAYERS) if layer not in KEPT]
            drop_layers(embedded_gguf(), pair.draft, dropped, NAME)
            partial = folder / ".partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            run_builder(pair.draft, partial, print)
            partial.rename(pair.target)
    return pair
