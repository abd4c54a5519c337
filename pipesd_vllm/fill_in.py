"""What drafts where no edge does: vLLM's own speculator, or nobody (`pipesd serve --fill-in`).

Drafts of edges need vLLM's verification path, which a `--speculative-config` switches on. An operator's own
one stays as it is, and its speculator drafts for plain requests and silent edges. Without one, it is made
here.
"""

from __future__ import annotations

import enum
from typing import Any, Final

__all__ = ["MAX_DRAFTS", "FillIn", "is_silent", "speculative_config"]

MAX_DRAFTS: Final = 48
"""Drafts of a session in a step: runs that were looked up are long. Each takes room in the workers."""
_NGRAM_DRAFTS: Final = 8
"""What vLLM's n-gram speculator proposes a request and step: each is verified, right or wrong."""
_ENDLESS: Final = 2**30
"""An n-gram so long is in no text, so vLLM's speculator would find nothing; ours does not search."""


class FillIn(enum.StrEnum):
    """Who drafts where no edge does."""

    NONE = "none"
    """Nobody: plain requests are decoded as by vLLM without speculation."""
    NGRAM = "ngram"
    """vLLM's n-gram speculator, for everybody."""


def speculative_config(fill_in: FillIn) -> dict[str, object]:
    """vLLM's `--speculative-config` for a server whose operator has none.

    The schedule by batch size says how many drafts vLLM itself adds to a step, at any size here; with none,
    a step of plain requests has one row each and keeps its FULL CUDA graph. Edges' drafts come on top.
    """
    drafts, shortest, longest = (0, _ENDLESS, _ENDLESS) if fill_in is FillIn.NONE else (_NGRAM_DRAFTS, 2, 5)
    return {
        "method": "ngram_gpu",
        "num_speculative_tokens": MAX_DRAFTS,
        "num_speculative_tokens_per_batch_size": [[1, 1, drafts]],  # the last range goes on without an end
        "prompt_lookup_min": shortest,
        "prompt_lookup_max": longest,
    }


def is_silent(config: Any) -> bool:
    """Whether vLLM's `SpeculativeConfig` is that of `FillIn.NONE`: nobody but the edges drafts."""
    return bool(config.method == "ngram_gpu" and config.prompt_lookup_min == _ENDLESS)
