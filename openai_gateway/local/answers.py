"""Answers that the draft model gives alone: the route `local`, and the rest of what a lost verifier began."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from edge_agent.api import (
    AnswerContinued,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Generator,
    Route,
    TargetInfo,
    seeded,
)
from openai_gateway.chat_service import (
    Answer,
    Json,
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
from openai_gateway.local.shapes import Envelope
from openai_gateway.local.text.reasoning import ReasoningSplitter, split_message
from openai_gateway.local.text.tokenizer import TargetText, TargetTextCache
from openai_gateway.local.text.transcript import StopScanner, Transcript

__all__ = ["Continuation", "GatewayTimings", "LocalAnswers"]


@dataclass(frozen=True, slots=True)
class GatewayTimings:
    """`first_chunk_s`: how long a stream's headers wait for the generation's first chunk, so that
    a refusal can still be a 4xx; `ping_s`: time between keep-alive comments. In seconds."""

    first_chunk_s: float = 2.0
    ping_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a lost verifier leaves: the tokens it committed, and the draft model's `chunks` after them.

    `last` is the chunk that the client got last, if it got one, and `delivered` how many characters of each
    of its texts it has (`content`, `reasoning`, `text`).
    """

    committed: AnswerContinued
    chunks: AsyncIterator[GenerationChunk]
    seed: int | None = None
    last: Json | None = None
    delivered: Mapping[str, int] = field(default_factory=dict)


