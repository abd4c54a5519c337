"""POST /completion, /completions and /infill, answered as llama-server does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from openai_gateway.chat_service import ChatService, Json, SessionOptions
from openai_gateway.errors import ApiError, InvalidRequest
from openai_gateway.http import EventStream, sse_event
from openai_gateway.local import decode_body
from openai_gateway.translation.answer import AnswerState, Block, BlockEvent, BlockKind, Grew
from openai_gateway.translation.endpoint import StreamFormat, respond, serve

__all__ = ["LlamaEncoder", "llama_router"]

_INFILL: Final = ("input_prefix", "input_suffix")
_LIMITS: Final = ("n_predict", "max_tokens", "max_new_tokens", "num_predict")


class LlamaEncoder:
    """Pieces with `content`, the last with `stop` and the figures."""

    def __init__(self) -> None:
        self.state = AnswerState(lambda: "")
        self._model: str | None = None
        self._timings: Mapping[str, Any] = {}

    def start(self) -> Iterator[Json]:
        yield from ()

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Json]:
        self._model = chunk.get("model") or self._model
        self._timings = chunk.get("timings") or self._timings
        for event in self.state.feed(chunk):
            if (text := _text_of(event)) is not None:
                yield {"index": 0, "content": text, "stop": False}

    def end(self) -> Iterator[Json]:
        yield self._last("")

    def fail(self, error: ApiError) -> Iterator[Json]:
        yield {"error": {"code": error.status, "message": error.message, "type": error.kind}}

    def final(self) -> Json:
        """The object of a complete answer."""
        return self._last("".join(block.text for block in self.state.tracker.blocks if _is_text(block)))

    def _last(self, content: str) -> Json:
        finish, counts = self.state.finish, self.state.counts
        by_word = finish is not None and finish.stop is not None
        by_limit = self.state.finish_reason == "length"
        return {
            "index": 0,
            "content": content,
            "stop": True,
            "model": self._model,
            "tokens_predicted": counts.num_completion,
            "tokens_evaluated": counts.num_prompt,
            "tokens_cached": counts.num_cached,
            "truncated": False,
            "stop_type": "word" if by_word else "limit" if by_limit else "eos",
            "stopping_word": finish.stop if finish is not None and finish.stop else "",
            "timings": dict(self._timings),
            **self.state.extension,
        }


def _is_text(block: Block) -> bool:
    return block.kind is BlockKind.TEXT


def _text_of(event: BlockEvent) -> str | None:
    return event.text if isinstance(event, Grew) and _is_text(event.block) else None


def _infilled(body: Json) -> Json:
    """A completion with a suffix. In `prompt` the middle begins, so it is the end of the prefix."""
    prefix, suffix, begun = (body.pop(name, None) or "" for name in (*_INFILL, "prompt"))
    for name, value in {"input_prefix": prefix, "input_suffix": suffix, "prompt": begun}.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"'{name}' should be a text.", param=name, code="invalid_value")
    return {**body, "prompt": f"{prefix}{begun}", "suffix": suffix}


def llama_router(completions: ChatService, *, ping_s: float) -> APIRouter:
    """The routes. `completions` takes bodies of /v1/completions."""
    router = APIRouter()
    form = StreamFormat(sse_event, partial(EventStream, ping_s=ping_s))

    async def answer(body: bytes, options: SessionOptions, *, fills: bool) -> Response:
        asked = decode_body(body)
        asked = _infilled(asked) if fills else asked
        # llama-server goes on to the end where nothing limits it.
        if all(asked.get(name) is None for name in _LIMITS):
            asked["n_predict"] = -1
        is_stream = asked.pop("stream", False) in (True, "true", 1)
        return await respond(completions, asked, options, LlamaEncoder(), form if is_stream else None)

    @router.post("/completion")
    @router.post("/completions", include_in_schema=False)
    async def completion(request: Request) -> Response:
        return await serve(request, partial(answer, fills=False))

    @router.post("/infill")
    async def infill(request: Request) -> Response:
        return await serve(request, partial(answer, fills=True))

    return router
