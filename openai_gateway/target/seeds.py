"""The seed whose noise the server's own API is asked for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edge_agent.api import draw_seed

__all__ = ["SEED_KEY", "cloud_seed", "with_seed"]

SEED_KEY: Final = "pipesd_seed"
"""Asks the server's own API for the noise of a seed (docs/sampling.md)."""
_LEAVE_THE_CHOICE_ALONE: Final = frozenset(
    {
        "tools",
        "tool_choice",
        "messages",
        "include_reasoning",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "prompt_logprobs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "continuous_usage_stats",
    }
)
"""Parameters that need the server's own API, but change neither how tokens are picked nor how many answers
there are."""


def cloud_seed(body: Mapping[str, Any], causes: Sequence[str], draw_bits: Callable[[int], int]) -> int | None:
    """The seed whose noise `body` can be answered with.

    None: the request is greedy, or only the server's own sampler will do.
    `causes` are the parameters of `body` that need the server's own API.
    """
    if body.get("temperature") == 0 or not _LEAVE_THE_CHOICE_ALONE.issuperset(causes):
        return None
    seed: int | None = body.get("seed")
    return draw_seed(draw_bits) if seed is None else seed


def with_seed(seed: int | None, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """`body`, to be answered with the noise of `seed`.

    A body for which `cloud_seed` returns a seed has no `vllm_xargs` of its own.
    """
    return body if seed is None else {**body, "vllm_xargs": {SEED_KEY: seed}}
