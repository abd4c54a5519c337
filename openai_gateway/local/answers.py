"""Answers that the edge agent generates: the routes `collaborative` and `local`."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from edge_agent.api import (
    FinishReason,
    GenerationRequest,
    Generator,
    Route,
    TargetInfo,
    seeded,
)
from openai_gateway.chat_service import (
    Answer,
    RouteChoice,
    SessionOptions,
    StreamedAnswer,
    WholeAnswer,
    route_header,
    seed_header,
)
from openai_gateway.local.chunks import answer_chunks, extensions, stop_reason, usage
from openai_gateway.local.endpoints import Endpoint, RequestT
from openai_gateway.local.generation import Generation
from openai_gateway.local.planning import check_prompt, sampling_settings
from openai_gateway.local.schema import GenerationFields
from openai_gateway.local.shapes import Envelope, Shape
from openai_gateway.local.text.reasoning import ReasoningSplitter, split_message
from openai_gateway.local.text.scores import TokenScore, TokenScorer
from openai_gateway.local.text.tokenizer import TargetTextCache
from openai_gateway.local.text.transcript import StopScanner, Transcript

__all__ = ["GatewayTimings", "GeneratedAnswers"]

PENDING = "pending"
"""Route reason of a stream whose headers were sent before the first token."""


@dataclass(frozen=True, slots=True)
class GatewayTimings:
    """`first_chunk_s`: how long a stream's headers wait for the generation's first chunk, so that
    a refusal can still be a 4xx; `ping_s`: time between keep-alive comments. In seconds."""

    first_chunk_s: float = 2.0
    ping_s: float = 10.0


class GeneratedAnswers:
    """Starts a generation for a checked request, and makes OpenAI's bodies of it."""

    def __init__(
        self,
        generator: Generator,
        timings: GatewayTimings,
        clock: Callable[[], float] = time.time,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`clock` gives Unix time in seconds, `draw_bits` as many random bits as asked for."""
        self._generator = generator
        self._timings = timings
        self._clock = clock
        self._draw_bits = draw_bits
        self._texts = TargetTextCache()

    async def answer(
        self,
        endpoint: Endpoint[RequestT],
        request: RequestT,
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
    ) -> Answer:
        """The answer to `request`, streamed if it says so.

        Raises `ApiError`, `EdgeError` for a failure before there is an answer; for a stream, before its first
        token and within `GatewayTimings.first_chunk_s`. Cancelling the call ends the generation.
        """
        generation, envelope = await self._start(endpoint, request, target, choice, options)
        marks = target.reasoning_marks if endpoint.splits_reasoning and request.may_think else None
        if not request.stream:
            return await self._whole(endpoint.shape, request, generation, envelope, marks)
        try:
            known = await generation.opened(self._timings.first_chunk_s)
        except BaseException:
            await generation.aclose()
            raise
        headers = _headers(generation, envelope, None if known else choice.route)
        wrap = partial(envelope.wrap, endpoint.shape.chunk_object)
        splitter = None if marks is None else ReasoningSplitter(marks)
        chunks = answer_chunks(
            generation, wrap, endpoint.shape, splitter, include_usage=request.include_usage
        )
        return StreamedAnswer(headers, chunks, generation.aclose)

    async def _whole(
        self,
        shape: Shape,
        request: GenerationFields,
        generation: Generation,
        envelope: Envelope,
        marks: tuple[str, str] | None,
    ) -> WholeAnswer:
        texts: list[str] = []
        scores: list[TokenScore] = []
        finish_reason = FinishReason.LENGTH
        try:
            async for part in generation.parts():
                texts.append(part.text)
                scores += part.scores
                finish_reason = part.finish_reason or finish_reason
        finally:
            await generation.aclose()
        reported = scores if request.num_alternatives is not None else None
        choice = shape.whole("".join(texts), finish_reason, reported) | stop_reason(generation)
        if marks is not None:
            choice["message"] = split_message(choice["message"], marks)
        body = envelope.wrap(shape.whole_object, [choice])
        body |= {"usage": usage(generation.num_prompt_tokens, generation.num_completion_tokens)}
        body |= extensions(generation.stats, generation.num_prompt_tokens)
        return WholeAnswer(body, _headers(generation, envelope))

    async def _start(
        self,
        endpoint: Endpoint[RequestT],
        request: RequestT,
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
    ) -> tuple[Generation, Envelope]:
        is_local = choice.route is Route.LOCAL
        if is_local and target.draft_max_len is not None:
            target = replace(target, max_model_len=target.draft_max_len)
        text = await self._texts.load(await self._generator.tokenizer(offline=is_local))
        prompt = await endpoint.encode(request, text)
        check_prompt(prompt, target, endpoint.prompt_param)
        # Drawn here, so that the answer can name its seed from the first byte on.
        sampling = seeded(sampling_settings(request, len(prompt), target), self._draw_bits)
        answer_id = endpoint.shape.id_prefix + uuid.uuid4().hex
        envelope = Envelope(answer_id, target.model, int(self._clock()), sampling.seed)
        wanted = GenerationRequest(
            envelope.answer_id,
            prompt,
            sampling,
            choice.route,
            options.mode,
            options.policy,
            structure_after=target.reasoning_marks,
        )
        ends = text.eos_token_ids.union(sampling.stop_token_ids)
        scanner = StopScanner(request.stop)
        transcript = Transcript(text.detokenizer(prompt), scanner, ends, min_tokens=sampling.min_tokens)
        chunks = self._generator.generate(wanted)
        scorer = None if sampling.logprobs is None else TokenScorer(text.text_of)
        generation = Generation(chunks, transcript, len(prompt), with_spans=options.provenance, scorer=scorer)
        return generation, envelope


def _headers(generation: Generation, envelope: Envelope, pending: Route | None = None) -> dict[str, str]:
    stats = generation.stats
    route = route_header(pending, PENDING) if pending else route_header(stats.route, stats.route_reason)
    return {**route, **seed_header(envelope.seed), "x-request-id": envelope.answer_id}
