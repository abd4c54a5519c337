"""The plugin's routes on vLLM's API server: session WebSocket, info, tokenizer."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi import APIRouter, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from pipesd_vllm import compat
from pipesd_vllm.api.admission import OpenContexts, Tenant, TokenBucket
from pipesd_vllm.api.metrics import ServerMetrics
from pipesd_vllm.api.model_info import build_info, build_tokenizer, build_welcome
from pipesd_vllm.api.reasoning import reasoning_marks, reasoning_parser
from pipesd_vllm.api.service import SessionConnection
from pipesd_vllm.api.session_engine import SessionEngine
from pipesd_vllm.api.tenant import OpenConnections, cache_salt, new_secret
from pipesd_vllm.scheduling import Clock
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import (
    INFO_PATH,
    PROTOCOL_VERSION,
    SERVED_SUBPROTOCOLS,
    SESSION_PATH,
    TOKENIZER_PATH,
    CloseReason,
    Welcome,
)

if TYPE_CHECKING:
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient

router = APIRouter()

_RETRY_AFTER_S: Final = 5
_GONE: Final = (OSError, WebSocketDisconnect)
"""What sending raises while the upgrade is answered, if the client has left by then."""
_MAX_TENANTS: Final = 1024
"""Beyond it those without a connection are forgotten."""
_TOO_MANY: Final = {
    "server_full": "too many sessions; try again in some seconds",
    "key_full": "too many sessions with this API key (PIPESD_SERVER_KEY_SHARE); close some, or try again",
}


@dataclass
class PluginState:
    """State of the routes in one API server process; `of` builds it once the engine is up."""

    engine: EngineClient
    args: Namespace
    settings: ServerSettings
    metrics: ServerMetrics
    welcome: Welcome
    secret: bytes
    clock: Clock = time.perf_counter
    """Seconds, for what a frame costs."""
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    """An id for each turn's request."""
    kv_tokens: int | None = None
    """That fit the KV cache, this process' part of them; None: unknown."""

    def __post_init__(self) -> None:
        num_keys = num_api_keys(self.args)
        self.connections = OpenConnections(
            self.settings.max_sessions, self.settings.max_sessions_per_key(num_keys)
        )
        limit = self.kv_tokens and self.kv_tokens * self.settings.kv_share
        self.contexts = OpenContexts(limit, limit and limit * self.settings.share_per_key(num_keys))
        self._tenants: dict[str, Tenant] = {}
        self._tokenizer: dict[str, Any] | None = None
        self._info: dict[str, Any] | None = None

    @classmethod
    def of(cls, engine: EngineClient, args: Namespace) -> PluginState:
        """For `engine`, with the limits that the environment sets. Reads files of the target."""
        welcome = build_welcome(engine, args)
        kv_tokens = kv_cache_tokens(engine, args)
        settings, metrics = ServerSettings(), ServerMetrics()
        metrics.seats.set(engine.vllm_config.scheduler_config.max_num_seqs)
        return cls(engine, args, settings, metrics, welcome, new_secret(), kv_tokens=kv_tokens)

    def tenant(self, name: str) -> Tenant:
        """The limits of the tenant `name`, which has a connection."""
        if name not in self._tenants:
            if len(self._tenants) >= _MAX_TENANTS:
                kept = {known: own for known, own in self._tenants.items() if known in self.connections}
                self._tenants = kept
            per_s = self.settings.max_turns_s
            turns = TokenBucket(per_s, 2 * per_s, self.clock)
            self._tenants[name] = Tenant(name, self.contexts, turns, self._count_refusal)
        return self._tenants[name]

    def _count_refusal(self, reason: str) -> None:
        self.metrics.refused_turns.labels(reason).inc()

    async def info(self) -> dict[str, Any]:
        """Body of the info route; the reasoning parser is tried once."""
        if self._info is None:
            marks = await asyncio.to_thread(reasoning_marks, self.engine, self.args)
            defaults = self.engine.model_config.get_diff_sampling_param()
            self._info = build_info(self.welcome, reasoning_parser(self.engine), marks, defaults)
        return self._info

    async def tokenizer(self) -> dict[str, Any]:
        """Body of the tokenizer route, serialised once (some MB)."""
        if self._tokenizer is None:
            self._tokenizer = await asyncio.to_thread(build_tokenizer, self.engine, self.args)
        return self._tokenizer


