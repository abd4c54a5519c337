"""The verifier's plain HTTP routes: info and tokenizer, its health, and requests passed on."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import msgspec

from edge_agent.api import TargetInfo, TokenizerBundle
from edge_agent.errors import (
    TRANSIENT,
    CloudError,
    CloudMisbehaved,
    CloudOverloaded,
    CloudRefused,
    CloudUnreachable,
)
from edge_agent.verifier.cache import InfoAnswer, TargetCache, decode_info, decode_tokenizer
from edge_agent.verifier.network import proxy_of
from edge_agent.verifier.replicas import Replicas
from edge_agent.verifier.retry import RetryTimeout, retry_after_s
from pipesd_vllm.wire import INFO_PATH, TOKENIZER_PATH, Fingerprint, Welcome

__all__ = ["CloudApi", "HttpAnswer", "error_from_status", "no_answer"]


class CloudApi:
    """Asks the verifier what it serves. `cache_dir` keeps the answers between runs.

    `replicas`: URLs of more servers of the same target, asked when the first is away. `tls`: whose
    certificates are trusted; None: the usual ones. `transport` takes the place of the network, for tests.
    """

    def __init__(
        self,
        cloud_url: str,
        api_key: str | None,
        timeout_s: float,
        cache_dir: Path,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        replicas: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._base = cloud_url
        self._replicas = Replicas(1 + len(replicas), time.monotonic)
        self._clients = [
            httpx.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=timeout_s,
                trust_env=False,
                proxy=None if transport else proxy_of(url),
                verify=tls or True,
                transport=transport,
            )
            for url in (cloud_url, *replicas)
        ]
        self._timeouts = [RetryTimeout(timeout_s) for _ in self._clients]
        self._timeout_s = timeout_s
        self._cache = TargetCache(cache_dir)
        self._info: InfoAnswer | None = None

    async def target(self) -> TargetInfo:
        """Raises `CloudUnreachable`, `CloudRefused` (`CloudOverloaded` among them), `CloudMisbehaved`."""
        return (await self._fetch_info()).target()

    async def adapters(self) -> tuple[str, ...]:
        """The names of the LoRA adapters that the server's own API lists now. Raises as `target`."""
        path = "/v1/models"
        try:
            listed = msgspec.json.decode(await self._get(path), type=_Models).data
        except msgspec.DecodeError as error:
            raise CloudMisbehaved(f"{self._base}{path} answered something else: {error}") from error
        return tuple(model.id for model in listed if model.parent is not None)

    async def vocabulary(self) -> Fingerprint:
        """The target's. Raises as `target`."""
        return (await self._fetch_info()).vocabulary()

    async def tokenizer(self) -> TokenizerBundle:
        """The target's tokenizer, fetched anew; an earlier copy from the disk if it is out of reach.

        Raises as `target`.
        """
        file = self._cache.tokenizer_file(await self._fetch_info())
        try:
            data = await self._get(TOKENIZER_PATH)
        except TRANSIENT:
            if not file.is_file():
                raise
            return decode_tokenizer(file.read_bytes())
        bundle = decode_tokenizer(data)
        self._cache.keep(file, data)
        return bundle

    def remembered(self) -> tuple[TargetInfo, Fingerprint, TokenizerBundle] | None:
        """What this URL served in an earlier run, read from disk only."""
        try:
            info = self._info or decode_info(self._cache.info_file(self._base).read_bytes())
            bundle = decode_tokenizer(self._cache.tokenizer_file(info).read_bytes())
        except (OSError, msgspec.DecodeError, CloudMisbehaved):
            return None
        return info.target(), info.vocabulary(), bundle

    def serves(self, welcome: Welcome) -> bool:
        """Whether `welcome` is from the known target; true while none is known."""
        return self._info is None or self._info.describes(welcome)

    def forget(self) -> None:
        """Drop what is known of the target: the next question goes to the verifier again."""
        self._info = None

    async def is_healthy(self) -> bool:
        """Whether the server answers its own `/health` now."""
        try:
            await self._get("/health")
        except CloudError:
            return False
        return True

    async def forward(self, path: str, body: bytes) -> HttpAnswer:
        """POST `body`, JSON, to a server's own API, waiting for its headers for as long as it takes.

        Raises `CloudUnreachable`. Cancelling the call ends the request on the server.
        """
        return await self._replicas.ask(lambda number: self._post(number, path, body))

    async def _post(self, number: int, path: str, body: bytes) -> HttpAnswer:
        client, base = self._clients[number], str(self._clients[number].base_url).rstrip("/")
        headers = {"content-type": "application/json"}
        timeout = httpx.Timeout(None, connect=self._timeout_s)
        request = client.build_request("POST", path, content=body, headers=headers, timeout=timeout)
        try:
            return HttpAnswer(await client.send(request, stream=True), base)
        except httpx.HTTPError as error:
            raise no_answer(base, error) from error

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def _fetch_info(self) -> InfoAnswer:
        if self._info is None:
            try:
                data = await self._get(INFO_PATH)
                self._info = decode_info(data)
            except msgspec.DecodeError as error:
                raise CloudMisbehaved(f"{self._base}{INFO_PATH} answered something else: {error}") from error
            self._cache.keep(self._cache.info_file(self._base), data)
        return self._info

    async def _get(self, path: str) -> bytes:
        return await self._replicas.ask(lambda number: self._get_from(number, path))

    async def _get_from(self, number: int, path: str) -> bytes:
        client, timeout = self._clients[number], self._timeouts[number]
        base = str(client.base_url).rstrip("/")
        timeout_s = timeout.limit_s
        try:
            response = await client.get(path, timeout=timeout_s)
        except httpx.TimeoutException as error:
            timeout.ran_out(timeout_s)
            raise no_answer(base, error) from error
        except httpx.HTTPError as error:
            timeout.failed()
            raise no_answer(base, error) from error
        timeout.succeeded()
        if response.status_code == 200:
            return response.content
        if response.status_code == 501:
            raise CloudRefused(
                "no_tokenizer", f"{base} cannot hand out its tokenizer; use its own OpenAI API"
            )
        raise error_from_status(base, path, response.status_code, response.headers.get("retry-after"))


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None
    """Of an adapter: the model that it changes."""


