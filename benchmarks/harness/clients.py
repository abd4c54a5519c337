"""The one HTTP client of the benchmarks, for gateways and servers, and a streamed answer on the stopwatch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from edge_agent.api import GenerationStats, Sampling
from openai_gateway.cli.errors import CliError
from openai_gateway.http.streaming import read_events

__all__ = ["Client", "Clock", "Json", "TimedAnswer", "connected", "exactly", "question", "sampling_body"]

Clock = Callable[[], float]
Json = dict[str, Any]

_TIMEOUT_S: Final = 300.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_DONE: Final = b"[DONE]"
_SAMPLING_FIELDS: Final = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_STRUCTURES: Final[Mapping[str, str]] = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}
"""vLLM's names of forms whose value is a text."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """A generation as its reader saw it. Times in seconds on the reader's clock."""

    answer_id: str
    text: str
    num_tokens: int
    started_s: float
    chunks_s: tuple[float, ...]
    """Of each delivery, the one that only says why it ended included."""
    arrivals_s: tuple[float, ...]
    """Of each piece of text."""
    stats: GenerationStats | None = None
    """The edge agent's, if it had a part."""

    @property
    def ttft_s(self) -> float:
        """From the request to the first text."""
        return self.arrivals_s[0] - self.started_s if self.arrivals_s else self.total_s

    @property
    def total_s(self) -> float:
        """From the request to the last token."""
        return self.chunks_s[-1] - self.started_s


def sampling_body(sampling: Sampling) -> Json:
    """All that a body says about picking tokens, whoever it is sent to: nobody's defaults count."""
    body = {name: getattr(sampling, name) for name in _SAMPLING_FIELDS}
    if sampling.logit_bias:
        body["logit_bias"] = sampling.logit_bias
    if sampling.structure is not None:
        body["structured_outputs"] = {_STRUCTURES[sampling.structure.kind]: sampling.structure.value}
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    return body


def exactly(num_tokens: int) -> Json:
    """A greedy answer of so many tokens, neither more nor fewer."""
    return sampling_body(Sampling(num_tokens, ignore_eos=True))


def question(text: str) -> Json:
    """A user's message, which makes a body a chat's."""
    return {"messages": [{"role": "user", "content": text}]}


class Client:
    """Asks one gateway or server; build it with `connected`. All methods raise `CliError`."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock = time.perf_counter) -> None:
        """`http` knows the address (without `/v1`) and the key."""
        self._http = http
        self._clock = clock
        self._model: str | None = None
        self.num_connections = 0
        """Opened so far."""

    async def model(self) -> str:
        """Name of the model that is served; the first call opens the connection."""
        if self._model is None:
            self._model = str((await self._whole("GET", "/v1/models")).json()["data"][0]["id"])
        return self._model

    async def connection_open(self) -> None:
        """Have a connection, as a session has one."""
        await self._whole("GET", "/v1/models")

    async def metrics(self) -> str:
        """The page of metrics."""
        return (await self._whole("GET", "/metrics")).text

    async def complete(self, prompt: str | Sequence[int], body: Mapping[str, Any]) -> tuple[str, Json]:
        """A whole completion of a text or of token ids: its id and its only choice."""
        asked = prompt if isinstance(prompt, str) else list(prompt)
        sent = {"model": await self.model(), "prompt": asked, **body}
        answer = (await self._whole("POST", "/v1/completions", sent)).json()
        return answer["id"], answer["choices"][0]

    async def stream(self, body: Mapping[str, Any]) -> TimedAnswer:
        """A streamed answer to `body`: a chat if it has messages, else a completion of its prompt."""
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        asked = {
            "model": await self.model(),
            **body,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        content = msgspec.json.encode(asked)
        started_s = self._clock()
        with self._translated():
            async with self._http.stream(
                "POST", path, content=content, extensions={"trace": self._count}
            ) as answer:
                if answer.is_error:
                    await answer.aread()
                answer.raise_for_status()
                return await self._read(answer, started_s)

    async def _read(self, answer: httpx.Response, started_s: float) -> TimedAnswer:
        answer_id, num_tokens, done, finished = "", 0, False, False
        pieces: list[str] = []
        chunks_s: list[float] = []
        arrivals_s: list[float] = []
        async for data in read_events(answer.aiter_raw()):
            now_s = self._clock()
            if data == _DONE:
                done = True
                continue
            chunk = msgspec.json.decode(data)
            if "error" in chunk:
                raise CliError(
                    f"An answer from {self._http.base_url} broke off: {chunk['error'].get('message')}"
                )
            answer_id = chunk["id"]
            num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
            for choice in chunk["choices"]:
                chunks_s.append(now_s)
                finished = finished or bool(choice.get("finish_reason"))
                if piece := choice["delta"].get("content") if "delta" in choice else choice.get("text"):
                    pieces.append(piece)
                    arrivals_s.append(now_s)
        if not (done and finished):
            raise CliError(f"An answer from {self._http.base_url} ended before it was whole.")
        return TimedAnswer(
            answer_id, "".join(pieces), num_tokens, started_s, tuple(chunks_s), tuple(arrivals_s)
        )

    async def _whole(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        with self._translated():
            content = None if body is None else msgspec.json.encode(body)
            response = await self._http.request(
                method, path, content=content, extensions={"trace": self._count}
            )
            response.raise_for_status()
            return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what goes wrong into a `CliError` that says which end failed."""
        url = self._http.base_url
        try:
            yield
        except httpx.HTTPStatusError as error:
            response = error.response
            raise CliError(
                f"{url} refused the request (HTTP {response.status_code}): {_message(response)}"
            ) from error
        except httpx.HTTPError as error:
            raise CliError(f"{url} does not answer ({error!r}): check the server and its log.") from error

    async def _count(self, event: str, _: dict[str, Any]) -> None:
        self.num_connections += event == "connection.connect_tcp.complete"


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text[:200]


@asynccontextmanager
async def connected(
    base_url: str,
    api_key: str | None = None,
    clock: Clock = time.perf_counter,
    *,
    shared: int = 1,
    kept: bool = True,
) -> AsyncIterator[Client]:
    """A client with `shared` connections, `kept` as long as the other side does; it never repeats a request.

    `base_url` with or without `/v1`.
    """
    local = urlsplit(base_url).hostname in _LOOPBACK  # a proxy is no way to our own machine
    limits = httpx.Limits(
        max_connections=shared, max_keepalive_connections=shared if kept else 0, keepalive_expiry=None
    )
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx.AsyncClient(
        base_url=base_url.rstrip("/").removesuffix("/v1"),
        headers={"Content-Type": "application/json", **key},
        limits=limits,
        timeout=_TIMEOUT_S,
        trust_env=not local,
    ) as http:
        yield Client(http, clock)
