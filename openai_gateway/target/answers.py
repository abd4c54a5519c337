"""Answers of the target: the server's own API, drafted for (`collaborative`) or passed through (`cloud`)."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from edge_agent.api import (
    AnswerContinued,
    AnswerDrafts,
    AnswerEvent,
    AnswerHead,
    AnswerText,
    AskRequest,
    GenerationChunk,
    GenerationStats,
    Generator,
    Route,
    TargetInfo,
    draw_seed,
)
from edge_agent.errors import CloudMisbehaved, CloudUnreachable, DraftAnswers, EdgeError, VerifierTooOld
from openai_gateway.chat_service import (
    Answer,
    Json,
    RouteChoice,
    SessionOptions,
    StreamedAnswer,
    WholeAnswer,
    fingerprint,
    route_header,
    seed_header,
)
from openai_gateway.errors import ApiError, error_in_stream, refusal, translate
from openai_gateway.http import CURRENT, read_events
from openai_gateway.local import Continuation, Endpoint, LocalAnswers, Pump, RequestT
from openai_gateway.target.drafts import ProvisionalText
from openai_gateway.target.shapes import TargetChunks, check_shape, complete_whole

__all__ = ["TOO_OLD", "TargetAnswers"]

_DONE: Final = b"[DONE]"
_DRAFTS: Final = b"[DRAFTS]"
"""Stands in the stream where drafts have changed."""
_PENDING: Final = "pending"
"""Route reason of a stream whose headers were sent before its first chunk."""
TOO_OLD: Final = "server too old for sessions"


class TargetAnswers:
    """Has the server answer. Texts, ids and usage are the server's; the extensions are ours."""

    def __init__(
        self,
        generator: Generator,
        local: LocalAnswers,
        first_chunk_s: float,
        clock: Callable[[], float] = time.monotonic,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`clock` in seconds, `draw_bits` gives as many random bits as asked for.

        `first_chunk_s`: how long a stream's headers wait for its first chunk, so that a refusal has a status.
        """
        self._draw_bits = draw_bits
        self._generator = generator
        self._local = local
        self._first_chunk_s = first_chunk_s
        self._clock = clock

    async def answer(
        self,
        endpoint: Endpoint[RequestT],
        body: Mapping[str, Any],
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
        by_draft: RequestT | None,
    ) -> Answer:
        """The server's answer to `body`, streamed if `body` says so.

        `by_draft` is the same request, if the draft model alone can answer it where the agent's setting says
        so. Raises `ApiError`, `EdgeError` for a failure before there is an answer, or a stream's first chunk.
        Cancelling the call ends the request on the server.
        """
        body = self._seeded(body)
        exchange = _Exchange(self, endpoint, body, target, choice, options, by_draft)
        if not body.get("stream"):
            return await exchange.whole()
        return await exchange.stream(self._first_chunk_s)

    def _seeded(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """`body` with a drawn seed, unless the client gives one or asks for greedy text."""
        if "seed" in body or body.get("temperature") == 0:
            return body
        # Next to what grows from turn to turn: what is new then lies together (`pipesd_vllm/wire/kept.py`).
        fields = [*body.items()]
        place = next((n for n, name in enumerate(body, 1) if name in ("messages", "prompt")), len(fields))
        return dict([*fields[:place], ("seed", draw_seed(self._draw_bits)), *fields[place:]])


class _Exchange:
    """One request and what comes of it."""

    def __init__(
        self,
        answers: TargetAnswers,
        endpoint: Endpoint[RequestT],
        body: Mapping[str, Any],
        target: TargetInfo,
        choice: RouteChoice,
        options: SessionOptions,
        by_draft: RequestT | None,
    ) -> None:
        self._generator = answers._generator
        self._clock = answers._clock
        self._local = answers._local
        self._endpoint: Endpoint[Any] = endpoint
        self._body = body
        self._target = target
        self._choice = choice
        self._options = options
        self._by_draft = by_draft
        seed = body.get("seed")
        self._seed = seed if isinstance(seed, int) else None  # what is none is the server's to refuse
        self._stats = GenerationStats(Route.CLOUD, choice.reason, answers._clock(), seed=self._seed)
        self._headers = seed_header(self._seed)
        self._request_id = _request_id()
        self._has_begun = False
        self._chunks: TargetChunks | None = None
        self._continued: AnswerContinued | None = None
        self._provisional: ProvisionalText | None = None

    # -- whole and streamed -----------------------------------------------------------------

    async def whole(self) -> WholeAnswer:
        sent = {name: value for name, value in self._body.items() if name != "stream"}
        async with aclosing(self._events(sent)) as events:
            try:
                data = b"".join([part async for part in self._texts(events)])
            except DraftAnswers as error:
                local = await self._by_the_draft(error)
                assert isinstance(local, WholeAnswer)
                return local
            if self._continued is not None:
                continuation = Continuation(self._continued, _chunks_of(events), self._seed)
                return await self._local.continued_whole(
                    self._endpoint, self._by_draft, self._target, continuation
                )
        answer = _decode(data)
        check_shape(answer)
        self._stats.last_token_s = self._stats.last_token_s or self._clock()
        headers = {**self._headers}
        headers |= route_header(self._stats.route, self._stats.route_reason)
        return WholeAnswer(complete_whole(answer, self._stats, fingerprint(self._seed)), headers)

    async def stream(self, first_chunk_s: float) -> StreamedAnswer:
        pump = Pump(self._streamed())
        try:
            first = await pump.peek(first_chunk_s)
        except BaseException as error:
            await pump.aclose()
            if isinstance(error, Exception):
                raise translate(error) from error
            raise
        headers = {**route_header(self._choice.route, _PENDING), **self._headers}
        if first is not None:
            known = route_header(self._stats.route, self._stats.route_reason)
            headers = {**known, **self._headers}
        return StreamedAnswer(headers, _translated(pump), pump.aclose)

    async def _streamed(self) -> AsyncIterator[Json]:
        """The chunks as the client gets them. Raises `ApiError`, `EdgeError`."""
        options = self._body.get("stream_options")
        include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        sent = {**self._body, "stream": True}
        if options is None or isinstance(options, dict):
            sent["stream_options"] = {**(options or {}), "include_usage": True}
        shows_drafts = self._options.drafts and self._choice.route is Route.COLLABORATIVE
        with_provenance = (self._options.provenance or shows_drafts) and not self._body.get("echo")
        if shows_drafts and with_provenance:
            self._provisional = ProvisionalText(self._local.text, self._clock)
        if with_provenance:
            sent["return_token_ids"] = True
        self._chunks = chunks = TargetChunks(
            self._stats,
            self._clock,
            fingerprint(self._seed),
            include_usage=include_usage,
            with_provenance=with_provenance,
            keep_token_ids=bool(self._body.get("return_token_ids")),
            provisional=self._provisional,
        )
        is_done = False
        async with aclosing(self._events(sent)) as events:
            try:
                async for data in read_events(self._texts(events)):
                    if data == _DONE:
                        is_done = True
                        for each in chunks.flush():
                            yield each
                        continue
                    if data == _DRAFTS:
                        if (told := chunks.drafts()) is not None:
                            yield told
                        continue
                    for each in chunks.push(self._checked(_decode(data))):
                        yield each
                if self._continued is not None and not chunks.has_ended:
                    continuation = Continuation(
                        self._continued, _chunks_of(events), self._seed, chunks.last, chunks.delivered
                    )
                    async for each in self._local.continued(
                        self._endpoint, self._by_draft, self._target, continuation, self._options
                    ):
                        yield each
                elif not is_done and not chunks.has_ended:
                    raise CloudUnreachable("the server ended the stream before its end")
                for each in chunks.flush():
                    yield each
            except DraftAnswers as error:
                answer = await self._by_the_draft(error)
                assert isinstance(answer, StreamedAnswer)
                self._headers |= answer.headers
                async with aclosing(answer):
                    async for each in answer.chunks:
                        yield each
            except Exception:
                for each in chunks.flush():
                    yield each
                if not is_done:
                    raise
            finally:
                if self._provisional is not None:
                    self._provisional.close()

    def _checked(self, chunk: Json) -> Json:
        if "error" in chunk:
            raise error_in_stream(chunk, self._choice.causes)
        check_shape(chunk)
        return chunk

    # -- what the server says ---------------------------------------------------------------

    async def _events(self, body: Mapping[str, Any]) -> AsyncGenerator[AnswerEvent, None]:
        """The answer's head and body. Raises `EdgeError`."""
        if self._choice.route is Route.COLLABORATIVE:
            asked = {name: value for name, value in body.items() if name != "model"}
            if self._target.model in (self._target.adapters or ()):
                asked["model"] = self._target.model
            request = AskRequest(
                self._request_id,
                self._endpoint.path,
                msgspec.json.encode(asked),
                self._options.mode,
                self._options.policy,
                sampled=self._body.get("temperature") != 0,
                shows_drafts=self._provisional is not None,
                may_continue_locally=self._by_draft is not None,
                structure_after=self._target.reasoning_marks,
            )
            try:
                async with aclosing(self._generator.ask(request)) as events:  # type: ignore[type-var]
                    async for event in events:
                        yield event
                return
            except VerifierTooOld:
                self._stats.route_reason = TOO_OLD
        named = {"request_id": self._request_id, **body, "model": self._target.model}
        stats, content = self._stats, msgspec.json.encode(named)
        stats.uplink_bytes = len(content)
        forwarded = await self._generator.forward(self._endpoint.path, content)
        try:
            yield AnswerHead(forwarded.status, stats)
            async for part in forwarded.parts():
                stats.downlink_bytes += len(part)
                yield AnswerText(part)
        finally:
            await forwarded.aclose()

    async def _texts(self, events: AsyncIterator[AnswerEvent]) -> AsyncIterator[bytes]:
        """The body, up to where the draft model goes on. Raises `ApiError` for an error's, `EdgeError`."""
        status, refused = 200, b""
        try:
            async for event in events:
                match event:
                    case AnswerHead():
                        status = event.status
                        self._take(event.stats)
                    case AnswerText(data) if status >= 400:
                        refused += data
                    case AnswerText(data):
                        yield data
                    case GenerationChunk() if self._chunks is not None:
                        self._chunks.committed(event)
                    case AnswerDrafts(token_ids) if self._provisional is not None and self._has_begun:
                        self._provisional.drafted(token_ids)
                        yield b"data: " + _DRAFTS + b"\n\n"
                    case AnswerContinued():
                        self._continued = event
                        return
        except CloudUnreachable as error:
            raise error if self._has_begun else self._explained(error) from error
        if status >= 400:
            raise refusal(status, refused, self._choice.causes, sent=self._body)

    def _take(self, stats: GenerationStats) -> None:
        self._has_begun = True
        self._stats = stats
        if stats.seed is None:
            stats.seed = self._seed
        if self._chunks is not None:
            self._chunks.stats = stats

    def _explained(self, lost: CloudUnreachable) -> CloudUnreachable:
        """With the parameter because of which nobody else can answer, if there is one."""
        if not self._choice.causes:
            return lost
        needed = f"'{self._choice.causes[0]}' needs the server"
        return CloudUnreachable(f"{needed}, and {lost}", lost.retry_after_s)

    async def _by_the_draft(self, error: DraftAnswers) -> Answer:
        """The draft model's answer. Raises what lost the verifier if it cannot give one."""
        lost = self._explained(error.lost) if isinstance(error.lost, CloudUnreachable) else error.lost
        if self._by_draft is None:
            raise lost
        request, target = self._by_draft, self._target
        try:
            return await self._local.answer(self._endpoint, request, target, error.reason, self._options)
        except (ApiError, EdgeError):
            raise lost from None


def _request_id() -> str:
    """The client's or ours, and what tells two requests with one id apart; part of the answer's id."""
    current = CURRENT.get()
    drawn = uuid.uuid4().hex
    return drawn if current is None else f"{current.request_id}-{drawn[:8]}"


async def _chunks_of(events: AsyncIterator[AnswerEvent]) -> AsyncIterator[GenerationChunk]:
    async for event in events:
        if isinstance(event, GenerationChunk):
            yield event


async def _translated(chunks: AsyncIterator[Json]) -> AsyncIterator[Json]:
    """All failures as `ApiError`."""
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        raise translate(error) from error


def _decode(data: bytes) -> Json:
    try:
        decoded = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise CloudMisbehaved(f"the server's answer is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise CloudMisbehaved("the server's answer is not a JSON object")
    return decoded