class _Models(msgspec.Struct):
    """vLLM's list."""

    data: list[_Model]


class HttpAnswer:
    """`ForwardedAnswer` over HTTP."""

    def __init__(self, response: httpx.Response, base: str) -> None:
        """`response` is open, its body not read; `base` names the server in errors."""
        self._response = response
        self._base = base

    @property
    def status(self) -> int:
        return self._response.status_code

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.aiter_bytes():
                yield part
        except httpx.HTTPError as error:
            what = error or type(error).__name__
            raise CloudUnreachable(f"the connection to {self._base} was lost ({what})") from error

    async def aclose(self) -> None:
        await self._response.aclose()


def error_from_status(base: str, path: str, status: int, retry_after: str | None) -> CloudError:
    """The error for an HTTP status that is no success, for plain requests and WebSocket upgrades alike.

    `base`: the verifier's URL; `retry_after`: the `Retry-After` header.
    """
    if status in (401, 403):
        return CloudRefused("invalid_api_key", f"{base} refused the API key; check --api-key")
    if status == 404:
        return CloudRefused(
            "no_pipesd", f"{base} is a server without the pipesd plugin; start it with 'pipesd serve'"
        )
    after_s = retry_after_s(retry_after, time.time())
    if status == 429:
        return CloudOverloaded(f"{base} has too many sessions; try again in some seconds", after_s)
    return CloudUnreachable(f"{base}{path} answered HTTP {status}", after_s)


def no_answer(base: str, error: Exception) -> CloudUnreachable:
    """The error for a verifier at `base` that could not be asked at all, for both kinds of request."""
    return CloudUnreachable(
        f"no verifier answers at {base} ({error or type(error).__name__}); "
        "start one with 'pipesd serve' or check the URL"
    )
