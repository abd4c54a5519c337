"""A client of the gateway that costs little itself: one kept connection, one streamed chat at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from openai_gateway.sse import read_events

__all__ = ["ChatTask", "GatewayClient", "StreamedChat", "gateway_client"]

_TIMEOUT_S: Final = 300.0
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class ChatTask:
    """A question and how many tokens its answer has, neither more nor fewer."""

    model: str
    question: str
    num_tokens: int

    def body(self) -> bytes:
        """As a request to stream."""
        return msgspec.json.encode(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self.question}],
                "max_tokens": self.num_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        )


@dataclass(frozen=True, slots=True)
class StreamedChat:
    """How an answer came. Times in seconds on the client's clock; `error` is None for a whole one."""

    answer_id: str
    started_s: float
    arrivals_s: tuple[float, ...]
    """Of each piece of text."""
    ended_s: float
    error: str | None = None


class GatewayClient:
    """Build it with `gateway_client`. `num_connections` counts those it has opened so far."""

    def __init__(self, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._http = http
        self._clock = clock
        self.num_connections = 0

    async def model(self) -> str:
        """Name of the model that the gateway serves; opens the connection. Raises `httpx.HTTPError`."""
        answer = await self._http.get("/v1/models", extensions={"trace": self._count})
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])

    async def chat(self, task: ChatTask) -> StreamedChat:
        """One answer; whatever goes wrong is told in its `error`."""
        started_s = self._clock()
        arrivals_s: list[float] = []
        answer_id, error = "", None
        try:
            request = self._http.stream(
                "POST", "/v1/chat/completions", content=task.body(), extensions={"trace": self._count}
            )
            async with request as answer:
                if answer.status_code != httpx.codes.OK:
                    error = f"HTTP {answer.status_code}: {(await answer.aread())[:200]!r}"
                else:
                    answer_id, error = await self._read(answer, arrivals_s)
        except httpx.HTTPError as failure:
            error = f"{type(failure).__name__}: {failure}"
        return StreamedChat(answer_id, started_s, tuple(arrivals_s), self._clock(), error)

    async def _read(self, answer: httpx.Response, arrivals_s: list[float]) -> tuple[str, str | None]:
        """Id of the answer, and what was wrong with it. Adds the times of the pieces to `arrivals_s`."""
        answer_id, finish_reason, done = "", None, False
        async for data in read_events(answer.aiter_raw()):
            if data == _DONE:
                done = True
                continue
            chunk = msgspec.json.decode(data)
            if "error" in chunk:
                return answer_id, str(chunk["error"].get("message"))
            answer_id = chunk["id"]
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    arrivals_s.append(self._clock())
                finish_reason = choice.get("finish_reason") or finish_reason
        return answer_id, None if done and finish_reason else "the stream ended before the answer"

    async def _count(self, event: str, _: dict[str, Any]) -> None:
        self.num_connections += event == "connection.connect_tcp.complete"


@asynccontextmanager
async def gateway_client(
    base_url: str, api_key: str | None = None, clock: Callable[[], float] = time.perf_counter
) -> AsyncIterator[GatewayClient]:
    """A client with one connection, which it keeps for as long as the gateway does.

    `base_url` has no `/v1`; it is on this machine, where a proxy is no way to.
    """
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    headers = {"Content-Type": "application/json", **key}
    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, limits=limits, timeout=_TIMEOUT_S, trust_env=False, verify=False
    ) as http:
        yield GatewayClient(http, clock)
