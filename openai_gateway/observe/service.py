"""A `ChatService` that reports each request, and the statistics in its answer, to observers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from openai_gateway.chat_service import Answer, ChatService, Json, SessionOptions, StreamedAnswer, WholeAnswer
from openai_gateway.errors import ApiError, translate
from openai_gateway.http import CURRENT
from openai_gateway.observe.requests import CLIENT_GONE, UNROUTED, Finished, RequestObserver

__all__ = ["ObservedService"]


class ObservedService:
    """Reports the requests to `service` to `observers`. Implements `ChatService`. `clock` in seconds."""

    def __init__(
        self,
        service: ChatService,
        endpoint: str,
        observers: Sequence[RequestObserver],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._observers = tuple(observers)
        self._clock = clock

    async def answer(self, body: Mapping[str, Any], options: SessionOptions) -> Answer:
        """See `ChatService.answer`."""
        watch = _Watch(self._endpoint, self._observers, self._clock, streamed=bool(body.get("stream")))
        try:
            answer = await self._service.answer(body, options)
        except Exception as error:
            raise watch.failed(error) from error
        except BaseException:
            watch.left()
            raise
        watch.headers(answer.headers, streamed=isinstance(answer, StreamedAnswer))
        if isinstance(answer, WholeAnswer):
            watch.saw(answer.body)
            watch.ended()
            return answer

        async def close() -> None:
            try:
                await answer.aclose()
            finally:
                watch.left()

        return StreamedAnswer(answer.headers, _watched(answer.chunks, watch), close)


async def _watched(chunks: AsyncIterator[Json], watch: _Watch) -> AsyncIterator[Json]:
    try:
        async for chunk in chunks:
            watch.saw(chunk)
            yield chunk
    except Exception as error:
        raise watch.failed(error) from error
    watch.ended()


class _Watch:
    """One request from its start to its end; the end is reported once, however often it is noticed."""

    def __init__(
        self,
        endpoint: str,
        observers: Sequence[RequestObserver],
        clock: Callable[[], float],
        *,
        streamed: bool,
    ) -> None:
        self._endpoint = endpoint
        self._observers = observers
        self._clock = clock
        self._streamed = streamed
        self._started_s = clock()
        self._text_s: float | None = None
        self._model: str | None = None
        self._answer_id: str | None = None
        self._http = CURRENT.get()
        self._route, self._reason = UNROUTED, ""
        self._stats: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}
        self._is_over = False
        for observer in observers:
            observer.started()

    def headers(self, headers: Mapping[str, str], *, streamed: bool) -> None:
        """The answer has begun."""
        self._streamed = streamed
        route, _, reason = headers.get("x-pipesd-route", UNROUTED).partition(";")
        self._route, self._reason = route.strip(), reason.strip().removeprefix("reason=")

    def saw(self, body: Mapping[str, Any]) -> None:
        """A chunk, or the whole body; the one with `timings` has the statistics."""
        self._model = body.get("model") or self._model
        self._answer_id = self._answer_id or body.get("id")
        if "timings" in body:
            self._stats, self._timings = body["pipesd"], body["timings"]
        if self._streamed and _has_text(body):
            self._piece()

    def ended(self) -> None:
        """The answer is complete."""
        self._finish(200, None)

    def left(self) -> None:
        """The answer was closed; if it was not complete, the client went away."""
        self._finish(CLIENT_GONE, None)

    def failed(self, error: Exception) -> ApiError:
        """`error` ended it; returns what it is to the client, which the log has heard of."""
        answer = translate(error)
        self._finish(answer.status, answer.code or answer.kind)
        return answer

    def _piece(self) -> None:
        now_s = self._clock()
        if self._text_s is not None:
            for observer in self._observers:
                observer.gap(self._model or "", self._route, now_s - self._text_s)
        self._text_s = now_s

    def _finish(self, status: int, error_code: str | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._http is not None:
            self._http.is_reported = True
        request = Finished(
            endpoint=self._endpoint,
            status=status,
            duration_ms=(self._clock() - self._started_s) * 1e3,
            streamed=self._streamed,
            model=self._model,
            request_id=None if self._http is None else self._http.request_id,
            key_label=None if self._http is None else self._http.key_label,
            answer_id=self._answer_id,
            route=str(self._stats.get("route", self._route)),
            reason=str(self._stats.get("reason", "") or self._reason or error_code or "") or None,
            error_code=error_code,
            prompt_tokens=self._timings.get("prompt_n"),
            completion_tokens=self._timings.get("predicted_n") or 0,
            stats=self._stats,
        )
        for observer in self._observers:
            observer.finished(request)


def _has_text(chunk: Mapping[str, Any]) -> bool:
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or any(value for name, value in delta.items() if name != "role"):
            return True
    return False