class PipeSDEndpoint:
    """vLLM's `EndpointPlugin` protocol."""

    name = "pipesd"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes; vLLM's API-key middleware guards everything under `/v1`."""
        app.include_router(router)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Build the routes' state. Raises `RuntimeError` if scheduler or workers are not ours."""
        if engine_client is None:
            return
        if engine_client.vllm_config.speculative_config is None:
            raise RuntimeError(
                "the pipesd endpoint needs pipesd's scheduler and worker; start with 'pipesd serve'"
            )
        try:
            await engine_client.collective_rpc("verifies_drafts")
        except Exception as error:
            raise RuntimeError(
                "pipesd needs workers that verify drafts of edges: leave --worker-cls out, or derive it "
                "from pipesd_vllm.worker.draft_worker.VerifiesDrafts"
            ) from error
        compat.allow_min_p_and_logit_bias(engine_client)
        compat.put_under_handlers(state, SessionEngine(engine_client))
        state.pipesd = PluginState.of(engine_client, args)


def kv_cache_tokens(engine: EngineClient, args: Namespace) -> int | None:
    """Tokens that the KV cache holds, an API server process' equal part of them; None: unknown."""
    cache = engine.vllm_config.cache_config
    num_tokens = (cache.num_gpu_blocks or 0) * (cache.block_size or 0)
    return num_tokens // (getattr(args, "api_server_count", None) or 1) or None


def num_api_keys(args: Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """The number of keys that vLLM's server takes: those of `--api-key`, or else that of `VLLM_API_KEY`."""
    return len({key for key in (args.api_key or [environment.get("VLLM_API_KEY")]) if key})


def _state(connection: Request | WebSocket) -> PluginState:
    state: PluginState = connection.app.state.pipesd
    return state


@router.get(INFO_PATH)
async def info(request: Request) -> dict[str, Any]:
    """What an edge needs to know before it connects."""
    return await _state(request).info()


@router.get(TOKENIZER_PATH)
async def tokenizer(request: Request) -> JSONResponse:
    """The target's tokenizer.json, chat template and special tokens."""
    try:
        return JSONResponse(await _state(request).tokenizer())
    except ValueError as error:
        return JSONResponse({"error": {"message": str(error), "type": "not_supported"}}, status_code=501)


@router.websocket(SESSION_PATH)
async def session(websocket: WebSocket) -> None:
    """The session protocol (docs/protocol.md). A connection too many gets HTTP 429 in place of the upgrade.

    `OpenConnections` decides which one is too many.
    """
    state = _state(websocket)
    tenant = cache_salt(state.secret, websocket.headers.get("authorization"))
    refusal = state.connections.refusal(tenant)
    if refusal is not None:
        state.metrics.refused.labels(refusal).inc()
        with suppress(*_GONE):
            await websocket.send_denial_response(_too_many(refusal))
        return
    state.connections.enter(tenant)
    state.metrics.connections.inc()
    try:
        await _serve(websocket, state, tenant)
    finally:
        state.connections.leave(tenant)
        state.metrics.connections.dec()


def _too_many(refusal: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": _TOO_MANY[refusal], "type": "overloaded"}},
        status_code=429,
        headers={"Retry-After": str(_RETRY_AFTER_S)},
    )


async def _serve(websocket: WebSocket, state: PluginState, tenant: str) -> None:
    offered = websocket.scope.get("subprotocols", [])
    subprotocol = next((name for name in SERVED_SUBPROTOCOLS if name in offered), None)
    if subprotocol is None:
        state.metrics.closed.labels(str(CloseReason.BAD_VERSION)).inc()
        with suppress(*_GONE):
            await websocket.accept()
            await websocket.close(
                1008, f"{CloseReason.BAD_VERSION}: this server speaks version {PROTOCOL_VERSION}"
            )
        return
    try:
        await websocket.accept(subprotocol=subprotocol)
    except _GONE:
        return
    connection = SessionConnection(
        websocket,
        state.engine,
        msgspec.structs.replace(state.welcome, version=SERVED_SUBPROTOCOLS[subprotocol]),
        state.settings,
        state.metrics,
        tenant,
        clock=state.clock,
        new_id=state.new_id,
        tenant=state.tenant(tenant),
    )
    await connection.serve()
