"""The verifier's plain HTTP routes: info and tokenizer (kept on disk by fingerprint)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import msgspec

from edge_agent.errors import CloudError, CloudMisbehaved, CloudRefused, CloudUnreachable
from edge_agent.passthrough import HttpAnswer
from edge_agent.reach import Patience
from edge_agent.target import TargetInfo, TokenizerBundle
from pipesd_vllm.protocol import INFO_PATH, TOKENIZER_PATH, Fingerprint, Welcome


class _Fingerprint(msgspec.Struct):
    num_tokens: int
    sha256: str


class _Info(msgspec.Struct):
    model: str
    max_model_len: int
    vocab_size: int
    fingerprint: _Fingerprint
    reasoning_parser: str | None = None
    reasoning_marks: tuple[str, str] | None = None

    def target(self) -> TargetInfo:
        return TargetInfo(
            self.model,
            self.max_model_len,
            self.vocab_size,
            reasoning_parser=self.reasoning_parser,
            reasoning_marks=self.reasoning_marks,
        )


class _Tokenizer(msgspec.Struct):
    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: list[int]
    content_format: str | None = None
    template_variables: dict[str, Any] = {}


class CloudApi:
    """Asks the verifier what it serves. `cache_dir` keeps the answers between runs.

    `transport` takes the place of the network, for tests.
    """

    def __init__(
        self,
        cloud_url: str,
        api_key: str | None,
        timeout_s: float,
        cache_dir: Path,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._base = cloud_url
        self._client = httpx.AsyncClient(
            base_url=cloud_url, headers=headers, timeout=timeout_s, trust_env=False, transport=transport
        )
        self._timeout_s = timeout_s
        self._cache_dir = cache_dir
        self._info: _Info | None = None
        self._patience = Patience(timeout_s)

    async def target(self) -> TargetInfo:
        """Raises `CloudUnreachable`, `CloudRefused`, `CloudMisbehaved`."""
        return (await self._fetch_info()).target()

    async def tokenizer(self) -> TokenizerBundle:
        """The target's tokenizer, fetched anew; an earlier copy from the disk if it is out of reach.

        The chat template is not part of the fingerprint: a copy may be out of date, even though it is keyed
        by the model's name as well.
        """
        info = await self._fetch_info()
        path = self._tokenizer_file(info)
        try:
            data = await self._get(TOKENIZER_PATH)
        except CloudUnreachable:
            if not path.is_file():
                raise
            return _bundle(path.read_bytes())
        bundle = _bundle(data)
        _write_atomically(path, data)
        return bundle

    def remembered(self) -> tuple[TargetInfo, Fingerprint, TokenizerBundle] | None:
        """What this URL served in an earlier run, from the disk alone."""
        try:
            info = self._info or msgspec.json.decode(self._info_file().read_bytes(), type=_Info)
            bundle = _bundle(self._tokenizer_file(info).read_bytes())
        except (OSError, msgspec.DecodeError, CloudMisbehaved):
            return None
        fingerprint = Fingerprint(info.fingerprint.num_tokens, info.fingerprint.sha256)
        return info.target(), fingerprint, bundle

    def serves(self, welcome: Welcome) -> bool:
        """Whether what is known of the target is what `welcome` says; true while nothing is known."""
        info = self._info
        if info is None:
            return True
        known = info.model, info.max_model_len, info.vocab_size, info.fingerprint.sha256
        told = welcome.model, welcome.max_model_len, welcome.vocab_size, welcome.fingerprint.sha256
        return known == told

    def forget(self) -> None:
        """Ask the verifier anew when next something is wanted of it."""
        self._info = None

    async def is_healthy(self) -> bool:
        """Whether the server answers its own `/health` now."""
        try:
            await self._get("/health")
        except CloudError:
            return False
        return True

    async def forward(self, path: str, body: bytes) -> HttpAnswer:
        """POST `body`, JSON, to the server's own API, waiting for its headers for as long as it takes.

        Raises `CloudUnreachable`. Cancelling the call ends the request on the server.
        """
        headers = {"content-type": "application/json"}
        timeout = httpx.Timeout(None, connect=self._timeout_s)
        request = self._client.build_request("POST", path, content=body, headers=headers, timeout=timeout)
        try:
            return HttpAnswer(await self._client.send(request, stream=True), self._base)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def close(self) -> None:
        await self._client.aclose()

    def _unreachable(self, error: Exception) -> CloudUnreachable:
        return CloudUnreachable(
            f"no verifier answers at {self._base} ({error or type(error).__name__}); "
            "start one with 'pipesd serve' or check the URL"
        )

    async def _fetch_info(self) -> _Info:
        if self._info is None:
            try:
                data = await self._get(INFO_PATH)
                self._info = msgspec.json.decode(data, type=_Info)
            except msgspec.DecodeError as error:
                raise CloudMisbehaved(f"{self._base}{INFO_PATH} answered something else: {error}") from error
            _write_atomically(self._info_file(), data)
        return self._info

    def _info_file(self) -> Path:
        return self._cache_dir / f"target-{hashlib.sha256(self._base.encode()).hexdigest()[:16]}.json"

    def _tokenizer_file(self, info: _Info) -> Path:
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in info.model)
        return self._cache_dir / f"{name}-{info.fingerprint.sha256[:16]}.json"

    async def _get(self, path: str) -> bytes:
        timeout_s = self._patience.limit_s
        try:
            response = await self._client.get(path, timeout=timeout_s)
        except httpx.TimeoutException as error:
            self._patience.ran_out(timeout_s)
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            self._patience.failed()
            raise self._unreachable(error) from error
        self._patience.succeeded()
        if response.status_code == 200:
            return response.content
        raise _refusal(self._base, path, response.status_code)


def _refusal(base: str, path: str, status: int) -> CloudError:
    if status in (401, 403):
        return CloudRefused("invalid_api_key", f"{base} refused the API key; check --api-key")
    if status == 404:
        return CloudRefused(
            "no_pipesd", f"{base} is a server without the pipesd plugin; start it with 'pipesd serve'"
        )
    if status == 501:
        return CloudRefused("no_tokenizer", f"{base} cannot hand out its tokenizer; use its own OpenAI API")
    return CloudUnreachable(f"{base}{path} answered HTTP {status}")


def _bundle(data: bytes) -> TokenizerBundle:
    try:
        tokenizer = msgspec.json.decode(data, type=_Tokenizer)
    except msgspec.DecodeError as error:
        raise CloudMisbehaved(f"the server's tokenizer answer cannot be read: {error}") from error
    return TokenizerBundle(
        tokenizer.tokenizer_json,
        tokenizer.chat_template,
        tokenizer.special_tokens,
        tuple(tokenizer.eos_token_ids),
        tokenizer.content_format,
        tokenizer.template_variables,
    )


def _write_atomically(path: Path, data: bytes) -> None:
    """Keep a copy; a full or read-only disk only costs the copy."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError:
        return