class LocalAnswers:
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

    async def text(self) -> TargetText:
        """The target's tokenizer. Raises `CloudError` if nothing is known of it."""
        return await self._texts.load(await self._generator.tokenizer())

    async def answer(
        self,
        endpoint: Endpoint[RequestT],
        request: RequestT,
        target: TargetInfo,
        reason: str,
        options: SessionOptions,
    ) -> Answer:
        """The answer to `request`, streamed if it says so; `reason` is why the route is `local`.

        Raises `ApiError`, `EdgeError` for a failure before there is an answer; for a stream, before its first
        token and within `GatewayTimings.first_chunk_s`. Cancelling the call ends the generation.
        """
        generation, envelope = await self._start(endpoint, request, target, reason)
        marks = _marks(endpoint, request, target)
        if not request.stream:
            return await self._whole(endpoint, generation, envelope, marks)
        try:
            await generation.opened(self._timings.first_chunk_s)
        except BaseException:
            await generation.aclose()
            raise
        wrap = partial(envelope.wrap, endpoint.shape.chunk_object)
        splitter = None if marks is None else ReasoningSplitter(marks)
        chunks = answer_chunks(
            generation,
            wrap,
            endpoint.shape,
            splitter,
            include_usage=request.include_usage,
            counts_always=request.counts_always,
            with_provenance=options.provenance,
        )
        return StreamedAnswer(_headers(Route.LOCAL, reason, envelope), chunks, generation.aclose)

    async def continued(
        self,
        endpoint: Endpoint[RequestT],
        request: RequestT,
        target: TargetInfo,
        rest: Continuation,
        options: SessionOptions,
    ) -> AsyncIterator[Json]:
        """The chunks that are left of a streamed answer. Raises `ApiError`."""
        text = await self._texts.load(await self._generator.tokenizer(offline=True))
        generation = _continued(text, request, rest)
        envelope = self._envelope_of(endpoint, target, rest)
        marks = _marks(endpoint, request, target)
        chunks = answer_chunks(
            generation,
            partial(envelope.wrap, endpoint.shape.chunk_object),
            endpoint.shape,
            None if marks is None else ReasoningSplitter(marks),
            include_usage=request.include_usage,
            counts_always=request.counts_always,
            with_provenance=options.provenance,
            delivered=None if rest.last is None else rest.delivered,
        )
        try:
            async with aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        finally:
            await generation.aclose()

    async def continued_whole(
        self, endpoint: Endpoint[RequestT], request: RequestT, target: TargetInfo, rest: Continuation
    ) -> WholeAnswer:
        """An answer that is not streamed, of which the client has nothing. Raises `ApiError`."""
        text = await self._texts.load(await self._generator.tokenizer(offline=True))
        generation = _continued(text, request, rest)
        envelope = self._envelope_of(endpoint, target, rest)
        return await self._whole(endpoint, generation, envelope, _marks(endpoint, request, target))

    async def _whole(
        self,
        endpoint: Endpoint[RequestT],
        generation: Generation,
        envelope: Envelope,
        marks: tuple[str, str] | None,
    ) -> WholeAnswer:
        texts: list[str] = []
        finish_reason = FinishReason.LENGTH
        try:
            async for part in generation.parts():
                texts.append(part.text)
                finish_reason = part.finish_reason or finish_reason
        finally:
            await generation.aclose()
        choice = endpoint.shape.whole("".join(texts), finish_reason) | stop_reason(generation)
        if marks is not None:
            choice["message"] = split_message(choice["message"], marks)
        body = envelope.wrap(endpoint.shape.whole_object, [choice])
        body |= {"usage": usage(generation.num_prompt_tokens, generation.num_completion_tokens)}
        body |= extensions(generation.stats, generation.num_prompt_tokens)
        stats = generation.stats
        return WholeAnswer(body, _headers(stats.route, stats.route_reason, envelope))

    async def _start(
        self,
        endpoint: Endpoint[RequestT],
        request: RequestT,
        target: TargetInfo,
        reason: str,
    ) -> tuple[Generation, Envelope]:
        if target.draft_max_len is not None:
            target = replace(target, max_model_len=target.draft_max_len)
        text = await self._texts.load(await self._generator.tokenizer(offline=True))
        prompt = await endpoint.encode(request, text)
        check_prompt(prompt, target, endpoint.prompt_param)
        # Drawn here, so that the answer can name its seed from the first byte on.
        sampling = seeded(sampling_settings(request, len(prompt), target), self._draw_bits)
        envelope = Envelope(self._new_id(endpoint), target.model, int(self._clock()), sampling.seed)
        wanted = GenerationRequest(
            envelope.answer_id,
            prompt,
            sampling,
            Route.LOCAL,
            structure_after=target.reasoning_marks,
            reason=reason,
        )
        transcript = _transcript(text, prompt, request)
        chunks = self._generator.generate(wanted)
        return Generation(chunks, transcript, len(prompt)), envelope

    def _envelope_of(self, endpoint: Endpoint[RequestT], target: TargetInfo, rest: Continuation) -> Envelope:
        last = rest.last or {}
        return Envelope(
            str(last.get("id") or self._new_id(endpoint)),
            str(last.get("model") or target.model),
            int(last.get("created") or self._clock()),
            rest.seed,
        )

    def _new_id(self, endpoint: Endpoint[RequestT]) -> str:
        return endpoint.shape.id_prefix + uuid.uuid4().hex


def _marks(
    endpoint: Endpoint[RequestT], request: GenerationFields, target: TargetInfo
) -> tuple[str, str] | None:
    """Those at which reasoning is split off."""
    return target.reasoning_marks if endpoint.splits_reasoning and request.may_think else None


def _transcript(text: TargetText, prompt: tuple[int, ...], request: GenerationFields) -> Transcript:
    ends = text.eos_token_ids.union(request.stop_token_ids or ())
    scanner = StopScanner(request.stop)
    return Transcript(text.detokenizer(prompt), scanner, ends, min_tokens=request.min_tokens or 0)


def _continued(text: TargetText, request: GenerationFields, rest: Continuation) -> Generation:
    prompt, committed = rest.committed.prompt_token_ids, rest.committed.token_ids

    async def chunks() -> AsyncIterator[GenerationChunk]:
        has_begun = False
        async for chunk in rest.chunks:
            if not has_begun:
                has_begun = True
                yield GenerationChunk(committed, None, chunk.stats)
            yield chunk

    transcript = _transcript(text, prompt, request)
    return Generation(chunks(), transcript, len(prompt))


def _headers(route: Route, reason: str, envelope: Envelope) -> dict[str, str]:
    return {
        **route_header(route, reason),
        **seed_header(envelope.seed),
    }
