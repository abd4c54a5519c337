"""Questions to a server's API that are not answers to chats: tokens, embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from edge_agent.api import ForwardedAnswer
from edge_agent.errors import CloudMisbehaved
from openai_gateway.chat_service import Json
from openai_gateway.errors import refusal

__all__ = ["Forwarder", "post"]


class Forwarder(Protocol):
    """A server that requests can be passed on to; a `Generator` is one."""

    async def forward(self, path: str, body: bytes) -> ForwardedAnswer:
        """POST `body`, JSON, to `path`. Raises `CloudUnreachable`."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...


async def post(server: Forwarder, path: str, body: Mapping[str, Any]) -> Json:
    """The server's JSON object. Raises `ApiError` for what it refuses, and `CloudError`."""
    answer = await server.forward(path, msgspec.json.encode(body))
    try:
        content = await answer.read()
        if answer.status >= 400:
            raise refusal(answer.status, content, (), sent=body)
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise CloudMisbehaved(f"the server's answer to {path} is no JSON object: {error}") from error
    finally:
        await answer.aclose()
