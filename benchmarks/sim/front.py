"""A server on virtual time: uvicorn's protocols, vLLM's app with our routes, an engine. It can be killed."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from benchmarks.sim.engine import BLOCK_SIZE, EngineRecord, SimEngine, engine_config
from benchmarks.sim.lies import LyingServer
from benchmarks.sim.log import EventLog
from benchmarks.sim.network import SimNetwork
from benchmarks.sim.plan import ServerLies, ServerPlan
from pipesd_vllm import compat
from pipesd_vllm.api.endpoint import PluginState, router
from pipesd_vllm.api.metrics import ServerMetrics
from pipesd_vllm.api.model_info import build_welcome
from pipesd_vllm.api.session_engine import SessionEngine
from pipesd_vllm.settings import ServerSettings
from pipesd_vllm.wire import Welcome

__all__ = ["SimServer", "front_end"]

_SECRET = b"simulated" * 4
_NOBODYS_KEY = "nobody has this key"
_DYING_S = 0.5
"""From the engine's death to that of its API server."""
_TAKEN = "taken"


@cache
def front_end(number: int) -> FastAPI:
    """vLLM's own application with the plugin's routes, one for all runs: only its state changes.

    Must be called first outside of virtual time.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.renderers import renderer_from_config
    from vllm.v1.engine.input_processor import InputProcessor

    config = engine_config(16, 16)
    renderer = renderer_from_config(config)
    engine = Namespace(
        vllm_config=config,
        model_config=config.model_config,
        renderer=renderer,
        input_processor=InputProcessor(config, renderer),
    )
    args = compat.make_arg_parser().parse_args(["--model", config.model_config.model])
    app: FastAPI = build_app(args, ("generate",))
    app.include_router(router)
    asyncio.run(init_app_state(engine, app.state, args, ("generate",)))
    return app


@cache
def _welcome(max_num_seqs: int, max_draft: int) -> Welcome:
    """As the plugin builds it for the simulated model, whose files all targets share."""
    from vllm.renderers import renderer_from_config

    config = engine_config(max_num_seqs, max_draft)
    engine = Namespace(
        model_config=config.model_config, vllm_config=config, renderer=renderer_from_config(config)
    )
    return build_welcome(engine, _args("target", None))


def _args(target: str, api_key: str | None) -> Namespace:
    """vLLM's command line, as far as the plugin reads it."""
    return Namespace(
        model=target,
        served_model_name=[target],
        api_key=[api_key] if api_key else None,
        chat_template=None,
        chat_template_content_format="auto",
        default_chat_template_kwargs=None,
        tool_call_parser=None,
    )


