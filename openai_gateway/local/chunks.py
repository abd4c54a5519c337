"""A generated answer as the chunks of a stream in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from openai_gateway.chat_service import Json
from openai_gateway.local.answer import Answer, Part
from openai_gateway.local.figures import extensions, usage
from openai_gateway.local.provenance import spans_json
from openai_gateway.local.shapes import Shape
from openai_gateway.local.text.reasoning import ReasoningSplitter, both_names

__all__ = ["answer_chunks", "stop_reason"]

Wrap = Callable[[list[Json]], Json]


async def answer_chunks(
    answer: Answer,
    wrap: Wrap,
    shape: Shape,
    splitter: ReasoningSplitter | None,
    *,
    include_usage: bool,
) -> AsyncIterator[Json]:
    """Opening, one chunk a piece of text, finish, usage if asked for; the last carries the figures.

    `splitter`: the choices are a chat's, and their reasoning is split off.
    """
    # With a usage chunk to come, OpenAI's other chunks have a null usage.
    common: Json = {"usage": None} if include_usage else {}
    if (opening := shape.opening()) is not None:
        yield {**wrap([opening]), **common}
    async for part in answer.parts():
        for choice in _choices(part, shape, splitter):
            yield {**wrap([choice]), **common, **_marks(part)}
        if part.finish_reason is not None:
            figures = {} if include_usage else extensions(answer.stats, answer.num_prompt_tokens)
            yield {**wrap([shape.finish(part.finish_reason) | stop_reason(answer)]), **common, **figures}
    if include_usage:
        counts = usage(answer.num_prompt_tokens, answer.num_completion_tokens)
        yield {**wrap([]), "usage": counts, **extensions(answer.stats, answer.num_prompt_tokens)}


def _choices(part: Part, shape: Shape, splitter: ReasoningSplitter | None) -> list[Json]:
    """At most one choice with the part's text, and none if there is nothing to tell."""
    choice = shape.text(part.text, part.scores or None)
    if splitter is None:
        return [choice] if part.text or part.scores else []
    reasoning, content = splitter.push(part.text)
    if part.finish_reason is not None:
        reasoning += splitter.flush()
    delta = both_names(reasoning) | ({"content": content} if content else {})
    return [{**choice, "delta": delta}] if delta or part.scores else []


def stop_reason(answer: Answer) -> Json:
    """vLLM's field for the stop string that ended a choice."""
    return {} if answer.stop_string is None else {"stop_reason": answer.stop_string}


def _marks(part: Part) -> Json:
    """What a chunk says of its own text: always that it is unverified, more if asked for."""
    if part.spans:
        return {"pipesd": {"verified": part.verified, "provenance": spans_json(part.spans)}}
    return {} if part.verified else {"pipesd": {"verified": False}}
