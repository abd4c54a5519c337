"""What an answer cost: OpenAI's `usage`, our `pipesd`, llama.cpp's `timings`. Pure."""

from __future__ import annotations

from typing import Any

from edge_agent.api import GenerationStats

__all__ = ["extensions", "pipesd_figures", "timings", "usage"]

Json = dict[str, Any]


def usage(num_prompt_tokens: int, num_completion_tokens: int) -> Json:
    """OpenAI's token counts."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


def extensions(stats: GenerationStats, num_prompt_tokens: int | None) -> Json:
    """Both extension objects of a body that ends an answer."""
    return {"pipesd": pipesd_figures(stats), "timings": timings(stats, num_prompt_tokens)}


def pipesd_figures(stats: GenerationStats) -> Json:
    """How the answer was made. Times in ms; null where unknown or not measured on this route."""
    return {
        "route": stats.route,
        "reason": stats.route_reason,
        "verified": stats.verified,
        "unverified_tokens": stats.unverified_tokens,
        "ignored": list(stats.ignored),
        "seed": stats.seed,
        "ttft_ms": _rounded(stats.ttft_ms),
        "tpt_ms": _rounded(stats.tpt_ms),
        "acceptance_rate": _rounded(stats.acceptance_rate),
        "passes_per_token": _rounded(stats.passes_per_token),
        "target_passes": stats.target_passes,
        "draft_tokens_sent": stats.draft_tokens_sent,
        "draft_tokens_verified": stats.draft_tokens_verified,
        "draft_tokens_accepted": stats.draft_tokens_accepted,
        "uplink_bytes": stats.uplink_bytes,
        "downlink_bytes": stats.downlink_bytes,
    }


def timings(stats: GenerationStats, num_prompt_tokens: int | None) -> Json:
    """llama.cpp's names. `prompt_ms` is the time to the first token, the network included."""
    predicted_ms = None
    if stats.first_token_s is not None and stats.last_token_s is not None:
        predicted_ms = (stats.last_token_s - stats.first_token_s) * 1e3
    return {
        "prompt_n": num_prompt_tokens,
        "prompt_ms": _rounded(stats.ttft_ms),
        "prompt_per_second": _per_second(num_prompt_tokens, stats.ttft_ms),
        "predicted_n": stats.completion_tokens,
        "predicted_ms": _rounded(predicted_ms),
        "predicted_per_second": _per_second(stats.completion_tokens, predicted_ms),
        "draft_n": stats.draft_tokens_verified,
        "draft_n_accepted": stats.draft_tokens_accepted,
    }


def _per_second(count: int | None, elapsed_ms: float | None) -> float | None:
    return _rounded(count * 1e3 / elapsed_ms) if count and elapsed_ms else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