class SimServer:
    """Server number `number` of a plan: an ASGI application on a listener of the network."""

    def __init__(
        self,
        number: int,
        plan: ServerPlan,
        network: SimNetwork,
        log: EventLog,
        new_id: Callable[[], str],
        lies: tuple[ServerLies, ...] = (),
    ) -> None:
        self._number = number
        self._plan = plan
        self._network = network
        self._log = log
        self._new_id = new_id
        self._loop = asyncio.get_running_loop()
        self._lies = lies
        self._guard: AuthenticationMiddleware | None = None
        self._stalls: list[tuple[float, float]] = []
        self._target = plan.target
        self.engines: list[SimEngine] = []
        """One for each start; the last one is in service."""
        self.errors: list[Exception] = []
        """What came out of the application."""
        self.state: PluginState
        self.app: Callable[..., Any]
        self.start()

    # -- life -----------------------------------------------------------------------------

    def start(self, target: str | None = None) -> None:
        """Start the processes, with another `target` or the one before."""
        plan = self._plan
        self._target = target or self._target
        engine = SimEngine(plan, self._target, self._log)
        compat.allow_min_p_and_logit_bias(engine)  # as `PipeSDEndpoint.init_state`
        engine.process.stalls = self._stalls
        self.engines.append(engine)
        self.state = self._state(engine)
        app = front_end(self._number)
        app.state.pipesd, app.state.server = self.state, Namespace(should_exit=False)
        compat.put_under_handlers(app.state, SessionEngine(engine))
        self._guard = AuthenticationMiddleware(app, [plan.api_key]) if plan.api_key else None
        self.app = LyingServer(self._answer, self._lies) if self._lies else self._answer
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            log_config=None,
            lifespan="off",
            http="httptools",
            access_log=False,
            proxy_headers=False,
        )
        config.load()
        shared = ServerState()
        self._network.listen(
            self._number, lambda: HttpToolsProtocol(config, shared, {}, self._loop), plan.service_s
        )
        self._log("up", self._number, self._target)

    def stop(self) -> None:
        """Kill the processes."""
        self._network.stop_listening(self._number)
        self.engine.stop()
        self._log("down", self._number)

    @property
    def is_up(self) -> bool:
        return self._network.is_listening(self._number)

    @property
    def engine(self) -> SimEngine:
        return self.engines[-1]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await (self._guard or front_end(self._number))(scope, receive, send)
        except Exception as error:  # uvicorn would log it
            self.errors.append(error)
            raise

    def _state(self, engine: SimEngine) -> PluginState:
        plan = self._plan
        welcome = _welcome(plan.max_num_seqs, plan.max_draft)
        identity = welcome.identity and msgspec.structs.replace(
            welcome.identity, weights=f"name:{self._target}"
        )
        settings = ServerSettings(
            max_sessions=plan.max_sessions,
            key_share=plan.key_share,
            suspend_after_s=plan.suspend_after_s,
            abandon_after_s=plan.abandon_after_s,
            send_timeout_s=plan.send_timeout_s,
            idle_timeout_s=plan.idle_timeout_s,
        )
        return PluginState(
            engine,
            _args(self._target, plan.api_key),
            settings,
            ServerMetrics(CollectorRegistry()),
            msgspec.structs.replace(welcome, model=self._target, identity=identity),
            _SECRET,
            clock=self._loop.time,
            new_id=self._new_id,
            kv_tokens=plan.num_blocks * BLOCK_SIZE,
        )

    # -- what befalls it ------------------------------------------------------------------

    def restart(self, down_s: float, target: str | None = None) -> None:
        """Kill the processes and start them again; nothing happens to a server that is down."""
        if self.is_up:
            self.stop()
            self._loop.call_later(down_s, self.start, target)

    def die(self, down_s: float) -> None:
        """The engine is killed, then the API server sees it and ends, then both come back."""
        if self.is_up and not self.engine.errored:
            self.engine.die()
            self._loop.call_later(_DYING_S, self.restart, down_s)

    def stall(self, start_s: float, end_s: float) -> None:
        """No step that begins within the time ends before `end_s`, of this engine or a later one."""
        self._stalls.append((start_s, end_s))

    def refuse_keys(self, for_s: float) -> None:
        """Answer HTTP 401 to whatever key for a while, or until a restart."""
        before = self._guard
        self._guard = guard = AuthenticationMiddleware(front_end(self._number), [_NOBODYS_KEY])

        def end() -> None:
            if self._guard is guard:
                self._guard = before

        self._loop.call_later(for_s, end)

    def fill(self, for_s: float) -> None:
        """All connections are taken for a while, or until a restart: HTTP 429."""
        connections = self.state.connections
        for _ in range(self._plan.max_sessions):
            connections.enter(_TAKEN)

        def end() -> None:
            for _ in range(self._plan.max_sessions):
                connections.leave(_TAKEN)

        self._loop.call_later(for_s, end)

    # -- what it did ----------------------------------------------------------------------

    def records(self) -> list[EngineRecord]:
        """Of all its engines."""
        return [engine.process.record for engine in self.engines]

    def failures(self) -> list[BaseException]:
        """What came out of the application, and what engines died of that nobody killed."""
        return self.errors + [failure for engine in self.engines if (failure := engine.failure()) is not None]

    def background_tasks(self) -> set[asyncio.Task[Any]]:
        """Those that a server has as long as it lives."""
        tasks: set[asyncio.Task[Any]] = {engine.process.task for engine in self.engines}
        handlers = (engine.output_handler for engine in self.engines)
        return tasks.union(handler for handler in handlers if handler is not None)
