"""Answers that the server gives on its own API: the route `cloud`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from edge_agent.api import ForwardedAnswer, GenerationStats, Generator, Route, TargetInfo, draw_seed
from edge_agent.errors import CloudMisbehaved, CloudUnreachable
from openai_gateway.chat_service import (
    Answer,
    Json,
    RouteChoice,
    StreamedAnswer,
    WholeAnswer,
    fingerprint,
    route_header,
    seed_header,
)
from openai_gateway.errors import error_in_stream, refusal, translate
from openai_gateway.http import read_events
from openai_gateway.local import Pump
from openai_gateway.target.shapes import CloudChunks, complete_whole
from pipesd_vllm.wire import NO_SEED

__all__ = ["CloudAnswers"]

_DONE = b"[DONE]"


class CloudAnswers:
    """Passes requests through. Texts, ids and usage are the server's; the extensions are ours."""

    def __init__(
        self,
        generator: Generator,
        first_chunk_s: float,
        clock: Callable[[], float] = time.monotonic,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`clock` in seconds, `draw_bits` gives as many random bits as asked for."""
        self._draw_bits = draw_bits
        self._generator = generator
        self._first_chunk_s = first_chunk_s
        self._clock = clock

    async def answer(
        self, path: str, body: Mapping[str, Any], target: TargetInfo, choice: RouteChoice
    ) -> Answer:
        """The server's answer to `body` on its `path`, streamed if `body` says so.

        Raises `ApiError`, `EdgeError` for a failure before there is an answer, or a stream's first chunk.
        Cancelling the call ends the request on the server.
        """
        streamed = bool(body.get("stream"))
        body = self._seeded(body)
        seed: int | None = body.get("seed")
        stats = GenerationStats(Route.CLOUD, choice.reason, started_s=self._clock(), seed=seed)
        sent = _counted(body) if streamed else _without_stream(body)
        forwarded = await self._send(path, sent, target, choice, stats)
        headers = {**route_header(choice.route, choice.reason), **seed_header(seed)}
        if not streamed:
            return await self._whole(forwarded, stats, headers, seed)
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        shape = CloudChunks(stats, self._clock, fingerprint(seed), include_usage=include_usage)
        return await self._stream(self._events(forwarded, stats, choice.causes), shape, headers)

    async def _whole(
        self, forwarded: ForwardedAnswer, stats: GenerationStats, headers: dict[str, str], seed: int | None
    ) -> WholeAnswer:
        try:
            data = await forwarded.read()
        finally:
            await forwarded.aclose()
        answer = _decode(data)
        stats.downlink_bytes = len(data)
        stats.last_token_s = self._clock()
        headers["x-request-id"] = str(answer.get("id", ""))
        return WholeAnswer(complete_whole(answer, stats, fingerprint(seed)), headers)

    async def _stream(
        self, events: AsyncIterator[Json], shape: CloudChunks, headers: dict[str, str]
    ) -> StreamedAnswer:
        pump = Pump(events)
        try:
            first = await pump.peek(self._first_chunk_s)
        except BaseException as error:
            await pump.aclose()
            if isinstance(error, Exception):
                raise translate(error) from error
            raise
        if first is not None and "id" in first:
            headers["x-request-id"] = str(first["id"])
        return StreamedAnswer(headers, _translated(pump, shape), pump.aclose)

    def _seeded(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """`body` with a drawn seed, unless the client gives one or asks for greedy text."""
        if body.get("seed") not in (None, NO_SEED) or body.get("temperature") == 0:
            return body
        return {**body, "seed": draw_seed(self._draw_bits)}

    async def _send(
        self,
        path: str,
        body: Mapping[str, Any],
        target: TargetInfo,
        choice: RouteChoice,
        stats: GenerationStats,
    ) -> ForwardedAnswer:
        """What the server answers, its status below 400. Raises `ApiError`, `EdgeError`."""
        content = msgspec.json.encode({**body, "model": target.model})
        stats.uplink_bytes = len(content)
        forwarded = await self._forward(path, content, choice)
        if forwarded.status < 400:
            return forwarded
        try:
            data = await forwarded.read()
        finally:
            await forwarded.aclose()
        raise refusal(forwarded.status, data, choice.causes, sent=body)

    async def _forward(self, path: str, content: bytes, choice: RouteChoice) -> ForwardedAnswer:
        try:
            return await self._generator.forward(path, content)
        except CloudUnreachable as error:
            if not choice.causes:
                raise
            needed = f"'{choice.causes[0]}' needs the server's own API"
            raise CloudUnreachable(f"{needed}, and {error}") from error

    async def _events(
        self, forwarded: ForwardedAnswer, stats: GenerationStats, causes: tuple[str, ...]
    ) -> AsyncIterator[Json]:
        """The stream's chunks. Raises `ApiError`, `EdgeError`."""
        try:
            async for data in read_events(_measured(forwarded.parts(), stats)):
                if data == _DONE:
                    return
                chunk = _decode(data)
                if "error" in chunk:
                    raise error_in_stream(chunk, causes)
                yield chunk
            raise CloudUnreachable("the server ended the stream before its end")
        finally:
            await forwarded.aclose()


async def _measured(parts: AsyncIterator[bytes], stats: GenerationStats) -> AsyncIterator[bytes]:
    async for part in parts:
        stats.downlink_bytes += len(part)
        yield part


async def _translated(chunks: AsyncIterator[Json], shape: CloudChunks) -> AsyncIterator[Json]:
    """The chunks as the client gets them; all failures as `ApiError`."""
    try:
        async for chunk in chunks:
            for each in shape.push(chunk):
                yield each
    except Exception as error:
        for each in shape.flush():
            yield each
        raise translate(error) from error
    for each in shape.flush():
        yield each


def _counted(body: Mapping[str, Any]) -> Json:
    """`body`, to be streamed with the server's token counts at the end."""
    options = body.get("stream_options") or {}
    return {**body, "stream": True, "stream_options": {**options, "include_usage": True}}


def _without_stream(body: Mapping[str, Any]) -> Json:
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


def _decode(data: bytes) -> Json:
    try:
        decoded = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise CloudMisbehaved(f"the server's answer is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise CloudMisbehaved("the server's answer is not a JSON object")
    return decoded
