"""Embeddings: `/v1/embeddings` and Ollama's two, asked of the vLLM server or of another one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from edge_agent.errors import CloudMisbehaved
from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError, InvalidRequest
from openai_gateway.http import json_response, read_body
from openai_gateway.local import decode_body
from openai_gateway.routing import Fleet
from openai_gateway.target import Forwarder, post

__all__ = ["embeddings_router"]

_PATH = "/v1/embeddings"


class _Embeddings:
    def __init__(self, fleet: Fleet, server: Forwarder | None) -> None:
        self._fleet = fleet
        self._server = server

    async def ask(self, body: Json) -> Json:
        """OpenAI's answer. Raises `ApiError` (501) if the server has none."""
        asked = {name: value for name, value in body.items() if value is not None}
        name = asked.get("model")
        if self._server is None or not isinstance(name, str) or await self._fleet.knows(name):
            asked.pop("model", None)  # each server's own
        try:
            return await post(self._server or (await self._fleet.pick(name)).generator, _PATH, asked)
        except ApiError as error:
            if error.status not in (404, 405, 501):
                raise
            asked_of = "the embeddings server" if self._server else "the vLLM server"
            message = f"No embeddings: {asked_of} has none; name a server that does with --embeddings-url."
            raise ApiError(501, message, code="not_implemented") from error

    async def embed(self, body: Json) -> Json:
        """Ollama's answer to one text or several."""
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list):
            raise InvalidRequest("'input' should be a text or a list of texts.", param="input")
        asked: dict[str, Any] = {"model": body.get("model"), "input": texts}
        if body.get("dimensions"):
            asked["dimensions"] = body["dimensions"]
        answer = await self.ask(asked) if texts else {"data": []}
        try:
            found = sorted(answer["data"], key=lambda each: each.get("index", 0))
            vectors = [each["embedding"] for each in found]
            count = (answer.get("usage") or {}).get("prompt_tokens", 0)
        except (AttributeError, LookupError, TypeError) as error:
            raise CloudMisbehaved("the embeddings server's answer has no embeddings in it") from error
        times = {"total_duration": 0, "load_duration": 0}
        return {"model": body.get("model"), "embeddings": vectors, **times, "prompt_eval_count": count}


def embeddings_router(fleet: Fleet, server: Forwarder | None) -> APIRouter:
    """The routes; `server` is asked in place of the targets'."""
    router = APIRouter()
    embeddings = _Embeddings(fleet, server)

    async def body_of(request: Request) -> Json:
        return decode_body(await read_body(request))

    @router.post(_PATH)
    async def openai(request: Request) -> Response:
        return json_response(await embeddings.ask(await body_of(request)))

    @router.post("/api/embed")
    async def ollama(request: Request) -> Response:
        return json_response(await embeddings.embed(await body_of(request)))

    @router.post("/api/embeddings")
    async def former(request: Request) -> Response:
        body = await body_of(request)
        prompt = body.get("prompt") or ""
        answer = await embeddings.embed({**body, "input": [prompt] if prompt else []})
        return json_response({"embedding": next(iter(answer["embeddings"]), [])})

    return router
