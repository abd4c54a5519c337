"""Endpoints of other servers that are none of a gateway for one text model: a 501 that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Response

from openai_gateway.errors import ApiError

__all__ = ["out_of_scope_router"]

_METHODS: Final = ["GET", "HEAD", "POST", "DELETE"]
_OUT: Final[Mapping[str, str]] = {
    "/rerank": "reranking",
    "/v1/rerank": "reranking",
    "/v1/reranking": "reranking",
    "/v2/rerank": "reranking",
    "/v1/score": "scoring of pairs",
    "/v1/audio/{rest:path}": "speech",
    "/v1/images/{rest:path}": "image generation",
    "/v1/videos": "video generation",
    "/v1/moderations": "moderation",
    "/v1/files": "stored files",
    "/v1/batches": "batches",
    "/v1/realtime": "real-time sessions",
    "/v1/realtime/{rest:path}": "real-time sessions",
    "/v1/fine_tuning/{rest:path}": "fine-tuning",
    "/v1/assistants": "assistants",
    "/v1/threads": "assistants",
    "/v1/vector_stores": "vector stores",
    "/slots": "slots",
    "/lora-adapters": "adapters",
    "/api/create": "creating models",
    "/api/copy": "copying models",
    "/api/delete": "deleting models",
    "/api/push": "pushing models",
    "/api/blobs/{rest:path}": "storing models",
}


def out_of_scope_router() -> APIRouter:
    """Routes that are answered with 501 and what they would be for."""
    router = APIRouter()

    def add(path: str, what: str) -> None:
        @router.api_route(path, methods=_METHODS, include_in_schema=False, name=path)
        async def refuse() -> Response:
            message = f"Out of scope: this gateway serves one text model, and no {what}."
            raise ApiError(501, message, code="not_implemented")

    for path, what in _OUT.items():
        add(path, what)
    return router
