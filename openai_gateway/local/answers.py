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
from openai_gateway.chat_service import StreamedAnswer, WholeAnswer
from openai_gateway.local.answer import Answer
from openai_gateway.local.chunks import answer_chunks, extensions, stop_reason, usage
from openai_gateway.local.endpoints import Endpoint
from openai_gateway.local.planning import check_prompt, sampling_settings
from openai_gateway.local.schema import GenerationFields
from openai_gateway.local.shapes import Envelope
from openai_gateway.local.text.reasoning import ReasoningSplitter, split_message
from openai_gateway.local.text.scores import TokenScore, TokenScorer
from openai_gateway.local.text.tokenizer import TargetTextCache
from openai_gateway.local.text.transcript import StopScanner, Transcript
from openai_gateway.routing.options import SessionOptions
from openai_gateway.routing.routes import RouteChoice, route_header
from openai_gateway.routing.seeds import seed_header

__all__ = ["GatewayTimings", "GeneratedAnswers"]

PENDING = "pending"
"""Reason in the header of a stream whose headers had to go before the first token."""


@dataclass(frozen=True, slots=True)
class GatewayTimings:
    """`first_chunk_s`: how long a stream's headers wait for the generation's first chunk, so that
    a refusal can still be a 4xx; `ping_s`: time between keep-alive comments."""

    first_chunk_s: float = 2.0
    ping_s: float = 10.0


class GeneratedAnswers:
    """Turns checked requests into generations, and generations into OpenAI's bodies."""

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

    async def whole(
        self,
        endpoint: Endpoint,
        request: GenerationFields,
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
    ) -> WholeAnswer:
        """Raises `ApiError`, `EdgeError`. Cancelling the call ends the generation."""
        answer, envelope = await self._start(endpoint, request, target, choice, options)
        texts: list[str] = []
        scores: list[TokenScore] = []
        finish_reason = FinishReason.LENGTH
        try:
            async for part in answer.parts():
                texts.append(part.text)
                scores += part.scores
                finish_reason = part.finish_reason or finish_reason
        finally:
            await answer.aclose()
        shape = endpoint.shape
        reported = scores if request.num_alternatives is not None else None
        ended = shape.whole("".join(texts), finish_reason, reported) | stop_reason(answer)
        if (marks := _reasoning_marks(endpoint, request, target)) is not None:
            ended["message"] = split_message(ended["message"], marks)
        body = envelope.wrap(shape.whole_object, [ended])
        body |= {"usage": usage(answer.num_prompt_tokens, answer.num_completion_tokens)}
        body |= extensions(answer.stats, answer.num_prompt_tokens)
        return WholeAnswer(body, _headers(answer, envelope))

    async def stream(
        self,
        endpoint: Endpoint,
        request: GenerationFields,
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
    ) -> StreamedAnswer:
        """Raises `ApiError`, `EdgeError` for what fails before the first token (and soon enough)."""
        answer, envelope = await self._start(endpoint, request, target, choice, options)
        try:
            known = await answer.opened(self._timings.first_chunk_s)
        except BaseException:
            await answer.aclose()
            raise
        headers = _headers(answer, envelope) if known else _headers(answer, envelope, choice.route)
        wrap = partial(envelope.wrap, endpoint.shape.chunk_object)
        marks = _reasoning_marks(endpoint, request, target)
        splitter = None if marks is None else ReasoningSplitter(marks)
        usage_wanted = request.include_usage
        chunks = answer_chunks(answer, wrap, endpoint.shape, splitter, include_usage=usage_wanted)
        return StreamedAnswer(headers, chunks, answer.aclose)

    async def _start(
        self,
        endpoint: Endpoint,
        request: GenerationFields,
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
    ) -> tuple[Answer, Envelope]:
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
        answer = Answer(chunks, transcript, len(prompt), with_spans=options.provenance, scorer=scorer)
        return answer, envelope


def _reasoning_marks(
    endpoint: Endpoint, request: GenerationFields, target: TargetInfo
) -> tuple[str, str] | None:
    """Where the answer's reasoning is to be cut off; None: nowhere."""
    return target.reasoning_marks if endpoint.splits_reasoning and request.may_think else None


def _headers(answer: Answer, envelope: Envelope, pending: Route | None = None) -> dict[str, str]:
    stats = answer.stats
    route = route_header(pending, PENDING) if pending else route_header(stats.route, stats.route_reason)
    return {**route, **seed_header(envelope.seed), "x-request-id": envelope.answer_id}
