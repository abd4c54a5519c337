"""A generated answer as the chunks of a stream in OpenAI's shape, with its statistics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from edge_agent.api import GenerationStats, Route, Source
from openai_gateway.chat_service import Json
from openai_gateway.local.generation import Generation, Part
from openai_gateway.local.shapes import Shape
from openai_gateway.local.text.reasoning import ReasoningSplitter, both_names

__all__ = ["answer_chunks", "extensions", "pipesd_stats", "stop_reason", "timings", "usage"]


_TEXTS: Final = frozenset({"reasoning", "content", "text"})

Wrap = Callable[[list[Json]], Json]


async def answer_chunks(
    generation: Generation,
    wrap: Wrap,
    shape: Shape,
    splitter: ReasoningSplitter | None,
    *,
    include_usage: bool,
    counts_always: bool = False,
    with_provenance: bool = False,
    delivered: Mapping[str, int] | None = None,
) -> AsyncIterator[Json]:
    """The chunks: opening, each piece of text, finish, usage if asked for. The last has the statistics.

    `splitter`: the choices are a chat's, and their reasoning is split off. `delivered`: the client has the
    opening and so many characters of each text; they are left out.
    """
    left = dict(delivered or {})

    def common() -> Json:
        # With a usage chunk to come, OpenAI's other chunks have a null usage.
        counts = usage(generation.num_prompt_tokens, generation.num_completion_tokens)
        return {"usage": counts if counts_always else None} if include_usage else {}

    if delivered is None and (opening := shape.opening()) is not None:
        yield {**wrap([opening]), **common()}
    async for part in generation.parts():
        for choice in _choices(part, shape, splitter, left):
            yield {**wrap([choice]), **common(), **_marks(part, with_provenance=with_provenance)}
        if part.finish_reason is not None:
            stats = {} if include_usage else extensions(generation.stats, generation.num_prompt_tokens)
            yield {**wrap([shape.finish(part.finish_reason) | stop_reason(generation)]), **common(), **stats}
    if include_usage:
        counts = usage(generation.num_prompt_tokens, generation.num_completion_tokens)
        yield {**wrap([]), "usage": counts, **extensions(generation.stats, generation.num_prompt_tokens)}


def _choices(
    part: Part, shape: Shape, splitter: ReasoningSplitter | None, left: dict[str, int]
) -> list[Json]:
    """At most one choice with the part's text; none if there is nothing to send.

    The first `left` characters of each text are left out.
    """
    choice = shape.text(part.text)
    if splitter is not None:
        reasoning, content = splitter.push(part.text)
        if part.finish_reason is not None:
            reasoning += splitter.flush()
        choice["delta"] = {"reasoning": reasoning, "content": content}
    said = choice.get("delta", choice)
    for name in _TEXTS & said.keys():
        text = said[name]
        said[name] = text[left.get(name, 0) :]
        left[name] = max(0, left.get(name, 0) - len(text))
        if "delta" in choice and not said[name]:
            del said[name]
    if "delta" in choice:
        said |= both_names(said.get("reasoning", ""))
    return [choice] if any(said.get(name) for name in _TEXTS) else []


def stop_reason(generation: Generation) -> Json:
    """vLLM's field for the stop string that ended a choice."""
    return {} if generation.stop_string is None else {"stop_reason": generation.stop_string}


def _marks(part: Part, *, with_provenance: bool) -> Json:
    """A chunk's own `pipesd` object: that its text is unverified, and its source if that was asked for."""
    if part.verified:
        return {}
    if not with_provenance:
        return {"pipesd": {"verified": False}}
    span = {"source": Source.UNVERIFIED, "tokens": part.num_tokens, "text": part.text}
    return {"pipesd": {"verified": False, "provenance": [span]}}


def usage(num_prompt_tokens: int, num_completion_tokens: int) -> Json:
    """OpenAI's token counts."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


def extensions(stats: GenerationStats, num_prompt_tokens: int | None) -> Json:
    """Both extension objects of a body that ends an answer."""
    return {"pipesd": pipesd_stats(stats), "timings": timings(stats, num_prompt_tokens)}


def pipesd_stats(stats: GenerationStats) -> Json:
    """How the answer was made. Times in ms; null where unknown or not measured on this route."""
    return {
        "route": stats.route,
        "reason": stats.route_reason,
        "drafted": stats.drafted and stats.route is Route.COLLABORATIVE,
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
        "in_force": stats.in_force or None,
        "in_force_reason": stats.in_force_reason or None,
        "savings": {
            "passes": stats.saved_passes,
            "ms": _rounded(stats.saved_ms),
            "bytes": stats.saved_bytes,
        },
        "uplink_bytes": stats.uplink_bytes,
        "downlink_bytes": stats.downlink_bytes,
    }


def timings(stats: GenerationStats, num_prompt_tokens: int | None) -> Json:
    """llama.cpp's `timings`. `prompt_ms` is the time to the first token, including the network."""
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
