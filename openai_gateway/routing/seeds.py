"""The seed that a sampled text depends on besides its request: drawn if need be, sent, and told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edge_agent.api import draw_seed

__all__ = ["SEED_HEADER", "SEED_KEY", "cloud_seed", "fingerprint", "seed_header", "with_noise_of"]

Json = dict[str, Any]

SEED_HEADER: Final = "x-pipesd-seed"
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
"""Of what needs the server's own API, that which says nothing of how tokens are picked or how many answers
are."""


def cloud_seed(body: Mapping[str, Any], causes: Sequence[str], draw_bits: Callable[[int], int]) -> int | None:
    """The seed whose noise `body` can be answered with; None: greedy, or the server's own sampler has to do.

    `causes` are the parameters of `body` that need the server's own API.
    """
    if body.get("temperature") == 0 or not _LEAVE_THE_CHOICE_ALONE.issuperset(causes):
        return None
    seed: int | None = body.get("seed")
    return draw_seed(draw_bits) if seed is None else seed


def with_noise_of(seed: int | None, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """`body` for the server's own API. Whatever `cloud_seed` says yes to has no `vllm_xargs` of its own."""
    return body if seed is None else {**body, "vllm_xargs": {SEED_KEY: seed}}


def seed_header(seed: int | None) -> dict[str, str]:
    """The header that tells it."""
    return {} if seed is None else {SEED_HEADER: str(seed)}


def fingerprint(seed: int | None) -> Json:
    """OpenAI's `system_fingerprint` is to tell what a text depends on besides the request."""
    return {} if seed is None else {"system_fingerprint": f"seed-{seed}"}
